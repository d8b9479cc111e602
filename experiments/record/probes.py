"""What was tried to improve `kagl_general`: python experiments/record/probes.py; with --tables, only the table.

Every probe is half an epoch of the recipe with other overrides, and seed 0; all are evaluated on validation parts of
the domains (suite=general_val). What has a result in ``measured/general_probes.json`` is not trained again.
MODISTE_DATA says where the data sets are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from record import HERE, MEASURED, average, fill, interval, is_trained, modiste, table

from modiste.config import compose

RESULTS = MEASURED / "general_probes.json"
RUNS = Path("runs/probes")
RECIPE = ["experiment=kagl_general", "trainer.max_epochs=1", "trainer.limit_train_batches=0.5",
          "monitor.metric=val/retrieval/t2i/mrr", "monitor.mean=[]", "trainer.precision=32-true",
          "callbacks.samples=null"]  # fmt: skip
# The sets are evaluated once, after training.
ALONE = [f"~transfer.{name}" for name in ("held_out", "thumbnails", "scenes", "cutouts", "street", "synthetic")]
MORE = [f"init={RUNS / 'recipe'}", "optim.lr=5e-4"]
MEMBERS = (1, 2, 3)
DOMAINS = {
    "KAGL, t2i MRR": ("kagl.val.retrieval", "t2i/mrr"),
    "held-out types": ("kagl.val_held_out.zeroshot", "articleType/weighted_f1"),
    "thumbnails": ("kagl.val.zeroshot.thumbnails", "garment/weighted_f1"),
    "scenes": ("kagl.val.zeroshot.scenes", "garment/weighted_f1"),
    "CCP, cut out": ("ccp_garments.val.zeroshot", "garment/weighted_f1"),
    "CCP, whole, mAP": ("ccp.val.attributes", "parts/map"),
    "synthetic": ("synthetic.val.zeroshot", "category/weighted_f1"),
}


def run_of(name: str) -> Path:
    """The run directory of a probe."""
    return RUNS / name


def silhouettes(config: DictConfig) -> None:
    """Half of the grey thumbnails are made of silhouettes or edges."""
    choice = next(step for step in config.data.augment if step._target_.endswith("RandomChoice"))
    drawn = {"_target_": "modiste.data.scenes.Silhouette", "p": 0.5}
    choice.transforms[2] = {
        "_target_": "torchvision.transforms.v2.Compose",
        "transforms": [drawn, OmegaConf.to_container(choice.transforms[2])],
    }


def distilled() -> list[str]:
    """Image embeddings near those of each member, whose texts are embedded alike."""
    terms = [
        f"+term.member_{seed}={{_target_: modiste.terms.distill.Distill, teacher: {run_of(f'member_{seed}')}, "
        f"similarities: 0.0, image_features: {1 / len(MEMBERS):.3f}}}"
        for seed in MEMBERS
    ]
    return [*terms, *MORE]


PROBES: dict[str, list[str]] = {
    "recipe": [],
    "lite1": ["image.variant=lite1"],
    "lite2": ["image.variant=lite2"],
    "silhouettes": [],
    **{f"member_{seed}": [f"seed={seed}", *MORE] for seed in MEMBERS},
    "distilled": distilled(),
}
CHANGES: dict[str, Callable[[DictConfig], None]] = {"silhouettes": silhouettes}
SHOWN = {
    "recipe": "the recipe",
    "lite1": "EfficientNet-Lite1",
    "lite2": "EfficientNet-Lite2",
    "silhouettes": "half of the thumbnails are silhouettes or edges",
    **{f"member_{seed}": f"the recipe, then another half, seed {seed}" for seed in MEMBERS},
    "soup": "… weights of these three averaged",
    "distilled": "… another half towards the images of these three",
}


def train(name: str) -> None:
    """Train a probe that has no run yet."""
    import modiste as library

    if is_trained(run_of(name)):
        return
    if set(MORE) <= set(PROBES[name]):
        train("recipe")
    config = compose("train", [*RECIPE, *ALONE, *PROBES[name], f"run_dir={run_of(name)}"])
    CHANGES.get(name, lambda _: None)(config)
    library.train(config)


def measure(name: str) -> dict[str, Any]:
    """Train and evaluate a probe: its overrides, the minutes of training, and the metric of each domain."""
    run = run_of(name)
    if name == "soup":
        average([run_of(f"member_{seed}") for seed in MEMBERS], run, RUNS / "pair")
    else:
        train(name)
    modiste("evaluate", f"run={run}", "suite=general_val")
    metrics = {
        domain: json.loads((run / "results" / f"{file}.json").read_text())["metrics"][metric]
        for domain, (file, metric) in DOMAINS.items()
    }
    cost = run / "cost.json"
    seconds = json.loads(cost.read_text())["seconds"] if cost.is_file() else None
    return {"overrides": PROBES.get(name, []), "seconds": seconds, "metrics": metrics}


def found() -> dict[str, Any]:
    """Probe → what was measured."""
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def probes() -> str:
    """A row per probe with the intervals of each domain."""
    rows = []
    for name, measured in found().items():
        seconds = measured["seconds"]
        cells = [interval(measured["metrics"][domain]) for domain in DOMAINS]
        rows.append([SHOWN[name], *cells, f"{seconds / 60:.0f} min" if seconds else "—"])
    return table(["half an epoch, validation", *DOMAINS, "training"], rows)


def main(arguments: list[str]) -> None:
    """What is missing, or the probes that are named; then the table."""
    if unknown := [name for name in arguments if name not in SHOWN and arguments != ["--tables"]]:
        raise SystemExit(f"probes.py takes --tables or names of {', '.join(SHOWN)}, not {' '.join(unknown)}.")
    if arguments != ["--tables"]:
        for name in arguments or SHOWN:
            if name not in found():
                RESULTS.write_text(json.dumps({**found(), name: measure(name)}, indent=1) + "\n")
    fill(HERE / "README.md", {"general probes": probes()})


if __name__ == "__main__":
    main(sys.argv[1:])
