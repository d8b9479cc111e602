"""One model on several domains: python experiments/record/general.py; with --tables, only the table of what was run.

Trains `kagl_general` with each seed that has no result yet, evaluates it on all domains (suite=general), and writes the
table between the markers of this folder's README. MODISTE_DATA says where the data sets are.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from record import HERE, MEASURED, SEEDS, figure, fill, interval, modiste, spread, table, train

RECIPE = "kagl_general"
KEPT = ("task", "data", "split", "metrics", "counts", "tables", "model", "data_fingerprint", "seed", "command")
# What a row shows: the result of suite=general, and its metric.
DOMAINS = {
    "Fashion-MNIST, weighted F1": ("fashion_mnist.test.zeroshot", "category/weighted_f1"),
    "CCP's garments, cut out, weighted F1": ("ccp_garments.test.zeroshot", "garment/weighted_f1"),
    "CCP's garments, in their photos, weighted F1": ("ccp_garments.test.zeroshot.photo", "garment/weighted_f1"),
    "CCP's photos by what is worn, mAP": ("ccp.test.attributes", "parts/map"),
    "synthetic garments, types, weighted F1": ("synthetic.test.zeroshot", "category/weighted_f1"),
    "synthetic garments, colours, weighted F1": ("synthetic.test.zeroshot", "colour/weighted_f1"),
    "KAGL, types held out of training, weighted F1": ("kagl.test_held_out.zeroshot", "articleType/weighted_f1"),
    "KAGL, titles to images, MRR": ("kagl.test.retrieval", "t2i/mrr"),
}


def run_of(seed: int) -> Path:
    """The run directory of a seed."""
    return Path(f"runs/general_{seed}")


def file_of(seed: int) -> Path:
    """Where the record keeps the metrics of a seed, by domain."""
    return MEASURED / f"general_{seed}.json"


def measure(seed: int) -> None:
    """Train (or resume) and evaluate on all domains."""
    run = run_of(seed)
    train(run, f"experiment={RECIPE}", f"seed={seed}")
    modiste("evaluate", f"run={run}", "suite=general")
    keep(run, seed)


def keep(run: Path, seed: int) -> None:
    """Keep the metrics by domain, the cost of training, and what each criterion would have selected."""
    kept = {}
    for name in dict.fromkeys(name for name, _ in DOMAINS.values()):
        content = json.loads((run / "results" / f"{name}.json").read_text())
        kept[name] = {key: content[key] for key in KEPT}
    file_of(seed).write_text(json.dumps(kept, indent=1) + "\n")
    for name in ("cost", "selection"):
        shutil.copy(run / f"{name}.json", MEASURED / f"general_{seed}.{name}.json")


def domains() -> str:
    """A row per domain, a column per seed with intervals, and mean ± s.d. over several."""
    found: dict[int, Any] = {s: json.loads(file_of(s).read_text()) for s in SEEDS if file_of(s).is_file()}
    rows = []
    for domain, (name, metric) in DOMAINS.items():
        values = [content[name]["metrics"][metric] for content in found.values()]
        numbers = [value["value"] for value in values]
        together = [f"{figure(statistics.mean(numbers))} ± {spread(numbers)}"] if len(numbers) > 1 else []
        rows.append([domain, *map(interval, values), *together])
    summary = [f"mean ± s.d. of {len(found)} seeds"] if len(found) > 1 else []
    return table(["", *(f"`{RECIPE}`, seed {seed}" for seed in found), *summary], rows)


def main(arguments: list[str]) -> None:
    """Everything that is missing, then the table."""
    if arguments not in ([], ["--tables"]):
        raise SystemExit(f"general.py takes --tables or nothing, not {' '.join(arguments)}.")
    if not arguments:
        for seed in SEEDS:
            if not file_of(seed).is_file():
                measure(seed)
    fill(HERE / "README.md", {"general": domains()})


if __name__ == "__main__":
    main(sys.argv[1:])
