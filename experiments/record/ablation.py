"""What each part of a recipe is worth on KAGL: python experiments/record/ablation.py [TABLE ...]

Every variant of a table is its baseline but for the overrides named here, with three seeds; what is measured is KAGL's
validation split. The difference to the baseline is the mean over the seeds, its interval the paired bootstrap over
queries of the values averaged over the seeds. Training runs share one process, one catalogue and the cached features;
what was measured with the same overrides, in whatever table, is not retrained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from modiste.config import compose
from modiste.config.invocation import Invocation
from modiste.data.build import identity, load
from modiste.data.catalogue import Catalogue
from modiste.metrics.comparison import compare
from modiste.training.fit import train

HERE = Path(__file__).parent
RESULTS = HERE / "ablation.json"
SEEDS = (0, 1, 2)
RUNS = Path("runs/ablation")
METRIC = "t2i/mrr"
METRICS = (METRIC, "t2i/recall@10")
# Titles search in every table, whatever the captions of training.
MEASURED = ["task=[retrieval]", 'task.retrieval.template="{text}"',
            "monitor.metric=val/retrieval/t2i/mrr"]  # fmt: skip

COMMON = [
    "image=lite", "text=minilm", "data=kagl", "data/split=marqo", "optim=finetune", "text.max_length=24",
    "model.embed_dim=384", "image.resize=pad", "image.autocast=false", "features.cache=true",
    "optim.tower_lr={image: 0.5, text: 1.0}", "optim.layer_decay=1.0", "optim.lr=1e-3",
    "tune.text={train: last_n, layers: 1}", "data.batch_size=256", "callbacks.recent=null", "callbacks.cost=null",
    "callbacks.samples=null", "callbacks.early_stopping=null", "callbacks.progress=null",
]  # fmt: skip
# Both trunks frozen, their features computed once: the projections learn from all training pairs.
HEADS = [*COMMON, "image.size=80", "tune.image={train: last_n, layers: 1}", "optim.tower_lr.image=1.0",
         "trainer.max_epochs=8", "trainer.check_val_every_n_epoch=8"]  # fmt: skip
# Images trained, at a size and number that this machine affords three times.
TRAINED = [*COMMON, "image.size=48", "tune.image={train: last_n, layers: 12}", "data.limit=6000",
           "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=3"]  # fmt: skip

ATTRIBUTES = '["a photo of a {baseColour} {articleType}","{gender} {baseColour} {articleType} {season} {usage}"]'
MIXTURE = '["{text}","a photo of a {baseColour} {articleType}","{gender} {baseColour} {articleType} {season} {usage}"]'
FIELDS = [
    '+data.fields.title={template: "{text}"}',
    *(
        f'+data.fields.{name}={{template: "{{{name}}}", weight: 0.1}}'
        for name in ("baseColour", "articleType", "gender")
    ),
]
FLIP = "{_target_: torchvision.transforms.v2.RandomHorizontalFlip}"
AFFINE = "{_target_: torchvision.transforms.v2.RandomAffine, degrees: 5, scale: [0.9, 1.1], fill: 255}"
GREY = "{_target_: torchvision.transforms.v2.RandomGrayscale, p: 0.3}"
THUMBNAIL = "{_target_: modiste.data.augment.Thumbnail, p: 0.5}"


def batch(size: int) -> list[str]:
    """A batch of micro-batches of 256, its learning rate scaled by the root of its size."""
    return [f"data.batch_size={size}", "grad_cache.micro_batch=256", f"optim.lr={1e-3 * (size / 256) ** 0.5:.2e}"]


# Table → its baseline, and variants (the first is the baseline itself).
TABLES: dict[str, tuple[list[str], dict[str, list[str]]]] = {
    "loss": (HEADS, {
        "clip": [],
        "siglip": ["loss=siglip"],
        # With clip the gradient is the same (see `modiste.losses.clip.ClipLoss`): one row shows it.
        "clip, positives by caption": ["data.positives=caption"],
        "siglip, positives by caption": ["loss=siglip", "data.positives=caption"],
        "clip, soft labels": ["term=soft_labels"],
        "gcl, title and three attributes": ["loss=gcl", "loss.fused=0", *FIELDS],
    }),
    "captions": (HEADS, {
        "titles": [],
        "attributes": [f"data.captions.templates={ATTRIBUTES}", "data.positives=caption"],
        "mixture, half of them titles": [f"data.captions.templates={MIXTURE}", "data.captions.weights=[0.5,0.25,0.25]",
                                         "data.positives=caption"],
    }),
    "batch": (HEADS, {f"{size:,}": batch(size) if size > 256 else [] for size in (256, 1024, 4096, 16384)}),
    "ema": (HEADS, {
        "none": [],
        "decay 0.99": ["callbacks=[default,ema]", "callbacks.ema.decay=0.99"],
        "decay 0.999": ["callbacks=[default,ema]", "callbacks.ema.decay=0.999"],
    }),
    "depth": (TRAINED, {
        "last 12 of 18 layer groups": [],
        "projection only": ["tune.image.layers=1", "optim.tower_lr.image=1.0"],
        "last 6": ["tune.image.layers=6"],
        "full": ["tune.image={train: full}"],
    }),
    "augmentation": (TRAINED, {
        "none": [],
        "flip, affine": [f"data.augment=[{FLIP},{AFFINE}]"],
        "flip, affine, grey (0.3)": [f"data.augment=[{FLIP},{AFFINE},{GREY}]"],
        "flip, affine, thumbnail (0.5)": [f"data.augment=[{FLIP},{THUMBNAIL},{AFFINE}]"],
    }),
}  # fmt: skip

catalogues: dict[str, Catalogue] = {}


def measure(overrides: list[str], seed: int) -> dict[str, np.ndarray]:
    """Train with these overrides, unless that was done; the values of `METRICS`, query by query."""
    given = [*overrides, f"seed={seed}", *MEASURED]
    place = RUNS / hashlib.sha256(json.dumps(given).encode()).hexdigest()[:16]
    if (place / "values.npz").is_file():
        return dict(np.load(place / "values.npz"))
    shutil.rmtree(place, ignore_errors=True)
    cfg = compose("train", [*given, f"run_dir={place}"])
    key = identity(cfg.data)
    if key not in catalogues:
        catalogues[key] = load(cfg.data)
    module: Any = train(
        cfg, catalogue=catalogues[key], line=Invocation(overrides=tuple(given)), report=False
    ).trainer.lightning_module
    result = module.results["retrieval"]
    values = {name: np.asarray(result.per_query[name], dtype=np.float64) for name in METRICS}
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    np.savez_compressed(place / "values.npz", **values)
    return values


def summary(seeds: list[dict[str, np.ndarray]], baseline: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Of one variant: a value per seed, mean and s.d. of each metric, and the difference to the baseline."""
    found: dict[str, Any] = {}
    for name in seeds[0]:
        values = [float(seed[name].mean()) for seed in seeds]
        found[name] = {"seeds": values, "mean": statistics.mean(values), "sd": statistics.stdev(values)}
    if seeds is not baseline:
        mine, theirs = ({METRIC: np.mean([s[METRIC] for s in runs], axis=0)} for runs in (seeds, baseline))
        difference = compare(mine, theirs)[METRIC]
        found["difference"] = {name: getattr(difference, name) for name in ("difference", "low", "high", "p", "n")}
    return found


def stated(measured: dict[str, Any] | None) -> tuple[list[str], dict[str, list[str]]] | None:
    """Baseline and variants that a table of ``ablation.json`` was measured with."""
    if measured is None:
        return None
    return measured["baseline"], {name: found["overrides"] for name, found in measured["variants"].items()}


def main(chosen: list[str]) -> None:
    """Measure the tables that are chosen, all of them by default, and write ``ablation.json`` after each."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for table in chosen or TABLES:
        base, variants = TABLES[table]
        if stated(results.get(table)) == (base, variants):
            continue
        measured: dict[str, list[dict[str, np.ndarray]]] = {}
        for variant, overrides in variants.items():
            measured[variant] = [measure([*base, *overrides], seed) for seed in SEEDS]
            print(table, variant, [round(float(seed[METRIC].mean()), 4) for seed in measured[variant]], flush=True)
        baseline = next(iter(measured.values()))
        results[table] = {
            "baseline": base,
            "variants": {
                name: {"overrides": variants[name], **summary(seeds, baseline)} for name, seeds in measured.items()
            },
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
