"""One model on several domains: python experiments/record/general.py; with --tables, only the table of what was run.

Trains `kagl_general` with each seed that has no result yet, averages the weights of the seeds, evaluates them on all
domains (suite=general), with the first seed of the other recipes that the record has a run of, and writes the table
between markers of this folder's README.
MODISTE_DATA says where the data sets are.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from record import (
    ADAPTATION,
    HERE,
    MEASURED,
    SEEDS,
    TRANSFER,
    Study,
    average,
    figure,
    fill,
    interval,
    is_trained,
    modiste,
    spread,
    table,
    train,
)

GENERAL = Study("general", "kagl_general", ("suite=general",), "general")
SOUP = Study("general_soup", "kagl_general", GENERAL.evaluation, GENERAL.result)
OTHERS = (TRANSFER, ADAPTATION)
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


def file_of(study: Study, seed: int) -> Path:
    """Where the record keeps the metrics of a run, by domain."""
    return MEASURED / f"{study.name}_{seed}.domains.json"


def measure(study: Study, seed: int) -> None:
    """Evaluate a run on all domains, and keep the metrics of those that it has."""
    run, kept = study.run(seed), {}
    modiste("evaluate", f"run={run}", *GENERAL.evaluation)
    for name in dict.fromkeys(name for name, _ in DOMAINS.values()):
        path = run / "results" / f"{name}.json"
        if path.is_file():  # other recipes hold no types out of training
            content = json.loads(path.read_text())
            kept[name] = {key: content[key] for key in KEPT}
    file_of(study, seed).write_text(json.dumps(kept, indent=1) + "\n")


def train_and_measure(seed: int) -> None:
    """Train (or resume) and evaluate; keep the cost of training and what each criterion would have selected."""
    run = GENERAL.run(seed)
    train(run, f"experiment={GENERAL.recipe}", f"seed={seed}")
    measure(GENERAL, seed)
    for name in ("cost", "selection"):
        shutil.copy(run / f"{name}.json", MEASURED / f"general_{seed}.{name}.json")


def found(study: Study) -> dict[int, Any]:
    """Seed → metrics by domain, of the runs that were measured."""
    return {s: json.loads(file_of(study, s).read_text()) for s in SEEDS if file_of(study, s).is_file()}


def domains() -> str:
    """A row per domain, a column per seed with intervals, mean ± s.d. over several, and the other recipes."""
    own = found(GENERAL)
    others = {f"`{study.recipe}`, seed {seed}": content for study in OTHERS for seed, content in found(study).items()}
    if averaged := found(SOUP).get(0):
        others = {"weights of these averaged": averaged, **others}
    rows = []
    for domain, (name, metric) in DOMAINS.items():
        values = [content[name]["metrics"][metric] for content in own.values()]
        numbers = [value["value"] for value in values]
        together = [f"{figure(statistics.mean(numbers))} ± {spread(numbers)}"] if len(numbers) > 1 else []
        beside = [interval(c[name]["metrics"][metric]) if name in c else "—" for c in others.values()]
        rows.append([domain, *map(interval, values), *together, *beside])
    summary = [f"mean ± s.d. of {len(own)} seeds"] if len(own) > 1 else []
    seeds = [f"`{GENERAL.recipe}`, seed {seed}" for seed in own]
    return table(["", *seeds, *summary, *others], rows)


def main(arguments: list[str]) -> None:
    """Everything that is missing, then the table."""
    if arguments not in ([], ["--tables"]):
        raise SystemExit(f"general.py takes --tables or nothing, not {' '.join(arguments)}.")
    if not arguments:
        for seed in SEEDS:
            if not file_of(GENERAL, seed).is_file():
                train_and_measure(seed)
        if not found(SOUP):
            average([GENERAL.run(seed) for seed in SEEDS], SOUP.run(0), Path("runs/general_pair"))
            measure(SOUP, 0)
        for study in OTHERS:
            seeds = [seed for seed in SEEDS if is_trained(study.run(seed))]
            if seeds and not found(study):
                measure(study, seeds[0])
    fill(HERE / "README.md", {"general": domains()})


if __name__ == "__main__":
    main(sys.argv[1:])
