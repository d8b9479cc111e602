"""The whole record: python experiments/record/record.py; with --tables, only the tables of existing results.

Trains and evaluates what has no result in ``results/`` yet, one after the other (several hours on two cores), then
computes the oracles and the ablation, and writes the tables between the markers of this folder's README and of the
project's. MODISTE_DATA says where the data sets are. An interrupted run resumes when it is started again.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import gpu
from modiste.reporting.logs import read_metrics
from modiste.reporting.tables.sheets import formatted_table
from modiste.utils.run_dir import RunDir

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results"
MEASURED = HERE / "measured"
"""What is no result of modiste evaluate: costs, curves, comparisons."""
SEEDS = (0, 1, 2)
DROPPED = ("examples", "per_query", "overlap")  # large, and in the run directory


@dataclass(frozen=True)
class Study:
    """A recipe trained with several seeds, and the one result of each that counts.

    Attributes:
        name: Of its runs: ``runs/<name>_<seed>``.
        recipe: ``experiment=``.
        evaluation: What `modiste evaluate run=` is told.
        result: Name of the result, without ``.json``.
    """

    name: str
    recipe: str
    evaluation: tuple[str, ...]
    result: str

    def run(self, seed: int) -> Path:
        """The run directory of a seed."""
        return Path(f"runs/{self.name}_{seed}")

    def file(self, seed: int) -> Path:
        """Where the record keeps the result of a seed."""
        return RESULTS / f"{self.name}_{seed}.{self.result}.json"

    def measure(self, seed: int) -> None:
        """Train (or resume), evaluate, and keep the result and the cost of training."""
        run = self.run(seed)
        train(run, f"experiment={self.recipe}", f"seed={seed}")
        modiste("evaluate", f"run={run}", *self.evaluation)
        for folder in (RESULTS, MEASURED):
            folder.mkdir(exist_ok=True)
        content = json.loads((run / "results" / f"{self.result}.json").read_text())
        kept = {name: value for name, value in content.items() if name not in DROPPED}
        self.file(seed).write_text(json.dumps(kept, indent=1) + "\n")
        shutil.copy(run / "cost.json", MEASURED / f"{self.name}_{seed}.cost.json")
        self.keep_curve(seed)

    def keep_curve(self, seed: int) -> None:
        """Keep what validation logged of the recipe's monitor, epoch by epoch."""
        metric = OmegaConf.load(self.run(seed) / "config.yaml").monitor.metric
        values = read_metrics(self.run(seed))[metric][1].round(4).tolist()
        self.curve_file(seed).write_text(json.dumps({"metric": metric, "values": values}) + "\n")

    def curve_file(self, seed: int) -> Path:
        """Where the record keeps the curve of a seed."""
        return MEASURED / f"{self.name}_{seed}.curve.json"

    def rerun_file(self, seed: int) -> Path:
        """Where the record keeps what a seed scored when it was trained again on another machine."""
        return MEASURED / f"{self.name}_{seed}.xeon.json"

    def curves(self) -> dict[int, dict[str, Any]]:
        """Seed to curve, of the seeds that were run."""
        return {
            seed: json.loads(self.curve_file(seed).read_text()) for seed in SEEDS if self.curve_file(seed).is_file()
        }

    def found(self) -> dict[int, dict[str, Any]]:
        """Seed to result, of the seeds that were run."""
        return {seed: json.loads(self.file(seed).read_text()) for seed in SEEDS if self.file(seed).is_file()}

    def cost(self, seed: int) -> dict[str, Any]:
        """The cost of a training run; empty where it is not known."""
        path = MEASURED / f"{self.name}_{seed}.cost.json"
        return json.loads(path.read_text()) if path.is_file() else {}


# One seed trained again with another number of threads: the weighted F1 of its two checkpoints.
RERUN = MEASURED / "transfer_rerun.json"
TRANSFER = Study("transfer", "kagl_transfer", ("data=fashion_mnist", "task=[zeroshot]"), "fashion_mnist.test.zeroshot")
ADAPTATION = Study("adapt", "kagl_adapt", ("data=kagl", "data/split=marqo", "task=[marqo]"), "kagl.test.marqo")


# Categories and brands that are never trained: which checkpoint each criterion chooses, and what it is worth on them.
HELD_OUT = Study("select", "kagl_select", ("split=test_held_out", "task=[retrieval]"), "kagl.test_held_out.retrieval")
SELECTION = MEASURED / "select_0.selection.json"
# What the recipes are compared to: both trunks frozen, titles, all pairs (the first row of the ablation).
BASELINE = Path("runs/baseline")
PROBES = ("data=kagl", "data/split=marqo", "split=test", "task=[compositional,retrieval]")
GAINED = {
    "compositional": ("colour/accuracy", "type/accuracy", "gender/accuracy", "improbable/colour_accuracy"),
    "retrieval": ("t2i/mrr", "t2i/recall@10"),
}
GAINS = {"`kagl_adapt`": (ADAPTATION, 1), "`kagl_transfer`": (TRANSFER, 0), "`kagl_select`": (HELD_OUT, 0)}
"""Of one seed each."""


def train(run: Path, *overrides: str) -> None:
    """Train a run, resume one that was interrupted, and skip one that is finished.

    Raises:
        SystemExit: The run is of an earlier version of its recipe.
    """
    check_recipe(run, *overrides)
    if not is_trained(run):
        new = [*overrides, f"hydra.run.dir={run}"]
        modiste("train", *([f"continue={run}"] if (run / "checkpoints").is_dir() else new))


def is_trained(run: Path) -> bool:
    """Whether a run was trained to the end."""
    return (run / "checkpoints").is_dir() and not RunDir(run).unfinished


def check_recipe(run: Path, *overrides: str) -> None:
    """Compare what a run was trained with to what its recipe says now. Raises SystemExit where they differ."""
    from modiste.config import compose

    if not (run / "config.yaml").is_file() or not overrides[0].startswith("experiment="):
        return
    file = ROOT / "conf" / "experiment" / f"{overrides[0].removeprefix('experiment=')}.yaml"
    recipe: Any = OmegaConf.to_container(OmegaConf.load(file))
    then, now = OmegaConf.load(run / "config.yaml"), compose("train", overrides)
    for key in recipe:
        if key != "defaults" and plain(then.get(key), recipe[key]) != plain(now.get(key), recipe[key]):
            raise SystemExit(f"{run} was trained when its recipe had another '{key}': move it and its results away.")


def plain(found: Any, shape: Any) -> Any:
    """``found`` without interpolations, of mappings the keys of ``shape`` only."""
    if isinstance(shape, dict) and OmegaConf.is_dict(found):
        return {key: plain(found.get(key), shape[key]) for key in shape}
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def average(runs: Sequence[Path], out: Path, pair: Path) -> None:
    """The mean of three runs' weights in ``out``, by two merges (Wortsman et al. 2022, arXiv:2203.05482)."""
    first, second, third = runs
    task = "task=[retrieval]"
    modiste("merge", f"first={first}", f"second={second}", "alphas=[0.5]", f"out={pair}", task)
    modiste("merge", f"first={pair}", f"second={third}", f"alphas=[{1 / 3}]", f"out={out}", task)


def probe() -> None:
    """Swap probes and retrieval of the baseline and of one seed of each recipe, and their paired comparison."""
    train_baseline()
    for study, seed in GAINS.values():
        train(study.run(seed), f"experiment={study.recipe}", f"seed={seed}")
    for run in (BASELINE, *(study.run(seed) for study, seed in GAINS.values())):
        modiste("evaluate", f"run={run}", *PROBES)
    for study, seed in GAINS.values():
        for task in GAINED:
            results = [f"{run}/results/kagl.test.{task}.json" for run in (study.run(seed), BASELINE)]
            modiste("compare", *results, "format=csv", f"out={gains_file(study, seed, task)}")


def train_baseline() -> None:
    """The first row of the ablation, as a separate run."""
    from ablation import HEADS

    train(BASELINE, *HEADS, "seed=0", "monitor.metric=val/retrieval/t2i/mrr")


# Between the baseline and the model for other catalogues, which began with the same weights (WiSE-FT).
WISE = MEASURED / "wise.json"
ALONG = {
    "KAGL validation, t2i MRR": "val/retrieval/t2i/mrr",
    "garments of street photos, weighted F1": "transfer/zeroshot/garment/weighted_f1",
}
SMALL_AND_GREY = (
    "[{_target_: torchvision.transforms.v2.Resize, size: null, max_size: 73},"
    "{_target_: modiste.data.augment.Thumbnail, p: 1.0}]"
)
MERGE = (
    f"first={BASELINE}", f"second={TRANSFER.run(0)}", "data=kagl", "data/split=marqo", "alphas=[0,0.2,0.4,0.6,0.8,1]",
    "task=[retrieval]",
    f"transfer={{transfer: {{data: ccp_garments, split: val, task: [zeroshot], data.corruptions: {SMALL_AND_GREY}}}}}",
    f"transfer_metric={[*ALONG.values()][1]}", "out=runs/wise",
)  # fmt: skip


def interpolate() -> None:
    """The curve from the baseline to the transfer recipe's first seed."""
    train_baseline()
    train(TRANSFER.run(0), f"experiment={TRANSFER.recipe}", "seed=0")
    shutil.rmtree("runs/wise", ignore_errors=True)  # of other models, perhaps
    modiste("merge", *MERGE)
    curve = json.loads(Path("runs/wise/merge.json").read_text())["curve"]
    kept = [{name: row[name] for name in ("alpha", *ALONG.values())} for row in curve]
    WISE.write_text(json.dumps({"curve": kept}, indent=1) + "\n")


def gains_file(study: Study, seed: int, task: str) -> Path:
    """Where the comparison of a seed of a recipe to the baseline is kept."""
    return MEASURED / f"{study.name}_{seed}_to_baseline.{task}.csv"


def modiste(*arguments: str) -> None:
    """Run a command of the project, as a user does."""
    print("modiste", *arguments, flush=True)
    subprocess.run([str(Path(sys.executable).with_name("modiste")), *arguments], check=True)


def figure(value: float) -> str:
    """Three digits.

    >>> figure(0.68467), figure(-0.021), figure(1.0)
    ('0.685', '-0.021', '1.000')
    """
    return f"{value:.3f}"


def interval(metric: dict[str, float]) -> str:
    """A value with its 95 % interval."""
    return f"{figure(metric['value'])} [{figure(metric['low'])}, {figure(metric['high'])}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells in Markdown, the first column to the left."""
    return formatted_table(header, f"l{'r' * (len(header) - 1)}", rows)


def by_seed(study: Study, metrics: dict[str, str]) -> list[list[str]]:
    """A row per seed with intervals and the training time in minutes, then mean ± s.d. over the seeds."""
    found = study.found()
    rows = []
    for seed in SEEDS:
        seconds = study.cost(seed).get("seconds")
        cells = [interval(found[seed]["metrics"][name]) if seed in found else "—" for name in metrics.values()]
        rows.append([f"`{study.recipe}`, seed {seed}", *cells, f"{seconds / 60:.0f} min" if seconds else "—"])
    rows += mean_row([*found.values()], metrics, "mean ± s.d.")
    again = {seed: json.loads(study.rerun_file(seed).read_text()) for seed in SEEDS if study.rerun_file(seed).is_file()}
    for seed, content in again.items():
        cells = [interval(content["metrics"][name]) for name in metrics.values()]
        rows.append([f"… seed {seed} again, on two cores of an {content['processor']}", *cells, "—"])
    rows += mean_row([*again.values()], metrics, "these again: mean ± s.d.")
    return [*rows, on_a_gpu(study.recipe, metrics)]


def mean_row(results: list[dict[str, Any]], metrics: dict[str, str], words: str) -> list[list[str]]:
    """The row of the means over several seeds; none of one seed."""
    if len(results) < 2:
        return []
    values = [[result["metrics"][name]["value"] for result in results] for name in metrics.values()]
    means = [f"{figure(statistics.mean(v))} ± {spread(v)}" for v in values]
    return [[f"… {words} of {len(results)} seeds", *means, ""]]


def on_a_gpu(recipe: str, metrics: dict[str, str]) -> list[str]:
    """The row of a recipe with a GPU's batch and epochs, over the seeds that were run."""
    large, found = gpu.RECIPES[recipe], gpu.found(recipe)
    name = f"`{recipe} trainer=gpu`, batch {large.batch:,}, {large.epochs} epochs"
    if not found:
        return [f"{name}: not run on a GPU", *("—" for _ in metrics), "—"]
    cells = [together([result["metrics"][metric] for result in found]) for metric in metrics.values()]
    seconds = statistics.median(result["seconds"] for result in found)
    what = f"{found[0]['accelerators'][0]}; images {found[0]['images']}; seeds: {len(found)}"
    return [f"{name} ({what})", *cells, f"{seconds / 60:.1f} min"]


def transfer() -> str:
    """Fashion-MNIST, zero-shot."""
    published = ["CLIP B/32, FashionCLIP, LAION CLIP, FashionCLIP 2.0 (published)", "0.66, 0.74, 0.78, 0.83", "", ""]
    metrics = {"weighted F1": "category/weighted_f1", "accuracy": "category/accuracy"}
    again = json.loads(RERUN.read_text())
    names = {"best": "the kept checkpoint", "last": "the last checkpoint"}
    reruns = [
        [f"… one seed again, another number of threads, {said}", figure(again[name]), "—", "—"]
        for name, said in names.items()
    ]
    return table(["", *metrics, "training"], [published, *by_seed(TRANSFER, metrics), *reruns])


def f1_by_class() -> dict[int, dict[str, float]]:
    """Seed to F1 of each class of Fashion-MNIST."""
    found = TRANSFER.found()
    return {seed: {row[0]: row[4] for row in result["tables"]["category"]["rows"]} for seed, result in found.items()}


def classes() -> str:
    """F1 of each class of Fashion-MNIST, a column per seed."""
    f1 = f1_by_class()
    names = next(iter(f1.values()), [])
    return table(
        ["F1", *(f"seed {seed}" for seed in f1)], [[name, *(figure(f1[s][name]) for s in f1)] for name in names]
    )


def probes() -> str:
    """What the recipe was chosen on: one epoch each, by macro F1 on degraded photos of KAGL and on CCP's garments."""
    found = json.loads((MEASURED / "transfer_probes.json").read_text())["probes"]
    rows = [[probe["what"], figure(probe["thumbnails"]), figure(probe["street"])] for probe in found]
    return table(["one epoch, one seed", "KAGL, degraded", "CCP's garments, small and grey"], rows)


ADAPTED = {
    "AvgRecall": "text-to-image/avg_recall",
    "recall@1": "text-to-image/recall@1",
    "recall@10": "text-to-image/recall@10",
    "sub-category P@1": "sub-category-to-product/precision@1",
}


def adaptation() -> str:
    """KAGL by Marqo's protocol, next to oracles that know some attributes exactly."""
    rows = []
    for known, recall in json.loads((HERE / "oracles.json").read_text())["expected"].items():
        rows.append([f"an oracle that knows {known}",
                     *(figure(recall[name]) for name in ("avg_recall", "recall@1", "recall@10")), "", ""])  # fmt: skip
    published = "FashionCLIP 2.0, Marqo-FashionSigLIP (published, zero-shot)"
    rows.append([published, "0.263, 0.334", "", "", "0.711 (best)", ""])
    return table(["", *ADAPTED, "training"], [*rows, *by_seed(ADAPTATION, ADAPTED)])


def selection() -> str:
    """Each criterion's epoch, and what that checkpoint is worth by every other one."""
    if not SELECTION.is_file():
        return "—"
    found = json.loads(SELECTION.read_text())
    criteria = [name for name in found["criteria"] if not name.endswith("loss") or name == "val/loss"]
    rows = []
    for choice in found["choices"]:
        if choice["criterion"] in criteria:
            values = [figure(choice["values"][name]) for name in criteria]
            rows.append([f"`{choice['criterion']}`", str(choice["epoch"] + 1), *values])
    shown = table(["chosen by", "epoch", *(f"`{name.removeprefix('val/')}`" for name in criteria)], rows)
    kept = HELD_OUT.found()[0]["metrics"]["t2i/mrr"]
    said = f"The kept checkpoint on the test images of what was held out: t2i MRR {interval(kept)}"
    if HELD_OUT.rerun_file(0).is_file():
        again = json.loads(HELD_OUT.rerun_file(0).read_text())
        said += f"; trained again on an {again['processor']}: {interval(again['metrics']['t2i/mrr'])}"
    return f"{shown}\n\n{said}."


def gains() -> str:
    """Metrics of the baseline, and each recipe's difference with the interval of the paired bootstrap."""
    columns = {name: gain_cells(study, seed) for name, (study, seed) in GAINS.items()}
    metrics = list(dict.fromkeys(metric for cells in columns.values() for metric in cells))
    if not metrics:
        return "—"
    rows = []
    for metric in metrics:
        there = [cells[metric] for cells in columns.values() if metric in cells]
        rows.append([metric, there[0][0], *(cells.get(metric, ("", "—"))[1] for cells in columns.values())])
    return table(["KAGL, test split", "baseline", *columns], rows)


def gain_cells(study: Study, seed: int) -> dict[str, tuple[str, str]]:
    """Metric → the baseline's value and the recipe's difference, of what was compared and tested."""
    found = {}
    for task, metrics in GAINED.items():
        if gains_file(study, seed, task).is_file():
            with gains_file(study, seed, task).open(newline="") as file:
                for row in csv.DictReader(file):
                    if row["metric"] in metrics:
                        limits = f"[{float(row['low']):+.3f}, {float(row['high']):+.3f}]"
                        found[row["metric"]] = (figure(float(row["b"])), f"{float(row['difference']):+.3f} {limits}")
    return found


def wise() -> str:
    """Interpolated weights, in domain and on the garments of street photos."""
    if not WISE.is_file():
        return "—"
    curve = json.loads(WISE.read_text())["curve"]
    rows = [[f"{row['alpha']:g}", *(interval(row[name]) for name in ALONG.values())] for row in curve]
    return table(["α", *ALONG], rows)


def ablations() -> dict[str, Any]:
    """Table to what `ablation.py` measured."""
    path = HERE / "ablation.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def ablation(name: str) -> str:
    """One table of ``ablation.json``: mean ± s.d. over seeds, and the difference to the first variant."""
    measured = ablations().get(name)
    if measured is None:
        return "—"
    rows = []
    for variant, found in measured["variants"].items():
        means = [f"{figure(m['mean'])} ± {figure(m['sd'])}" for m in (found["t2i/mrr"], found["t2i/recall@10"])]
        change = found.get("difference")
        shown = f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else "baseline"
        rows.append([variant, *means, shown])
    return table([name, "t2i MRR", "recall@10", "MRR, difference"], rows)


def headline() -> str:
    """What the project's README says of the record."""
    transferred = (
        "Fashion-MNIST, zero-shot, weighted F1 (trained on KAGL's images only, with captions of Fashion-MNIST's class "
        "names in its four evaluation templates)"
    )
    adapted = "KAGL text-to-image, AvgRecall (Marqo's protocol, in-domain †)"
    recipe, mean, *more = seeds_together(TRANSFER, "category/weighted_f1")
    rows = [
        [transferred, recipe, f"{mean}; {reruns()}", *more, "0.83"],
        [adapted, *seeds_together(ADAPTATION, "text-to-image/avg_recall"), "0.263"],
    ]
    return table(["", "recipe", "Modiste", "seeds", "training time", "FashionCLIP 2.0 (published)"], rows)


def reruns() -> str:
    """Scores of retrained seeds on Fashion-MNIST: the range over kept checkpoints, and one last checkpoint."""
    files = [TRANSFER.rerun_file(seed) for seed in SEEDS]
    metrics = [json.loads(file.read_text())["metrics"] for file in files if file.is_file()]
    threads = json.loads(RERUN.read_text())
    kept = [*(metric["category/weighted_f1"]["value"] for metric in metrics), threads["best"]]
    return (
        f"retrained: {figure(min(kept))} to {figure(max(kept))} (one run's last checkpoint: {figure(threads['last'])})"
    )


def seeds_together(study: Study, metric: str) -> list[str]:
    """Recipe, the metric over all seeds, their number and the training time."""
    found = [result["metrics"][metric] for result in study.found().values()]
    if not found:
        return [f"`{study.recipe}`", "—", "0", "—"]
    seconds = [study.cost(seed)["seconds"] for seed in study.found() if study.cost(seed)]
    minutes = f"{statistics.median(seconds) / 60:.0f} min" if seconds else "—"
    return [f"`{study.recipe}`", together(found), str(len(found)), minutes]


def together(metrics: list[dict[str, float]]) -> str:
    """A metric over seeds: mean ± s.d., or of one seed its interval."""
    values = [metric["value"] for metric in metrics]
    return interval(metrics[0]) if len(values) == 1 else f"{figure(statistics.mean(values))} ± {spread(values)}"


def spread(values: list[float]) -> str:
    """Standard deviation over seeds."""
    return figure(statistics.stdev(values))


def fill(path: Path, blocks: dict[str, str]) -> None:
    """Write blocks between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin not in text or end not in text:
            raise SystemExit(f"{path} has no '{begin}' and '{end}': put them where the table belongs.")
        text = text[: text.index(begin) + len(begin)] + f"\n{block}\n" + text[text.index(end) :]
    path.write_text(text, encoding="utf-8")


def draw() -> None:
    """The pictures of the existing results."""
    import pictures

    folder = HERE / "pictures"
    if curves := ADAPTATION.curves():
        pictures.curves(curves, folder / "adaptation.png")
    if f1 := f1_by_class():
        pictures.classes(f1, folder / "classes.png")
    changes = {
        name: [
            (variant, found["difference"]) for variant, found in measured["variants"].items() if found.get("difference")
        ]
        for name, measured in ablations().items()
    }
    if changes:
        pictures.ablations(changes, folder / "ablation.png")


def tables() -> dict[str, str]:
    """The tables of this folder's README, by marker."""
    names = ("loss", "captions", "batch", "ema", "depth", "augmentation")
    blocks = {"transfer": transfer(), "classes": classes(), "adaptation": adaptation()}
    blocks |= {"probes": probes(), "selection": selection(), "gains": gains(), "wise": wise()}
    return blocks | {f"ablation {name}": ablation(name) for name in names}


def write_tables() -> None:
    """All tables of both READMEs, and the pictures."""
    draw()
    fill(HERE / "README.md", tables())
    fill(ROOT / "README.md", {"record": headline()})


def main(arguments: list[str]) -> None:
    """Everything that is missing, then the tables."""
    if arguments not in ([], ["--tables"]):
        raise SystemExit(f"record.py takes --tables or nothing, not {' '.join(arguments)}.")
    if not arguments:
        for study in (TRANSFER, ADAPTATION):
            for seed in SEEDS:
                if not study.file(seed).is_file():
                    study.measure(seed)
        if not SELECTION.is_file():
            HELD_OUT.measure(0)
            shutil.copy(HELD_OUT.run(0) / "selection.json", SELECTION)
        if not all(gains_file(study, seed, "retrieval").is_file() for study, seed in GAINS.values()):
            probe()
        if not WISE.is_file():
            interpolate()
        for script in ("oracles.py", "ablation.py"):
            subprocess.run([sys.executable, str(HERE / script)], check=True)
    write_tables()


if __name__ == "__main__":
    main(sys.argv[1:])
