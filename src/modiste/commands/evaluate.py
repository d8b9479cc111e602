"""Evaluate a run, a published model or embeddings on disk: modiste evaluate run=DIR suite=here"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.commands._line import command, command_overrides, config_dirs
from modiste.config import compose, instantiate, quote, validate
from modiste.config.aliases import load_run_config
from modiste.errors import ModisteError
from modiste.utils.machine import keep_pages
from modiste.utils.run_dir import RunDir, write_json

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.tasks.result import Result

log = logging.getLogger(__name__)


# Adapters of the user's own data: two data sets of theirs share a name.
GENERIC = ("modiste.data.datasets.table.Table", "modiste.data.datasets.hub.Hub")


def run(cfg: DictConfig) -> None:
    """Runs every task whose result does not exist yet, prints a table and writes the report."""
    given = command_overrides()
    run_dir = RunDir.find(cfg.run) if cfg.run else None
    evaluation = Evaluation(cfg, run_dir)
    if cfg.get("suite") is None:
        for name in evaluation.tasks(Entry("", given, cfg)):
            evaluation.run_task(name)
    else:
        run_suite(evaluation, cfg, given)
    evaluation.conclude()


@dataclass(frozen=True)
class Entry:
    """One data set of a suite, or a single evaluation.

    Attributes:
        name: Its key in the suite.
        overrides: What recreates it on the command line.
        cfg: What they compose.
    """

    name: str
    overrides: list[str]
    cfg: DictConfig


@dataclass(frozen=True)
class Outcome:
    """What became of a task: ``computed``, ``kept`` (its result existed) or ``missing``, and why."""

    entry: str
    task: str
    status: str
    why: str = ""


class Evaluation:
    """Tasks of one model, which is built once, over one or many data sets.

    Args:
        cfg: The configuration of the command: model, precision, cache …
        run_dir: The run whose model it is, if it is one's.
    """

    def __init__(self, cfg: DictConfig, run_dir: RunDir | None) -> None:
        self.cfg, self.run_dir = cfg, run_dir
        self.trained: Any = load_run_config(run_dir.config) if run_dir else None
        self.paths: list[Path] = []
        self.catalogues: dict[str, Catalogue] = {}
        self._model: tuple[Any, dict[str, Any]] | None = None
        keep_pages()
        if cfg.deterministic:
            import torch

            torch.use_deterministic_algorithms(True)

    def tasks(self, entry: Entry) -> list[str]:
        """Loads the data of ``entry``; the names of its tasks, for `run_task`.

        Raises:
            ModisteError: The configuration is wrong, or the data are not there.
        """
        from modiste.data.build import load as load_catalogue

        if self.trained is not None:
            take_over(entry.cfg, self.trained, entry.overrides)
        validate(entry.cfg)
        self.entry = entry
        self.objects = {name: instantiate(node) for name, node in entry.cfg.task.items()}
        self.catalogue = load_catalogue(entry.cfg.data)
        self._shared: dict[str, Any] | None = None
        self.embedder, self.facts = shortened(entry.cfg.dim, *self._embedder())
        # Several models may be evaluated under one name, such as model=pretrained.
        self.target = self.run_dir or RunDir(Path(self.cfg.run_dir) / self.facts["fingerprint"][:8])
        return list(self.objects)

    def run_task(self, name: str) -> str:
        """Runs the task ``name`` of the entry unless its result exists; returns ``computed`` or ``kept``."""
        cfg = self.entry.cfg
        identity = describe(cfg, name, self.facts, self.catalogue)
        variant = "_".join(word for word in (cfg.variant, f"dim{cfg.dim}" if cfg.dim else "") if word)
        words = [cfg.data.name, cfg.split, name, *([variant] if variant else [])]
        path = self.target.results / f"{'.'.join(words)}.json"
        kept = not cfg.overwrite and same_result(path, identity)
        if kept:
            log.info("%s exists for the same model, data and protocol: kept (overwrite=true computes it again)", path)
        else:
            started = time.perf_counter()
            result = self.objects[name](self.embedder, self.catalogue, cfg.split)
            facts: dict[str, Any] = {
                "overrides": recreating(self.entry.overrides, name),
                "variant": variant,
                "overlap": self._overlap(),
            }
            if cfg.backend != "torch":
                facts["backends"] = dict(getattr(self.embedder, "used", {}))  # what auto took
            write_result(path, result, identity | facts | {"seconds": round(time.perf_counter() - started, 2)})
        self.paths.append(path)
        self.catalogues[path.stem] = self.catalogue
        return "kept" if kept else "computed"

    def conclude(self) -> None:
        """Prints the summaries and writes the report.

        Raises:
            ModisteError: There is no result at all.
        """
        from modiste.reporting.report import write_report
        from modiste.reporting.tables import print_results

        if not self.paths:
            raise ModisteError("Nothing could be evaluated, for the reasons above.")
        print_results(self.paths)
        print(f"\nResults: {self.target.results}\nReport: {write_report(self.target.path, self.catalogues)}")

    def _overlap(self) -> dict[str, Any]:
        """What the evaluated images share with the run's training data; empty: nothing, or no run."""
        from modiste.evaluation.overlap import overlap_of_run

        cfg = self.entry.cfg
        if self._shared is None:
            asked = self.trained is not None and cfg.overlap
            found = overlap_of_run(self.trained, self.catalogue, cfg.split, cfg.data) if asked else None
            self._shared = {"train": self.trained.data.name, **found} if found else {}
        return self._shared

    def _embedder(self) -> tuple[Any, dict[str, Any]]:
        """What makes the embeddings, and the facts about it that results record."""
        from modiste.embedding.embedder import ModelEmbedder, default_cache
        from modiste.utils.progress import progress_bar

        cfg = self.entry.cfg
        if cfg.embeddings.image:
            return matrices(cfg, self.catalogue)
        if self._model is None:
            model, facts = build_model(cfg, self.run_dir)
            cache = default_cache() if cfg.cache else None
            embedder = ModelEmbedder(
                model.to(device(cfg.device)), cfg.batch_size, cfg.precision, cache, progress_bar, decode(cfg),
                cfg.backend, cfg.min_cosine,
            )  # fmt: skip
            described = model.describe() | {"precision": cfg.precision}
            unusual = {"backend": cfg.backend, "decode": decode(cfg)}
            described |= {name: word for name, word in unusual.items() if word not in ("torch", "pil")}
            self._model = embedder, facts | {"fingerprint": embedder.fingerprint, "describe": described}
        embedder, facts = self._model
        if self.trained is not None:
            facts = facts | {"in_domain": same_data(self.trained.data, cfg.data)}
        return embedder, facts


def run_suite(evaluation: Evaluation, cfg: DictConfig, given: list[str]) -> None:
    """Every entry of a suite: what can run runs, what exists is kept, what is missing is named with the reason."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    entries = suite_entries(cfg, given)
    total = sum(len(entry.cfg.task) for entry in entries)
    outcomes: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(cfg.suite.name, total=total)
        for entry in entries:
            for outcome in run_entry(evaluation, entry):
                progress.update(bar, advance=1, description=f"{cfg.suite.name}: {entry.name}")
                outcomes.append(outcome)
                log.info("%d/%d %s · %s: %s", len(outcomes), total, outcome.entry, outcome.task, outcome.status)
    record(evaluation, cfg.suite.name, outcomes)


def run_entry(evaluation: Evaluation, entry: Entry) -> Iterator[Outcome]:
    """The outcomes of an entry's tasks, one by one."""
    try:
        evaluation.tasks(entry)
    except ModisteError as error:
        for task in entry.cfg.task:
            yield Outcome(entry.name, str(task), "missing", str(error))
        return
    for task in evaluation.objects:
        try:
            yield Outcome(entry.name, task, evaluation.run_task(task))
        except ModisteError as error:
            yield Outcome(entry.name, task, "missing", str(error))


def suite_entries(cfg: DictConfig, given: list[str]) -> list[Entry]:
    """The entries of ``cfg.suite``: the command line's overrides, then the entry's own.

    Raises:
        ModisteError: The command line also names embeddings, data or tasks, or an entry cannot be composed.
    """
    if cfg.embeddings.image:
        raise ModisteError("suite= needs a model (run= or model=): embeddings on disk belong to one data set.")
    own = [o for o in given if key_of(o) not in ("suite", "variant")]
    settings = [o for o in own if key_of(o).startswith("task.")]  # of the entries that have the task
    shared = [o for o in own if o not in settings]
    for override in shared:
        if key_of(override).partition(".")[0].partition("/")[0] in ("data", "task", "split"):
            raise ModisteError(f"suite={cfg.suite.name} says itself on what it evaluates: leave out {override}.")
    tasks = {task for entry in cfg.suite.entries.values() for task in entry.task}
    for override in settings:
        if key_of(override).split(".")[1] not in tasks:
            raise ModisteError(f"suite={cfg.suite.name} has no task to set: leave out {override}.")
    entries = []
    for name, overrides in cfg.suite.entries.items():
        words = [*shared, *(f"{key}={quote_value(value)}" for key, value in overrides.items())]
        words += [o for o in settings if key_of(o).split(".")[1] in overrides.task]
        entries.append(Entry(str(name), words, compose("evaluate", words, config_dirs())))
    return entries


def key_of(override: str) -> str:
    """What an override sets.

    >>> key_of("+data.catalogue.path=x=y")
    'data.catalogue.path'
    """
    return override.partition("=")[0].lstrip("+~")


def quote_value(value: Any) -> str:
    """A value of a suite's YAML in the grammar of the command line.

    >>> quote_value(["marqo", "zeroshot"]), quote_value("kagl"), quote_value(None), quote_value({"a": 1})
    ('["marqo","zeroshot"]', '"kagl"', 'null', '{a: 1}')
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return f"[{','.join(map(quote_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {quote_value(v)}' for key, v in value.items())}}}"
    return json.dumps(value)


def recreating(overrides: Sequence[str], task: str) -> list[str]:
    """The overrides that give the result of ``task`` alone.

    >>> recreating(["run=runs/a", "task=[marqo,probe]", "task.probe.seed=1", "task.marqo.seed=2"], "marqo")
    ['run=runs/a', 'task.marqo.seed=2', 'task=[marqo]']
    """

    def applies(override: str) -> bool:
        key = key_of(override)
        other = key.startswith("task.") and key.split(".")[1] != task
        return not other and key not in ("task", "overwrite", "cache")

    return [*filter(applies, overrides), f"task=[{task}]"]


def record(evaluation: Evaluation, suite: str, outcomes: Sequence[Outcome]) -> None:
    """Names what is missing, and writes ``suite.<name>.json`` for the report."""
    counts = {s: sum(o.status == s for o in outcomes) for s in ("computed", "kept", "missing")}
    print(f"\nSuite {suite}: " + ", ".join(f"{number} {status}" for status, number in counts.items()))
    for outcome in (o for o in outcomes if o.status == "missing"):
        print(f"- missing: {outcome.entry} · {outcome.task}: {outcome.why}")
    if evaluation.paths:
        evaluation.target.write_json(f"suite.{suite}", {"suite": suite, "outcomes": [vars(o) for o in outcomes]})


def take_over(cfg: DictConfig, trained: Any, given: Sequence[str]) -> None:
    """The model of a run, and its data set with its split where ``given`` (overrides) names no other.

    Raises:
        ModisteError: They also name a model, or a split but no data set.
    """
    named = {key_of(override) for override in given}
    if "model" in named:
        raise ModisteError("run= and model= exclude each other: one model is evaluated at a time.")
    if "data/split" in named and "data" not in named:
        raise ModisteError("data/split= beside run= needs data=, too: for instance data=kagl data/split=marqo.")
    with open_dict(cfg):
        cfg.model, cfg.tune = trained.model, trained.tune
        if "data" not in named:
            changes = [o.lstrip("+").removeprefix("data.") for o in given if o.lstrip("+").startswith("data.")]
            cfg.data = OmegaConf.merge(trained.data, OmegaConf.from_dotlist(changes))
            cfg.name = cfg.data.name


def matrices(cfg: DictConfig, catalogue: Catalogue) -> tuple[Any, dict[str, Any]]:
    """Embeddings from files: one row a catalogue row, the texts as the first caption template says them."""
    from modiste.data.captions import Captions
    from modiste.embedding.embedder import MatrixEmbedder, read_matrix

    images, texts = (read_matrix(Path(path).expanduser()) for path in (cfg.embeddings.image, cfg.embeddings.text))
    words = OmegaConf.to_container(cfg.data.captions.get("words") or OmegaConf.create({}), resolve=True)
    captions = Captions(list(cfg.data.captions.templates), words=words).bind(catalogue)  # type: ignore[arg-type]
    embedder = MatrixEmbedder(catalogue, images, texts, [captions.first(row) for row in range(len(catalogue))])
    facts = {"name": Path(cfg.embeddings.image).stem, "source": cfg.embeddings.image}
    return embedder, facts | {"describe": {"embed_dim": images.shape[1]}, "fingerprint": embedder.fingerprint}


def shortened(dim: int | None, embedder: Any, facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The first ``dim`` numbers of the embeddings, and the facts with it; null: both as they are."""
    from modiste.embedding.embedder import PrefixEmbedder

    if dim is None:
        return embedder, facts
    return PrefixEmbedder(embedder, dim), facts | {"describe": facts["describe"] | {"dim": dim}}


def build_model(cfg: DictConfig, run_dir: RunDir | None) -> tuple[Any, dict[str, Any]]:
    """The model of the run, or the one that ``model=`` names."""
    import torch

    from modiste.models import load as loading

    if run_dir is not None:
        model = loading.load(run_dir.path, cfg.checkpoint).model
        trained: Any = load_run_config(run_dir.config)
        return model, {"name": trained.name, "source": str(run_dir.path)}
    if not any(override.startswith("model=") for override in command_overrides()):
        raise ModisteError(
            "What is to be evaluated? Give run=DIR, model=NAME, or embeddings.image=FILE and embeddings.text=FILE."
        )
    torch.manual_seed(cfg.seed)  # model=two_tower is random: chance level
    model = loading.build_model(cfg)
    return model, {"name": model_choice(), "source": cfg.model.get("source", model_choice())}


def same_data(trained: Any, evaluated: Any) -> bool:
    """Whether two data nodes are the same data set, or hold the photos of one (``origin``)."""
    if trained.get("origin", trained.name) != evaluated.get("origin", evaluated.name):
        return False
    return evaluated.catalogue["_target_"] not in GENERIC or trained.catalogue == evaluated.catalogue


def model_choice() -> str:
    """The word that ``model=`` was given."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices["model"]) if HydraConfig.initialized() else "model"


def decode(cfg: DictConfig) -> str:
    """How the data's images are decoded; runs of before there was a choice do not say."""
    return cfg.data.get("decode", "pil")


def device(name: str) -> str:
    """A torch device name; ``auto`` takes the first accelerator there is."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe(cfg: DictConfig, task: str, facts: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """What a result is a result of: equal descriptions give equal numbers."""
    config = OmegaConf.to_container(cfg.task[task], resolve=True)
    return {
        "model": facts,
        "data_fingerprint": catalogue.fingerprint(),
        "config": config,
        "files": {word: digest for word in strings(config) if is_path(word) and (digest := file_digest(Path(word)))},
        "seed": cfg.seed,
    }


def strings(value: Any) -> Iterator[str]:
    """All strings in plain containers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def is_path(word: str) -> bool:
    """Whether a string of a config looks like a file or a folder: "val" is a word, whatever lies in this folder.

    >>> [word for word in ("", "val", "a photo", "data/marqo-kagl", "queries.json") if is_path(word)]
    ['data/marqo-kagl', 'queries.json']
    """
    return "/" in word or bool(Path(word).suffix)


def file_digest(path: Path) -> str:
    """sha256 of a file, or of the JSON and text files below a folder; empty where there is neither."""
    found = path.rglob("*") if path.is_dir() else [path]
    files = sorted(file for file in found if file.is_file() and (file == path or file.suffix in (".json", ".txt")))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""


def same_result(path: Path, identity: dict[str, Any]) -> bool:
    """Whether ``path`` holds a result of the same model, data and protocol."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(known.get(name) == json.loads(json.dumps(value)) for name, value in identity.items())


def write_result(path: Path, result: Result, identity: dict[str, Any]) -> None:
    """One JSON of a (model, data, task), its values per query beside it."""
    import numpy as np

    from modiste.utils.machine import environment

    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {"schema": 1, **result.to_json(), **identity, "created": created, "command": command()}
    path.parent.mkdir(parents=True, exist_ok=True)
    content["pictures"] = write_pictures(path, result)
    np.savez_compressed(path.with_suffix(".npz"), **result.per_query)  # type: ignore[arg-type]
    write_json(path, content | {"environment": environment()})


def write_pictures(path: Path, result: Result) -> dict[str, str]:
    """The result's pictures as PNG files; title to the file, relative to the run directory."""
    folder = path.parent.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for title, picture in result.pictures.items():
        slug = re.sub(r"[^\w-]+", "_", title)
        file = folder / f"{path.stem}.{slug}.png"
        picture.save(file)
        files[title] = file.relative_to(path.parent.parent).as_posix()
    return files
