"""Grounding of every recipe: python experiments/grounding/grounding.py; with --tables, only the tables; with names of
recipes and data sets, or ``retrieval``, only those are measured.

Evaluates the runs ``runs/<recipe>_<seed>`` that exist on all data sets, averages the values of each pair over a
recipe's seeds, bootstraps photos, keeps that in ``pooled/<recipe>.<data>.json``, and writes the tables between the
markers of this folder's README. MODISTE_DATA says where CCP is. Recipes without a run are rows of "—".
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modiste.metrics.intervals import bootstrap_clusters
from modiste.reporting.tables.sheets import formatted_table
from modiste.tasks.grounding import DECISIVE, MACRO

HERE = Path(__file__).parent
RESULTS = HERE / "pooled"
SEEDS = (0, 1, 2)
DATA = {"ccp": "ccp", "scenes": "synthetic_scenes", "synthetic": "synthetic"}
"""Choice of ``data=`` → the name in results."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Recipe:
    """A row of the tables.

    Attributes:
        name: Of its runs, ``runs/<name>_<seed>``, and of the row.
        runs: Former names of its runs, as `experiments/record` has them.
        weak: Whether it saw which garments CCP's other half shows.
    """

    name: str
    runs: tuple[str, ...] = ()
    weak: bool = False

    def run(self, seed: int) -> Path | None:
        """The run directory of a seed, where there is one."""
        names = [Path(f"runs/{name}_{seed}") for name in (self.name, *self.runs)]
        return next((path for path in names if (path / "checkpoints").is_dir()), None)

    def file(self, data: str) -> Path:
        """Where the pooled result is kept."""
        return RESULTS / f"{self.name}.{data}.json"

    def found(self, data: str) -> dict[str, Any] | None:
        """The pooled result; None where nothing was measured."""
        return json.loads(self.file(data).read_text()) if self.file(data).is_file() else None


RECIPES = (
    Recipe("kagl_lite"),
    Recipe("kagl_adapt", ("adapt",)),
    Recipe("kagl_transfer", ("transfer",)),
    Recipe("kagl_ground"),
    Recipe("kagl_ground_tags", weak=True),
    Recipe("synthetic_ground"),
)
METHODS = ("patches", "cam")
SKIPPED = "task.grounding.skip=[gradcam,occlusion]"  # each costs more than the two methods that share patch features
SCORES = {
    "pointing": "pointing",
    "macro": f"{MACRO}pointing",
    "IoU": "iou",
    "pixel AP": "pixel_ap",
    "box IoU": "box_iou",
}
WITHOUT = "no_regions"
RETRIEVAL = ("t2i/mrr", "t2i/hit_rate@1", "t2i/hit_rate@10", "i2t/mrr")
OTHERS = ("wrong_phrase", "absent_phrase", "other_photo")
COLUMNS = 9
"""Of the table of controls, without recipe and method."""
BASELINES = {"centre": "centred blob", "foreground": "true foreground", "prior": "position prior"}


def measure(recipe: Recipe, data: str) -> None:
    """Evaluate the runs of a recipe that exist, and keep their pooled result."""
    runs = {seed: run for seed in SEEDS if (run := recipe.run(seed)) is not None}
    if not runs:
        return
    results, values = {}, {}
    for seed, run in runs.items():
        modiste("evaluate", f"run={run}", f"data={data}", "split=test", "task=[grounding]", SKIPPED)
        file = run / "results" / f"{DATA[data]}.test.grounding.json"
        results[seed] = json.loads(file.read_text())
        with np.load(file.with_suffix(".npz")) as stored:
            values[seed] = dict(stored)
    RESULTS.mkdir(exist_ok=True)
    content = pooled(list(values.values())) | {
        "recipe": recipe.name,
        "data": data,
        "split": "test",
        "seeds": list(runs),
        "by_seed": {
            name: [result["metrics"][name]["value"] for result in results.values()]
            for name in results[next(iter(runs))]["metrics"]
        },
        "counts": results[next(iter(runs))]["counts"],
        "protocol": results[next(iter(runs))]["protocol"],
        "models": [result["model"]["fingerprint"] for result in results.values()],
    }
    recipe.file(data).write_text(json.dumps(content, indent=1) + "\n")


def pooled(seeds: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Micro and macro averages of the mean over seeds of each pair's values, photos resampled."""
    photos, phrases = seeds[0]["cluster"], seeds[0]["phrase"]
    if not all(np.array_equal(other[name], seeds[0][name]) for other in seeds for name in ("cluster", "phrase")):
        raise SystemExit("The seeds were evaluated on different pairs: evaluate them again.")
    names = [name for name in seeds[0] if name not in ("cluster", "phrase")]
    means = {name: np.mean([values[name] for values in seeds], axis=0) for name in names}
    differences = [name for name in means if "/gain_over_" in name]
    micro, macro = (bootstrap_clusters(means, photos, kinds, RESAMPLES, 0, differences) for kinds in (None, phrases))
    found = {name: asdict(interval) for name, interval in micro.items()}
    for name, interval in macro.items():
        part, _, metric = name.rpartition("/")
        found[f"{part}/{MACRO}{metric}"] = asdict(interval)
    return {"metrics": found, "resamples": RESAMPLES}


def modiste(*arguments: str) -> None:
    """Run a command of the project, as a user does."""
    print("modiste", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "modiste", *arguments], check=True)


def interval(found: dict[str, Any], name: str, signed: bool = False) -> str:
    """A value with its interval."""
    metric = found["metrics"].get(name)
    if metric is None:
        return "—"
    value, low, high = (f"{metric[key]:{'+' if signed else ''}.3f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first two columns to the left."""
    return formatted_table(header, f"ll{'r' * (len(header) - 2)}", rows)


def label(recipe: Recipe, found: dict[str, Any] | None) -> str:
    """A recipe with the number of its seeds."""
    seeds = len(found["seeds"]) if found else 0
    return f"`{recipe.name}`{', weakly supervised' if recipe.weak else ''} ({seeds} seed{'s' * (seeds != 1)})"


def scores(data: str) -> str:
    """Methods of every recipe, and the baselines, which are those of the data."""
    rows: list[list[str]] = []
    measured = [found for recipe in RECIPES if (found := recipe.found(data))]
    for name, words in BASELINES.items():
        cells = [interval(measured[0], f"{name}/{metric}") if measured else "—" for metric in SCORES.values()]
        rows.append([words, "", *cells, ""])
    for recipe in RECIPES:
        found = recipe.found(data)
        if found is None:
            rows.append([label(recipe, found), *["—"] * (len(SCORES) + 2)])
            continue
        for method in METHODS:
            cells = [interval(found, f"{method}/{metric}") for metric in SCORES.values()]
            rows.append([label(recipe, found), method, *cells, spread(found, f"{method}/pointing")])
    return table(["", "method", *SCORES, "pointing, s.d. over seeds"], rows)


def spread(found: dict[str, Any], name: str) -> str:
    """Standard deviation over seeds."""
    values = found["by_seed"].get(name, [])
    return f"{statistics.stdev(values):.3f}" if len(values) > 1 else "—"


def controls(data: str) -> str:
    """What each method's pointing owes to what: its controls, the gains over them, and the verdict."""
    rows = []
    for recipe in RECIPES:
        found = recipe.found(data)
        if found is None:
            rows.append([label(recipe, found), *["—"] * (COLUMNS + 1)])
            continue
        rows += [[label(recipe, found), method, *control_cells(found, method)] for method in METHODS]
    heads = [
        "own mean map",
        "wrong phrase",
        "absent phrase",
        "another photo",
        "gain over own mean map",
        "… its mean subtracted",
    ]
    heads += ["gain over wrong phrase", "gain over position prior", "grounds"]
    return table(["", "method", *heads], rows)


def control_cells(found: dict[str, Any], method: str) -> list[str]:
    """Pointing of the controls, the gains and the verdict of one method."""
    if f"{method}/pointing" not in found["metrics"]:
        return ["—"] * COLUMNS
    maps = [interval(found, f"{method}/{name}/pointing") for name in ("own_mean", *OTHERS)]
    gains = ("gain_over_own_mean", "minus_mean/gain_over_own_mean", "gain_over_wrong_phrase", "gain_over_prior")
    grounds = all(found["metrics"][f"{method}/gain_over_{name}"]["low"] > 0 for name in DECISIVE)
    return [*maps, *(interval(found, f"{method}/{name}", signed=True) for name in gains), "yes" if grounds else "no"]


def compare_retrieval() -> None:
    """Keep the paired differences of global retrieval between the recipe and the same without its regional term."""
    seeds = [seed for seed in SEEDS if all(Recipe(name).run(seed) for name in ("kagl_ground", WITHOUT))]
    if not seeds:
        return
    values: dict[str, list[dict[str, np.ndarray]]] = {"kagl_ground": [], WITHOUT: []}
    for name, of_seeds in values.items():
        for seed in seeds:
            run = Recipe(name).run(seed)
            modiste("evaluate", f"run={run}", "split=test", "task=[retrieval]")
            with np.load(f"{run}/results/kagl.test.retrieval.npz") as stored:
                of_seeds.append({metric: stored[metric] for metric in RETRIEVAL})
    means = {
        name: {metric: np.mean([one[metric] for one in found], axis=0) for metric in RETRIEVAL}
        for name, found in values.items()
    }
    with_term, without = means["kagl_ground"], means[WITHOUT]
    rows = {}
    for metric in RETRIEVAL:
        difference = with_term[metric] - without[metric]
        found = bootstrap_clusters({metric: difference}, np.arange(len(difference)), None, RESAMPLES, 0, [metric])
        rows[metric] = {
            "with": float(with_term[metric].mean()),
            "without": float(without[metric].mean()),
            "difference": asdict(found[metric]),
        }
    (RESULTS / "retrieval.json").write_text(json.dumps({"seeds": seeds, "metrics": rows}, indent=1) + "\n")


def retrieval() -> str:
    """The table of `compare_retrieval`."""
    file = RESULTS / "retrieval.json"
    if not file.is_file():
        return table(["metric", "", "with the term", "without", "difference"], [["—"] * 5])
    found = json.loads(file.read_text())
    rows = []
    for metric, values in found["metrics"].items():
        row = {"metrics": {metric: values["difference"]}}
        rows.append(
            [metric, "", f"{values['with']:.3f}", f"{values['without']:.3f}", interval(row, metric, signed=True)]
        )
    return table(["metric", f"{len(found['seeds'])} seeds", "with the term", "without", "difference"], rows)


def fill(path: Path, blocks: dict[str, str]) -> None:
    """Write blocks between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        text = text[: text.index(begin) + len(begin)] + f"\n{block}\n" + text[text.index(end) :]
    path.write_text(text, encoding="utf-8")


def tables() -> dict[str, str]:
    """The tables of this folder's README, by marker."""
    blocks = {f"{data} {kind.__name__}": kind(data) for data in DATA for kind in (scores, controls)}
    return blocks | {"retrieval": retrieval()}


def main() -> None:
    """Measure what exists, unless only tables are wanted, and write them."""
    named = set(sys.argv[1:])
    if "--tables" not in named:
        for data in [data for data in DATA if data in named or not named & set(DATA)]:
            for recipe in RECIPES:
                if recipe.name in named or named <= {*DATA}:
                    measure(recipe, data)
        if "retrieval" in named or not named:
            compare_retrieval()
    fill(HERE / "README.md", tables())


if __name__ == "__main__":
    main()
