"""The record's recipes on one GPU, with a large batch and many epochs, each in at most four minutes.

python experiments/record/gpu.py OUT                           # kagl_adapt and kagl_transfer, seed 0
python experiments/record/gpu.py OUT --recipes kagl_adapt --seeds 0 1 2
python experiments/record/gpu.py OUT --device cpu --quick      # rehearses both on a few products

MODISTE_DATA is the folder of the data, or what benchmarks/pack_kagl.py wrote. Results go to OUT/<recipe>_<seed>.json.
Where the data set of an evaluation is missing, the command that makes it is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LARGE = {
    # AdamW: the learning rate grows as the root of the batch (arXiv:2205.10287).
    "kagl_adapt": ["data.batch_size=2048", "optim.lr=2.8e-3", "trainer.max_epochs=30"],
    "kagl_transfer": ["data.batch_size=1024", "optim.lr=2.0e-3", "trainer.max_epochs=12"],
}
EVALUATIONS = {
    "kagl_adapt": ("marqo-kagl", ["data=kagl", "data/split=marqo", "task=[marqo]"], "kagl.test.marqo"),
    "kagl_transfer": ("fashion-mnist", ["data=fashion_mnist", "task=[zeroshot]"], "fashion_mnist.test.zeroshot"),
}
QUICK = ["data.batch_size=32", "data.limit=64", "trainer.max_epochs=1", "trainer.limit_val_batches=1"]
QUICK += ["monitor.metric=val/loss", "monitor.mode=min", "features.cache=false"]


def modiste(*arguments: str) -> list[str]:
    """A command line of Modiste."""
    return [sys.executable, "-m", "modiste", *arguments]


def measure(recipe: str, seed: int, out: Path, device: str, quick: bool) -> None:
    """Train with a seed and evaluate, and keep the result's metrics and the seconds of the training."""
    run = out / f"{recipe}_{seed}_run"
    trainer = ["trainer=gpu"] if device == "cuda" else ["trainer=cpu"]
    start = time.perf_counter()
    given = [*trainer, *LARGE[recipe], *(QUICK if quick else []), f"seed={seed}", f"hydra.run.dir={run}"]
    subprocess.run(modiste("train", f"experiment={recipe}", *given), check=True)
    seconds = round(time.perf_counter() - start, 1)
    folder, overrides, result = EVALUATIONS[recipe]
    evaluate = modiste("evaluate", f"run={run}", *overrides, f"device={device}")
    if quick or not (Path(os.environ.get("MODISTE_DATA", "data")) / folder).is_dir():
        print(f"{recipe}, seed {seed}: trained in {seconds:.0f} s. Evaluate it: modiste {' '.join(evaluate[3:])}")
        return
    subprocess.run(evaluate, check=True)
    metrics = json.loads((run / "results" / f"{result}.json").read_text(encoding="utf-8"))["metrics"]
    content = {"recipe": recipe, "seed": seed, "overrides": given, "seconds": seconds, "metrics": metrics}
    (out / f"{recipe}_{seed}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure every recipe with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=[*LARGE], default=[*LARGE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="a few products, one epoch: only to see that it runs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for recipe in chosen.recipes:
        for seed in chosen.seeds:
            measure(recipe, seed, chosen.out, chosen.device, chosen.quick)


if __name__ == "__main__":
    main()
