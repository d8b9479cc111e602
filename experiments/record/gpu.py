"""The record's recipes on one GPU, with a large batch and many epochs, each in at most four minutes.

python experiments/record/gpu.py                               # kagl_adapt and kagl_transfer, seed 0
python experiments/record/gpu.py --recipes kagl_adapt --seeds 0 1 2
python experiments/record/gpu.py --device cpu --quick --out DIR  # rehearses both on a few products
python experiments/record/record.py --tables                   # the results as rows of README.md

MODISTE_DATA is the folder of the data, or what benchmarks/pack_kagl.py wrote. Results go to results/, runs to runs/.
Where the data set of an evaluation is missing, the command that makes it is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "measured"
KAGL = "fashion-product-images-small.zip"
QUICK = ["data.batch_size=32", "data.limit=64", "trainer.max_epochs=1", "trainer.limit_val_batches=1"]
QUICK += ["monitor.metric=val/loss", "features.cache=false"]
LIMIT = "00:00:03:45"  # of fit: imports and the last validation come on top


@dataclass(frozen=True)
class Large:
    """A recipe with the batch and the epochs of a GPU.

    AdamW: the learning rate grows as the root of the batch (arXiv:2205.10287).

    Attributes:
        batch: Global batch.
        lr: Learning rate.
        epochs: Number of epochs.
        data: Folder or file that the evaluation reads.
        evaluation: What `modiste evaluate run=` is told.
        result: Name of the result, without ``.json``.
    """

    batch: int
    lr: float
    epochs: int
    data: str
    evaluation: tuple[str, ...]
    result: str

    @property
    def overrides(self) -> list[str]:
        return [f"data.batch_size={self.batch}", f"optim.lr={self.lr:g}", f"trainer.max_epochs={self.epochs}"]


RECIPES = {
    "kagl_adapt": Large(
        2048, 2.8e-3, 30, "marqo-kagl", ("data=kagl", "data/split=marqo", "task=[marqo]"), "kagl.test.marqo"
    ),
    "kagl_transfer": Large(
        1024, 2e-3, 12, "fashion-mnist", ("data=fashion_mnist", "task=[zeroshot]"), "fashion_mnist.test.zeroshot"
    ),
}


def found(recipe: str) -> list[dict[str, Any]]:
    """The results of a recipe on a GPU, by seed."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob(f"gpu_{recipe}_*.json"))]


def modiste(*arguments: str) -> list[str]:
    """A command line of Modiste."""
    return [sys.executable, "-m", "modiste", *arguments]


def measure(recipe: str, seed: int, out: Path, device: str, quick: bool) -> None:
    """Train with a seed and evaluate; keep the result's metrics, the seconds of the training run and the card."""
    large, run = RECIPES[recipe], Path(f"runs/gpu_{recipe}_{seed}")
    trainer = ["trainer=gpu", f"+trainer.max_time='{LIMIT}'"] if device == "cuda" else ["trainer=cpu"]
    given = [*trainer, *large.overrides, *(QUICK if quick else []), f"seed={seed}"]
    start = time.perf_counter()
    subprocess.run(modiste("train", f"experiment={recipe}", *given, f"hydra.run.dir={run}"), check=True)
    seconds = round(time.perf_counter() - start, 1)
    evaluate = modiste("evaluate", f"run={run}", *large.evaluation, f"device={device}")
    data = Path(os.environ.get("MODISTE_DATA", "data"))
    if quick or not (data / large.data).is_dir():
        print(f"{recipe}, seed {seed}: trained in {seconds:.0f} s. Evaluate it: modiste {' '.join(evaluate[3:])}")
        return
    subprocess.run(evaluate, check=True)
    content = {
        "recipe": recipe,
        "seed": seed,
        "overrides": given,
        "images": images(data / KAGL),
        "seconds": seconds,
        "accelerators": json.loads((run / "environment.json").read_text(encoding="utf-8"))["accelerators"],
        "metrics": json.loads((run / "results" / f"{large.result}.json").read_text(encoding="utf-8"))["metrics"],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"gpu_{recipe}_{seed}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def images(archive: Path) -> str:
    """What benchmarks/pack_kagl.py did to the images, which the zip's comment says."""
    if not archive.is_file():
        return "as published"
    with zipfile.ZipFile(archive) as file:
        return file.comment.decode() or "as published"


def main() -> None:
    """Measure every recipe with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="a few products, one epoch: only to see that it runs")
    chosen = parser.parse_args()
    for recipe in chosen.recipes:
        for seed in chosen.seeds:
            measure(recipe, seed, chosen.out, chosen.device, chosen.quick)


if __name__ == "__main__":
    main()
