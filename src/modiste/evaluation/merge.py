"""Weight interpolation (WiSE-FT, arXiv:2109.01903): evaluate every alpha, make a run of the best."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from modiste.config import escape_interpolations, exported_node, load_run_config, validate
from modiste.config.inherit import from_run
from modiste.config.invocation import Invocation
from modiste.config.monitor import settle_mode
from modiste.config.overrides import override_key, override_value
from modiste.embedding.build import build_embedder, decode_of, embedder_options
from modiste.embedding.embedder import ModelEmbedder, fingerprint
from modiste.errors import ModisteError, did_you_mean
from modiste.evaluation.spec import Evaluation, EvaluationSpec, named_entries
from modiste.evaluation.store import identity, run_unless_stored
from modiste.metrics.direction import direction
from modiste.models.dual_encoder import DualEncoder
from modiste.models.finetune import fold_adapters
from modiste.models.interpolate import check_alpha, check_architecture, interpolate
from modiste.models.load import load, loss_state, model_at_start
from modiste.reporting.figures import Curve, alpha_curves
from modiste.tasks.result import Result
from modiste.utils.atomic import atomic, write_text
from modiste.utils.hardware import environment, keep_pages
from modiste.utils.lock import held
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir, read_json, write_json

log = logging.getLogger(__name__)
START = "start"
SUMMARY = "merge"
IN_DOMAIN = "val"
Row = dict[str, Any]
"""``alpha``, ``fingerprint``, and ``<set>/<task>/<metric>`` to the metric with its interval."""


@dataclass(frozen=True)
class Merged:
    """Outcome of `merge`.

    Attributes:
        run: The run directory of the merged weights.
        alpha: The chosen fraction of the second model.
        curve: A row per alpha.
        shown: The plotted metrics: the monitored one and, with ``transfer`` sets, one of the first.
        monitor: Description of the monitored metric and its data.
        picture: Plot of the curve.
    """

    run: RunDir
    alpha: float
    curve: list[Row]
    shown: list[str]
    monitor: str
    picture: Path


def merge_config(cfg: DictConfig, line: Invocation) -> Merged:
    """Evaluate the models between ``first`` and ``second``, and write the run directory of the best one.

    Weights, the log of the temperature and the bias are interpolated by `modiste.models.interpolate.interpolate`. Each
    (alpha, data, task) is stored in ``alphas/`` once it is computed; existing results of the same weights, data and
    protocol are reused.

    Args:
        cfg: The composed ``merge`` configuration.
        line: Command line that composed it.

    Raises:
        ModisteError: A model is missing, the architectures differ, an alpha or a metric is invalid, ``out`` is another
            run or merge, or another process writes to it.
    """
    alphas = checked_alphas(cfg.alphas)
    check_monitor(cfg)
    first, second = sides(cfg)
    check_architecture(first.model, second.model)
    base = second if second.config is not None or first.config is None else first
    cfg = adopted(cfg, base, line)
    out = RunDir(cfg.out or Path(cfg.log_dir) / SUMMARY / f"{slug(first)}-{slug(second)}")
    merge = Merge(cfg, first, second, base, out, line)
    merge.check_out()
    with held(out.path):
        return merge.conclude(merge.measure(alphas))


# ---------------------------------------------------------------------------------------------------------- the models


@dataclass
class Side:
    """One of the two models.

    Attributes:
        source: The source as given: a run directory, ``start``, a hub id or a local model.
        model: The model, without adapters.
        config: Configuration of its run; None for a published model or ``start``.
        name: Display name.
        parents: Run directories that its weights come from.
    """

    source: str
    model: DualEncoder
    config: Any
    name: str
    parents: list[str]


def sides(cfg: DictConfig) -> tuple[Side, Side]:
    """Load the two models; raise ModisteError if one is not given or missing."""
    if cfg.second == START:
        raise ModisteError("second=start is not possible: use first=start and second=RUN.")
    second = side(str(cfg.second), cfg.checkpoint)
    if cfg.first != START:
        return side(str(cfg.first), cfg.checkpoint), second
    if second.config is None:
        raise ModisteError(
            f"first=start needs a run as the second model, and '{cfg.second}' is not a run: give second=RUN."
        )
    run_dir = RunDir.find(cfg.second)
    model = model_at_start(run_dir)
    fold_adapters(model)
    # The second run's init tells what its initial weights were trained on.
    return Side(START, model.eval(), None, f"start of {second.name}", []), second


def side(source: str, checkpoint: str) -> Side:
    """Load a run or a published model; raise ModisteError if it is neither."""
    path = Path(source).expanduser()
    on_hub = "/" in source and not path.exists() and not path.parent.is_dir()
    published = not RunDir(path).is_run and (on_hub or (path / "config.json").is_file())
    run_dir = None if published else RunDir.find(path)
    model = load(source, checkpoint).model
    fold_adapters(model)
    if run_dir is None:
        return Side(source, model, None, path.name, [])
    config: Any = load_run_config(run_dir.config)
    return Side(source, model, config, run_dir.path.resolve().name, [str(run_dir.path.resolve())])


def adopted(cfg: DictConfig, base: Side, line: Invocation) -> DictConfig:
    """The configuration with the model of ``base`` and, unless the command line names data, its data."""
    if base.config is not None:
        cfg = from_run(cfg, base.config, line.overrides)
    with open_dict(cfg):
        if base.config is None:
            path = Path(base.source).expanduser()
            source = escape_interpolations(str(path.resolve()) if path.is_dir() else base.source)
            cfg.model = exported_node(source)
            cfg.tune = {tower: {"train": "full"} for tower in ("image", "text")}
        for tower in cfg.tune.values():
            if tower.train == "lora":  # its adapters are in the weights now
                tower.train = "full"
    validate(cfg)
    return cfg


def slug(one: Side) -> str:
    """Name of a side within a folder's name."""
    return START if one.source == START else one.name


# ------------------------------------------------------------------------------------------------------- the settings


def checked_alphas(given: Sequence[object]) -> list[float]:
    """Sort the alphas and drop duplicates.

    Raises:
        ModisteError: The list is empty, or a value is not a number in [0, 1].

    >>> checked_alphas([1, 0.5, 0, 0.5])
    [0.0, 0.5, 1.0]
    """
    if not OmegaConf.is_list(given) and not isinstance(given, list):
        raise ModisteError(f"alphas={given} is not a list: write alphas=[{given}].")
    if not given:
        raise ModisteError("alphas is empty: give at least one fraction of the second model, alphas=[0.5].")
    alphas = set()
    for alpha in given:
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise ModisteError(f"alphas has '{alpha}', which is not a number: give fractions in [0, 1].")
        check_alpha(alpha)
        alphas.add(float(alpha))
    return sorted(alphas)


def check_monitor(cfg: DictConfig) -> None:
    """Raise ModisteError if the monitor belongs to no task, or its mode is unknown."""
    parts = str(cfg.monitor.metric).split("/")
    if len(parts) < 3 or parts[0] != "val" or parts[1] not in cfg.task:
        raise ModisteError(
            f"'monitor.metric' is {cfg.monitor.metric}, which is not measured here: give val/<task>/<metric> of one of "
            f"{', '.join(map(str, cfg.task))}."
        )
    if cfg.monitor.mode not in ("max", "min"):
        raise ModisteError(f"'monitor.mode' is {cfg.monitor.mode}: give max or min.")


# --------------------------------------------------------------------------------------------------- the measurements


def evaluations(cfg: DictConfig, line: Invocation) -> dict[str, Evaluation]:
    """Evaluation sets for every alpha: in-domain (``val``, which selects) and ``transfer`` sets by name.

    Raises:
        ModisteError: A set cannot be composed, or its data are missing.
    """
    config = cfg.copy()
    with open_dict(config):
        config.split = IN_DOMAIN
    tasks = [o for o in line.overrides if override_key(o).partition(".")[0] == "task"]
    specs = [EvaluationSpec(IN_DOMAIN, config)]
    for name, entry in named_entries(cfg.transfer).items():
        own_tasks = not isinstance(entry, str) and "task" in entry
        shared = [f"data_dir={override_value(str(cfg.data_dir))}", f"seed={cfg.seed}", *([] if own_tasks else tasks)]
        chosen = {"split": IN_DOMAIN} | ({"data": entry} if isinstance(entry, str) else dict(entry))
        specs.append(EvaluationSpec.compose(name, chosen, shared, config_dirs=line.config_dirs))
    return {spec.name: spec.load() for spec in specs}


def where(evaluation: Evaluation) -> str:
    """Data set and split, in words."""
    return f"{evaluation.catalogue.card.name} ({evaluation.spec.split})"


class Merge:
    """Evaluate interpolated models on every set, and write the best.

    Args:
        cfg: The configuration of the command.
        first: The model at alpha 0.
        second: The model at alpha 1.
        base: The model that gives the merged run its configuration and image transform.
        out: The run directory to write.
        line: The command line.
    """

    def __init__(self, cfg: DictConfig, first: Side, second: Side, base: Side, out: RunDir, line: Invocation) -> None:
        # A copy, since the results state the monitor's mode.
        self.cfg, self.first, self.second, self.base, self.out, self.line = cfg.copy(), first, second, base, out, line
        self.evaluations: dict[str, Evaluation] = {}
        self.primary: dict[tuple[str, str], str] = {}  # by set and task
        # Copies, since the model of `base` loads every alpha.
        self.ends = state_copy(first.model), state_copy(second.model)
        self.loss_ends = loss_state(first.model), loss_state(second.model)
        self.sides = {
            name: {"source": side.source, "name": side.name, "fingerprint": fingerprint(side.model)}
            for name, side in (("first", first), ("second", second))
        }
        transforms = [side.model.preprocess.describe() for side in (first, second)]
        if transforms[0] != transforms[1]:
            log.warning(
                "The two models preprocess images differently; the merged model uses that of %s: %s", base.name,
                base.model.preprocess.describe(),
            )  # fmt: skip

    def check_out(self) -> None:
        """Raise ModisteError if ``out`` is another run or merge."""
        known = self.out.read_json("sides")
        same = all(known.get(name, {}).get("fingerprint") == side["fingerprint"] for name, side in self.sides.items())
        if not same and (known or self.out.is_run):
            raise ModisteError(f"{self.out.path} holds another run or merge: give another directory, out=DIR.")

    def measure(self, alphas: Sequence[float]) -> list[Row]:
        """Evaluate every alpha, and return a row per alpha.

        Raises:
            ModisteError: The tasks do not measure ``monitor.metric`` or ``transfer_metric``.
        """
        keep_pages()
        self.evaluations = evaluations(self.cfg, self.line)
        self.out.write_json("sides", self.sides)
        places = [(name, task) for name, evaluation in self.evaluations.items() for task in evaluation.tasks]
        steps = [(alpha, name, task) for alpha in alphas for name, task in places]
        rows: dict[float, Row] = {}
        for alpha, name, task in progress_bar(steps, len(steps), "Evaluating alphas"):
            if alpha not in rows:
                if len(rows) == 1:
                    self.check_metrics(next(iter(rows.values())))
                embedder = self.embedder(alpha)
                rows[alpha] = {"alpha": alpha, "fingerprint": embedder.fingerprint}
            rows[alpha] |= self.measure_one(alpha, name, task, embedder)
        self.check_metrics(next(iter(rows.values())))
        return list(rows.values())

    def embedder(self, alpha: float) -> ModelEmbedder:
        """Embedder with the weights of ``alpha``."""
        self.base.model.load_state_dict(interpolate(*self.ends, alpha))
        return build_embedder(self.base.model, **embedder_options(self.cfg))

    def measure_one(self, alpha: float, name: str, task: str, embedder: ModelEmbedder) -> Row:
        """Metrics of a task, from its file if that has the same weights, data and protocol."""
        evaluation = self.evaluations[name]
        embedder.decode = decode_of(evaluation.spec.config.data)
        described = self.base.model.describe() | {"precision": self.cfg.precision, "decode": embedder.decode}
        described |= {} if embedder.backend == "torch" else {"backend": embedder.backend}
        facts = {"fingerprint": embedder.fingerprint, "describe": described}
        expected = identity(evaluation, task, facts) | {"split": evaluation.spec.split}
        path = self.out.path / "alphas" / f"{alpha}.{name}.{task}.json"

        def write(path: Path, result: Result, seconds: float) -> None:
            content = {"schema": 1, "alpha": alpha, **result.to_json(), **expected, "seconds": seconds}
            write_json(path, content)

        kept = run_unless_stored(evaluation, task, embedder, path, expected, write) is None
        content = read_json(path)
        self.settle_mode(name, task, content.get("higher_is_better", {}))
        primary = content["metrics"][content["primary"]]["value"]
        log.info(
            "alpha %g  %s  %s/%s %.4f%s", alpha, where(evaluation), task, content["primary"], primary,
            " (kept)" if kept else "",
        )  # fmt: skip
        self.primary[name, task] = content["primary"]
        return {f"{name}/{task}/{metric}": value for metric, value in content["metrics"].items()}

    def settle_mode(self, name: str, task: str, higher_is_better: Mapping[str, bool]) -> None:
        """Set a mode that is not given; raise ModisteError if the given one would choose the worst alpha."""
        metric = str(self.cfg.monitor.metric).removeprefix(f"{name}/{task}/")
        if metric in higher_is_better:
            settle_mode(self.cfg, direction(metric, higher_is_better))

    def check_metrics(self, row: Row) -> None:
        """Raise ModisteError if a configured metric is not in ``row``."""
        for key, name in (("monitor.metric", self.cfg.monitor.metric), ("transfer_metric", self.transfer_metric(row))):
            own = key == "monitor.metric"
            measured = [metric for metric in row if "/" in metric and metric.startswith(f"{IN_DOMAIN}/") == own]
            if name is not None and name not in measured:
                raise ModisteError(f"'{key}' is {name}, which is not measured. {did_you_mean(name, measured)}")

    def transfer_metric(self, row: Row) -> str | None:
        """The plotted metric of the first ``transfer`` set; None without one."""
        others = [name for name in self.evaluations if name != IN_DOMAIN]
        if not others:
            return None
        if self.cfg.transfer_metric:
            return self.cfg.transfer_metric
        same = str(self.cfg.monitor.metric).replace(f"{IN_DOMAIN}/", f"{others[0]}/", 1)
        task = next(iter(self.evaluations[others[0]].tasks))
        return same if same in row else f"{others[0]}/{task}/{self.primary[others[0], task]}"

    # -------------------------------------------------------------------------------------------------- the merged run

    def conclude(self, curve: list[Row]) -> Merged:
        """Choose alpha and write the run directory."""
        metric, mode = self.cfg.monitor.metric, self.cfg.monitor.mode
        chosen = choose([(row["alpha"], row[metric]["value"]) for row in curve], mode)
        shown = self.transfer_metric(curve[0])
        picture = self.draw(curve, chosen, metric, shown)
        self.write_run(chosen)
        self.out.write_json(SUMMARY, self.summary(curve, chosen, shown))
        monitor = f"{metric} ({mode}) on {where(self.evaluations[IN_DOMAIN])}"
        return Merged(self.out, chosen, curve, [name for name in (metric, shown) if name], monitor, picture)

    def draw(self, curve: list[Row], chosen: float, metric: str, shown: str | None) -> Path:
        """Plot the curve."""

        def line(name: str) -> Curve:
            parts = [[row[name][part] for row in curve] for part in ("value", "low", "high")]
            return Curve(f"{where(self.evaluations[name.split('/')[0]])}: {name.partition('/')[2]}", *parts)

        path, names = self.out.figures / f"{SUMMARY}.png", (self.first.name, self.second.name)
        other = line(shown) if shown else None
        return alpha_curves([row["alpha"] for row in curve], chosen, line(metric), other, path, names)

    def write_run(self, alpha: float) -> None:
        """Write ``checkpoints/best.ckpt`` and ``config.yaml``, as in any run."""
        config = self.config(alpha)
        state = {f"model.{name}": t.cpu() for name, t in interpolate(*self.ends, alpha).items()}
        state |= {f"loss.{name}": t for name, t in between_losses(*self.loss_ends, alpha).items()}
        path = self.out.checkpoints / "best.ckpt"
        with atomic(path) as unfinished:
            torch.save({"state_dict": state, "hyper_parameters": {"config": config}}, unfinished)
        write_text(self.out.config, OmegaConf.to_yaml(OmegaConf.create(config)))

    def config(self, alpha: float) -> dict[str, Any]:
        """Configuration of the merged model, with the data of its base; ``merge`` records its origin."""
        whole: Any = OmegaConf.to_container(self.cfg, resolve=True)
        parents = list(dict.fromkeys(self.first.parents + self.second.parents))
        origin = {"first": self.first.source, "second": self.second.source, "alpha": alpha, "runs": parents}
        kept = {name: whole[name] for name in ("data_dir", "seed", "model", "tune", "data")}
        return {"name": self.out.path.resolve().name, "run_dir": str(self.out.path), SUMMARY: origin, **kept}

    def summary(self, curve: list[Row], chosen: float, shown: str | None) -> dict[str, Any]:
        """The content of ``merge.json``."""
        places = {
            name: {"data": e.catalogue.card.name, "split": e.spec.split, "tasks": list(e.tasks)}
            for name, e in self.evaluations.items()
        }
        return {
            "schema": 1, "method": "weight interpolation (WiSE-FT, arXiv:2109.01903)", **self.sides,
            "preprocess": self.base.model.preprocess.describe(), "alpha": chosen,
            "monitor": OmegaConf.to_container(self.cfg.monitor, resolve=True), "transfer_metric": shown,
            "domains": places, "curve": curve, "command": self.line.command, "environment": environment(),
        }  # fmt: skip


def choose(values: Sequence[tuple[float, float]], mode: str) -> float:
    """The alpha of the best value; ties go to the smallest alpha, and NaN is worst.

    >>> choose([(0.0, 0.2), (0.5, 0.3), (1.0, 0.3)], "max")
    0.5
    """
    sign = 1 if mode == "max" else -1
    return max(values, key=lambda pair: (-math.inf if math.isnan(pair[1]) else sign * pair[1], -pair[0]))[0]


def state_copy(model: DualEncoder) -> dict[str, Tensor]:
    """Copy the state dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def between_losses(first: dict[str, Tensor], second: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Log of the temperature, and bias, at ``alpha``; if one side lacks a value, that of the other."""
    shared = first.keys() & second.keys()
    both = interpolate({name: first[name] for name in shared}, {name: second[name] for name in shared}, alpha)
    return first | second | both
