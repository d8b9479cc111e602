"""Interpolate the weights of two models (WiSE-FT): modiste merge first=start second=RUN transfer=fashion_mnist"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config import STARTS, compose, instantiate, quote, validate
from modiste.config.aliases import load_run_config
from modiste.errors import ModisteError, did_you_mean
from modiste.models.interpolate import check_alpha, check_architecture, interpolate
from modiste.utils.run_dir import RunDir, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from modiste.data.catalogue import Catalogue
    from modiste.models.dual_encoder import DualEncoder

log = logging.getLogger(__name__)
START = "start"
SUMMARY = "merge"


def run(cfg: DictConfig) -> None:
    """Evaluates the models between ``first`` and ``second``, and writes the run directory of the best one.

    Weights are interpolated as `modiste.models.interpolate.interpolate` says, and so is the log of the temperature.
    Each (alpha, data, task) is stored in ``alphas/`` as it is measured; one of the same weights, data and protocol is
    kept.

    Raises:
        ModisteError: A model is missing, the architectures differ, an alpha or a metric is none, or ``out`` holds
            something else.
    """
    alphas = checked_alphas(cfg.alphas)
    check_monitor(cfg)
    first, second = sides(cfg)
    check_architecture(first.model, second.model)
    base = second if second.config is not None or first.config is None else first
    adopt(cfg, base)
    out = RunDir(cfg.out or Path("runs") / SUMMARY / f"{slug(first)}-{slug(second)}")
    merge = Merge(cfg, first, second, base, out)
    merge.check_out()
    try:
        curve = merge.measure(alphas)
    except KeyboardInterrupt:
        print("\nInterrupted; finished alphas are kept. Go on with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    merge.conclude(curve)


# ---------------------------------------------------------------------------------------------------------- the models


@dataclass
class Side:
    """One of the two models.

    Attributes:
        source: As it was given: a run directory, ``start``, a hub id or a local model.
        model: The model, without adapters.
        config: Its run's configuration; null for a published model.
        name: For a person.
        parents: The run directories that its weights come from.
    """

    source: str
    model: DualEncoder
    config: Any
    name: str
    parents: list[str]


def sides(cfg: DictConfig) -> tuple[Side, Side]:
    """The two models. Raises ModisteError when one is not given or not there."""
    if not cfg.first or not cfg.second:
        raise ModisteError("modiste merge needs two models: first=RUN (or first=start) and second=RUN.")
    if cfg.second == START:
        raise ModisteError("second=start has no meaning: give first=start and second=RUN.")
    second = side(str(cfg.second), cfg.checkpoint)
    if cfg.first != START:
        return side(str(cfg.first), cfg.checkpoint), second
    if second.config is None:
        raise ModisteError(f"first=start needs a run as the second model, and '{cfg.second}' is none: give second=RUN.")
    from modiste.models.finetune import fold_adapters

    run_dir = RunDir.find(cfg.second)
    model = starting_model(run_dir)
    fold_adapters(model)
    # What the starting weights were trained on, if on anything, is told by the second run's own init.
    return Side(START, model.eval(), None, f"start of {second.name}", []), second


def side(source: str, checkpoint: str) -> Side:
    """A run, or a published model. Raises ModisteError when there is neither."""
    from modiste.models.finetune import fold_adapters
    from modiste.models.load import load

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


def starting_model(run_dir: RunDir) -> DualEncoder:
    """The model that ``modiste train`` began with in ``run_dir``: as its configuration builds it, with its ``init``.

    A run that was resumed from another began where that one did.

    Raises:
        ModisteError: The run was not trained, or what it started from is gone.
    """
    from lightning.pytorch import seed_everything

    from modiste.commands.train import starting_point
    from modiste.models.load import build_model, load_weights

    config: Any = load_run_config(run_dir.config)
    if SUMMARY in config:
        raise ModisteError(f"{run_dir.path} was merged, not trained, and has no start: give first=RUN.")
    origin = run_dir.origin(config)
    if origin["resume"]:
        return starting_model(RunDir.find(origin["resume"]))
    if config.get("continue") and not run_dir.read_json("start"):
        log.warning(
            "%s was continued by a version that did not record its first start: taken as one without init. If it had "
            "one, give first=THAT_RUN.",
            run_dir.path,
        )
    seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config)
    checkpoint = starting_point(OmegaConf.create(dict.fromkeys(STARTS) | origin))
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model


def adopt(cfg: DictConfig, base: Side) -> None:
    """The model node of ``base`` and, where the command line names no data, its data."""
    from modiste.commands._line import command_overrides
    from modiste.commands.evaluate import take_over

    if base.config is not None:
        take_over(cfg, base.config, command_overrides())
    else:
        path = Path(base.source).expanduser()
        source = str(path.resolve()) if path.is_dir() else base.source
        node = {"_target_": "modiste.pretrained.transformers.TransformersDualEncoder", "source": source}
        with open_dict(cfg):
            cfg.model, cfg.tune = node, {tower: {"train": "full"} for tower in ("image", "text")}
    with open_dict(cfg):
        for tower in cfg.tune.values():
            if tower.train == "lora":  # its adapters are in the weights now
                tower.train = "full"
    validate(cfg)


def slug(one: Side) -> str:
    """A side's name in a folder's name."""
    return START if one.source == START else one.name


# ------------------------------------------------------------------------------------------------------- the settings


def checked_alphas(given: Sequence[Any]) -> list[float]:
    """Ascending, each once.

    Raises:
        ModisteError: There is none, or one is no number in [0, 1].

    >>> checked_alphas([1, 0.5, 0, 0.5])
    [0.0, 0.5, 1.0]
    """
    if not OmegaConf.is_list(given) and not isinstance(given, list):
        raise ModisteError(f"alphas={given} is not a list: write alphas=[{given}].")
    if not given:
        raise ModisteError("alphas is empty: give at least one share of the second model, alphas=[0.5].")
    for alpha in given:
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise ModisteError(f"alphas has '{alpha}', which is not a number: give shares in [0, 1].")
        check_alpha(alpha)
    return sorted({float(alpha) for alpha in given})


def check_monitor(cfg: DictConfig) -> None:
    """Raises ModisteError where the monitor is of no task, or its mode unknown."""
    parts = str(cfg.monitor.metric).split("/")
    if len(parts) < 3 or parts[0] != "val" or parts[1] not in cfg.task:
        raise ModisteError(
            f"'monitor.metric' is {cfg.monitor.metric}, which is not measured here: give val/<task>/<metric> of one of "
            f"{', '.join(map(str, cfg.task))}."
        )
    if cfg.monitor.mode not in ("max", "min"):
        raise ModisteError(f"'monitor.mode' is {cfg.monitor.mode}: give max or min.")


# --------------------------------------------------------------------------------------------------- the measurements


@dataclass
class Domain:
    """A data set on which every alpha is evaluated: ``val`` (in domain, it chooses) or ``transfer``."""

    key: str
    cfg: DictConfig
    split: str
    catalogue: Catalogue
    tasks: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.catalogue.card.name} ({self.split})"


def domains(cfg: DictConfig) -> list[Domain]:
    """In domain, and the ``transfer`` data where some are given. Raises ModisteError when data are not there."""
    nodes = [("val", cfg, "val")]
    if cfg.transfer:
        transfer = transfer_config(cfg)
        nodes.append(("transfer", transfer, transfer.split))
    from modiste.data.build import load

    return [
        Domain(key, node, split, load(node.data), {str(name): instantiate(task) for name, task in node.task.items()})
        for key, node, split in nodes
    ]


def transfer_config(cfg: DictConfig) -> DictConfig:
    """What ``transfer`` composes: data, split, tasks; the command line's tasks where it names none itself."""
    from modiste.commands._line import command_overrides, config_dirs
    from modiste.commands.evaluate import key_of

    words = [f"data={cfg.transfer}"] if isinstance(cfg.transfer, str) else [str(word) for word in cfg.transfer]
    own_tasks = any(key_of(word) == "task" for word in words)
    tasks = [o for o in command_overrides() if key_of(o).partition(".")[0] == "task" and not own_tasks]
    composed = compose(
        "evaluate", [f"data_dir={quote(str(cfg.data_dir))}", f"seed={cfg.seed}", *tasks, *words], config_dirs()
    )
    validate(composed)
    return composed


Row = dict[str, Any]
"""``alpha``, ``fingerprint``, and ``<domain>/<task>/<metric>`` to the metric with its interval."""


class Merge:
    """The models between two, each evaluated on every domain.

    Args:
        cfg: The configuration of the command.
        first: The model at alpha 0.
        second: The model at alpha 1.
        base: The one of the two that gives the merged run its configuration and image transform.
        out: The run directory to write.
    """

    def __init__(self, cfg: DictConfig, first: Side, second: Side, base: Side, out: RunDir) -> None:
        from modiste.embedding.embedder import fingerprint

        self.cfg, self.first, self.second, self.base, self.out = cfg, first, second, base, out
        self.domains: list[Domain] = []
        self.primary: dict[tuple[str, str], str] = {}  # of (domain, task), as the tasks say
        # Copies: the model of `base` holds all that is evaluated.
        self.ends = state_copy(first.model), state_copy(second.model)
        self.loss_ends = loss_state(first.model), loss_state(second.model)
        self.sides = {
            name: {"source": side.source, "name": side.name, "fingerprint": fingerprint(side.model)}
            for name, side in (("first", first), ("second", second))
        }
        transforms = [side.model.preprocess.describe() for side in (first, second)]
        if transforms[0] != transforms[1]:
            log.warning(
                "The two models transform images differently; the merged one does it as %s: %s", base.name,
                base.model.preprocess.describe(),
            )  # fmt: skip

    def check_out(self) -> None:
        """Raises ModisteError where ``out`` is another run or merge."""
        known = self.out.read_json("sides")
        same = all(known.get(name, {}).get("fingerprint") == side["fingerprint"] for name, side in self.sides.items())
        if not same and (known or self.out.is_run):
            raise ModisteError(f"{self.out.path} holds another run or merge: give another directory, out=DIR.")

    def measure(self, alphas: Sequence[float]) -> list[Row]:
        """A row an alpha.

        Raises:
            ModisteError: The monitored metric, or that of the transfer, is not among what the tasks measure.
        """
        from modiste.utils.machine import keep_pages
        from modiste.utils.progress import progress_bar

        keep_pages()
        self.domains = domains(self.cfg)
        self.out.write_json("sides", self.sides)
        total = len(alphas) * sum(len(domain.tasks) for domain in self.domains)
        steps = [(alpha, domain, task) for alpha in alphas for domain in self.domains for task in domain.tasks]
        rows: dict[float, Row] = {}
        for alpha, domain, task in progress_bar(steps, total, "evaluating alphas"):
            if alpha not in rows:
                if len(rows) == 1:
                    self.check_metrics(next(iter(rows.values())))
                embedder = self.embedder(alpha)
                rows[alpha] = {"alpha": alpha, "fingerprint": embedder.fingerprint}
            rows[alpha] |= self.measure_one(alpha, domain, task, embedder)
        self.check_metrics(next(iter(rows.values())))
        return list(rows.values())

    def embedder(self, alpha: float) -> Any:
        """Embeds with the weights of ``alpha``."""
        from modiste.commands.evaluate import decode, device
        from modiste.embedding.embedder import ModelEmbedder, default_cache
        from modiste.utils.progress import progress_bar

        self.base.model.load_state_dict(interpolate(*self.ends, alpha))
        cache = default_cache() if self.cfg.cache else None
        model = self.base.model.to(device(self.cfg.device))
        return ModelEmbedder(model, self.cfg.batch_size, self.cfg.precision, cache, progress_bar, decode(self.cfg))

    def measure_one(self, alpha: float, domain: Domain, task: str, embedder: Any) -> Row:
        """The metrics of a task, from its file where that was made with the same weights, data and protocol."""
        from modiste.commands.evaluate import decode, describe, same_result

        described = self.base.model.describe() | {"precision": self.cfg.precision, "decode": decode(domain.cfg)}
        facts = {"fingerprint": embedder.fingerprint, "describe": described}
        identity = describe(domain.cfg, task, facts, domain.catalogue) | {"split": domain.split}
        path = self.out.path / "alphas" / f"{alpha}.{domain.key}.{task}.json"
        kept = same_result(path, identity)
        if not kept:
            started = time.perf_counter()
            embedder.decode = decode(domain.cfg)
            result = domain.tasks[task](embedder, domain.catalogue, domain.split)
            spent = {"seconds": round(time.perf_counter() - started, 2)}
            write_json(path, {"schema": 1, "alpha": alpha, **result.to_json(), **identity, **spent})
        content = json.loads(path.read_text(encoding="utf-8"))
        primary = content["metrics"][content["primary"]]["value"]
        log.info(
            "alpha %g  %s  %s/%s %.4f%s", alpha, domain.where, task, content["primary"], primary,
            " (kept)" if kept else "",
        )  # fmt: skip
        self.primary[domain.key, task] = content["primary"]
        return {f"{domain.key}/{task}/{name}": metric for name, metric in content["metrics"].items()}

    def check_metrics(self, row: Row) -> None:
        """Raises ModisteError where a metric that is asked for is not in ``row``."""
        for key, name in (("monitor.metric", self.cfg.monitor.metric), ("transfer_metric", self.transfer_metric(row))):
            prefix = f"{'val' if key == 'monitor.metric' else 'transfer'}/"
            measured = [metric for metric in row if metric.startswith(prefix)]
            if name is not None and name not in measured:
                raise ModisteError(f"'{key}' is {name}, which is not measured. {did_you_mean(name, measured)}")

    def transfer_metric(self, row: Row) -> str | None:
        """The metric of the transfer that is shown; null where there is no transfer."""
        if len(self.domains) == 1:
            return None
        if self.cfg.transfer_metric:
            return self.cfg.transfer_metric
        same = str(self.cfg.monitor.metric).replace("val/", "transfer/", 1)
        task = next(iter(self.domains[1].tasks))
        return same if same in row else f"transfer/{task}/{self.primary['transfer', task]}"

    # -------------------------------------------------------------------------------------------------- the merged run

    def conclude(self, curve: list[Row]) -> None:
        """Chooses alpha, writes the run directory, and says what was found."""
        metric, mode = self.cfg.monitor.metric, self.cfg.monitor.mode
        chosen = choose([(row["alpha"], row[metric]["value"]) for row in curve], mode)
        shown = self.transfer_metric(curve[0])
        picture = self.draw(curve, chosen, metric, shown)
        self.write_run(chosen)
        self.out.write_json(SUMMARY, self.summary(curve, chosen, shown))
        print_curve(curve, chosen, [name for name in (metric, shown) if name])
        print(f"\nalpha = {chosen:g} is best by {metric} ({mode}) on {self.domains[0].where}")
        print(f"Curve: {self.out.path / f'{SUMMARY}.json'}\nPicture: {picture}")
        print(f"Evaluate it: modiste evaluate run={self.out.path}")

    def draw(self, curve: list[Row], chosen: float, metric: str, shown: str | None) -> Path:
        from modiste.reporting.figures import Curve, alpha_curves

        def line(name: str, domain: Domain) -> Curve:
            parts = [[row[name][part] for row in curve] for part in ("value", "low", "high")]
            return Curve(f"{domain.where}: {name.partition('/')[2]}", *parts)

        transfer = line(shown, self.domains[1]) if shown else None
        path, names = self.out.figures / f"{SUMMARY}.png", (self.first.name, self.second.name)
        return alpha_curves(
            [row["alpha"] for row in curve], chosen, line(metric, self.domains[0]), transfer, path, names
        )

    def write_run(self, alpha: float) -> None:
        """``checkpoints/best.ckpt`` and ``config.yaml``, as other commands read them of any run."""
        import torch

        config = self.config(alpha)
        state = {f"model.{name}": t.cpu() for name, t in interpolate(*self.ends, alpha).items()}
        state |= {f"loss.{name}": t for name, t in between_losses(*self.loss_ends, alpha).items()}
        path = self.out.checkpoints / "best.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        torch.save({"state_dict": state, "hyper_parameters": {"config": config}}, unfinished)
        unfinished.replace(path)
        OmegaConf.save(OmegaConf.create(config), self.out.config)

    def config(self, alpha: float) -> dict[str, Any]:
        """What builds the merged model, and the data of its base; ``merge`` says where it comes from."""
        whole: Any = OmegaConf.to_container(self.cfg, resolve=True)
        parents = list(dict.fromkeys(self.first.parents + self.second.parents))
        origin = {"first": self.first.source, "second": self.second.source, "alpha": alpha, "runs": parents}
        kept = {name: whole[name] for name in ("data_dir", "seed", "model", "tune", "data")}
        return {"name": self.out.path.resolve().name, "run_dir": str(self.out.path), SUMMARY: origin, **kept}

    def summary(self, curve: list[Row], chosen: float, shown: str | None) -> dict[str, Any]:
        """The content of ``merge.json``."""
        from modiste.commands._line import command
        from modiste.utils.machine import environment

        places = {
            d.key: {"data": d.catalogue.card.name, "split": d.split, "tasks": list(d.tasks)} for d in self.domains
        }
        return {
            "schema": 1, "method": "weight interpolation (WiSE-FT, arXiv:2109.01903)", **self.sides,
            "preprocess": self.base.model.preprocess.describe(), "alpha": chosen,
            "monitor": OmegaConf.to_container(self.cfg.monitor), "transfer_metric": shown, "domains": places,
            "curve": curve, "command": command(), "environment": environment(),
        }  # fmt: skip


def choose(values: Sequence[tuple[float, float]], mode: str) -> float:
    """The alpha of the best value; of equals the smallest, nearest to the first model; not a number is worst.

    >>> choose([(0.0, 0.2), (0.5, 0.3), (1.0, 0.3)], "max")
    0.5
    """
    sign = 1 if mode == "max" else -1
    return max(values, key=lambda pair: (-math.inf if math.isnan(pair[1]) else sign * pair[1], -pair[0]))[0]


def state_copy(model: DualEncoder) -> dict[str, Tensor]:
    """The state dict, in memory of its own."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def loss_state(model: DualEncoder) -> dict[str, Tensor]:
    """The temperature, and bias, that came with the weights, as a loss stores them."""
    import torch

    scale, bias = model.initial_scale, model.initial_bias
    found = {"logit_scale": scale and math.log(scale), "logit_bias": bias}
    return {name: torch.tensor(float(value)) for name, value in found.items() if value is not None}


def between_losses(first: dict[str, Tensor], second: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The log of the temperature and the bias at ``alpha``; what one side lacks is the other's."""
    shared = first.keys() & second.keys()
    both = interpolate({name: first[name] for name in shared}, {name: second[name] for name in shared}, alpha)
    return first | second | both


def print_curve(curve: list[Row], chosen: float, names: Sequence[str]) -> None:
    """A table of the shown metrics, an alpha a row."""
    from rich.console import Console
    from rich.table import Table

    table = Table("alpha", *names)
    for row in curve:
        cells = [f"{row[n]['value']:.4f} [{row[n]['low']:.4f}, {row[n]['high']:.4f}]" for n in names]
        table.add_row(f"{row['alpha']:g}", *cells, style="bold" if row["alpha"] == chosen else "")
    Console().print(table)
