"""Validation of a composed config before anything is built or loaded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from modiste.config import schema
from modiste.config.aliases import current
from modiste.config.building import SPECIAL, signature_problems
from modiste.config.messages import explain_interpolation
from modiste.config.targets import check_place, locate
from modiste.config.tree import join, nodes, value_at, walk
from modiste.errors import ModisteError

STARTS = ("init", "resume", "continue")
GLOBAL = ("experiment", "debug", "paths", "local")
"""Groups whose options set keys anywhere in the config."""
PARTS = ("task", "term", "logger", "callbacks")
"""Groups of which several options may be chosen, each under its name."""
AUTOMATIC = "auto"
"""Value of ``continue`` that resumes from the run directory if it has a checkpoint."""
HELD_OUT = "held_out"
"""The validation set created by ``data.held_out``."""
STRATEGIES = re.compile(r"auto|single_device|ddp\w*")
"""Strategies of Lightning that load untrusted checkpoints as weights only; ``fsdp`` unpickles them."""
MEAN = "val/mean"
"""The metric created by ``monitor.mean``."""


def validate(cfg: DictConfig, given: Mapping[str, Collection[str]] | None = None) -> None:
    """Check a composed config before anything is built or loaded.

    Finds missing values, broken interpolations, refused or unknown targets, unknown or missing arguments, and
    contradictions. A target may define a static ``validate_config(node, cfg)`` that raises ModisteError.

    Args:
        cfg: The job's config.
        given: Arguments that the caller will add, by key path, as in ``{"model": ["embed_dim"]}``.

    Raises:
        ModisteError: All problems, one per line.

    >>> validate(OmegaConf.create({"act": {"_target_": "torch.nn.GELU", "aproximate": "tanh"}}))
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'act.aproximate': torch.nn.GELU takes no 'aproximate'. Did you mean 'approximate'?
    """
    given = given or {}
    problems = value_problems(cfg, {join(path, name) for path in given for name in given[path]})
    problems += schema.value_problems(cfg) + contradictions(cfg) + not_chosen(cfg)
    checks = []
    for path, node in [("", cfg), *nodes(cfg)]:
        if "_target_" not in node or OmegaConf.is_missing(node, "_target_"):
            continue
        try:
            target = locate(str(node["_target_"]))
            check_place(current(str(node["_target_"])), path)
        except ModisteError as error:
            problems.append(f"'{join(path, '_target_')}': {error}")
            continue
        except OmegaConfBaseException:  # a broken interpolation, already reported
            continue
        keys = [str(k) for k in node if k not in SPECIAL] + list(given.get(path, ()))
        args = len(node.get("_args_") or ())
        complete = not node.get("_partial_", False)
        problems += signature_problems(str(node["_target_"]), target, keys, args, path, complete)
        if hasattr(target, "validate_config"):
            checks.append((path, node, target))
    if not problems:  # validate_config may rely on all other checks
        for path, node, target in checks:
            try:
                target.validate_config(node, cfg)
            except ModisteError as error:
                problems.append(f"'{path}': {error}")
    report(problems)


def report(problems: Sequence[str]) -> None:
    """Raise a ModisteError that lists ``problems``, unless the list is empty."""
    if len(problems) > 1:
        raise ModisteError("\n- ".join([f"The config has {len(problems)} problems:", *problems]))
    if problems:
        raise ModisteError(problems[0])


def value_problems(cfg: DictConfig, given: Collection[str] = ()) -> list[str]:
    """Describe missing values (???) that are not ``given``, and broken interpolations; imports nothing."""
    problems = []
    for path, parent, key in walk(cfg):
        if OmegaConf.is_missing(parent, key):
            if path not in given and not (isinstance(parent, DictConfig) and parent.get("_partial_", False)):
                problems.append(f"'{path}' has no value: give one with {path}=…")
        elif OmegaConf.is_interpolation(parent, key):
            try:
                parent[key]
            except MissingMandatoryValue:  # reported at its own key
                continue
            except OmegaConfBaseException as error:
                if "HydraConfig was not set" in str(error):  # ${hydra:…} is known only while a job runs
                    continue
                text = OmegaConf.to_container(parent, resolve=False)[key]  # type: ignore[index]
                problems.append(f"'{path}' = {text} cannot be resolved: {explain_interpolation(error, cfg)}")
    return problems


def not_chosen(cfg: DictConfig) -> list[str]:
    """Describe keys set for parts that are not chosen, as after ``term=[]``."""
    problems = []
    for group in PARTS:
        parts = value_at(cfg, group)
        for name, node in parts.items() if isinstance(parts, DictConfig) else ():
            if isinstance(node, DictConfig) and "_target_" not in node:
                part = f"{group}.{name!s}"
                keys = ", ".join(f"{part}.{key!s}" for key in node)
                problems.append(
                    f"'{part}' is not chosen{f', but {keys} set' if keys else ''}: choose it "
                    f"('{group}=[{name!s}]'), or remove it ('~{part}')."
                )
    return problems


def contradictions(cfg: DictConfig) -> list[str]:
    """Describe settings that exclude each other, one sentence each."""
    problems = []
    starts = [key for key in STARTS if value_at(cfg, key) is not None]
    if value_at(cfg, "continue") == AUTOMATIC:  # the first start uses the other setting, later ones resume
        starts.remove("continue")
    if len(starts) > 1:
        problems.append(f"{' and '.join(starts)} exclude each other: give one.")
    batch_size = value_at(cfg, "data.batch_size")
    if "loss" in cfg and isinstance(batch_size, int) and batch_size < 2:
        problems.append(f"'data.batch_size' is {batch_size}: a contrastive loss needs at least 2 pairs per batch.")
    unlimited = {"trainer.max_epochs": "-1", "trainer.max_steps": "-1", "trainer.limit_train_batches": "null"}
    for key, value in unlimited.items():
        if value_at(cfg, key) == 0:
            problems.append(f"'{key}' is 0: nothing would be trained; give more, or {value} for no limit.")
    strategy = value_at(cfg, "trainer.strategy")
    if isinstance(strategy, str) and not STRATEGIES.fullmatch(strategy):
        problems.append(f"'trainer.strategy' is {strategy}, which is not supported: use auto, ddp, or trainer=fsdp.")
    swept = any(str(key).startswith("tune") for key in value_at(cfg, "sweep.space") or ())  # each trial is validated
    frozen = swept or any(_frozen_trunk(cfg, tower) for tower in ("image", "text"))
    if value_at(cfg, "features.cache") is True and not frozen:
        problems.append(
            "'features.cache' is true, but no trunk is frozen: set tune.image.train or tune.text.train to last_n with "
            "layers=1 (its projection), or to frozen."
        )
    tasks = list(value_at(cfg, "task") or {})
    sets = [*(value_at(cfg, "transfer") or {}), *([HELD_OUT] if value_at(cfg, "data.held_out") else [])]
    problems += [f"'transfer.{name}' has the name of a task: give the set another." for name in sets if name in tasks]
    if MEAN.removeprefix("val/") in sets:
        problems.append(f"'transfer.mean' has the name of {MEAN}: give the set another.")
    problems += _not_measured(cfg, tasks, sets)
    if "run" in cfg and "embeddings" in cfg:
        problems += _what_to_evaluate(cfg)
    return problems


def _frozen_trunk(cfg: DictConfig, tower: str) -> bool:
    train, layers = (value_at(cfg, f"tune.{tower}.{key}") for key in ("train", "layers"))
    return train == "frozen" or (train == "last_n" and layers == 1)


def _not_measured(cfg: DictConfig, tasks: Sequence[str], sets: Sequence[str]) -> list[str]:
    """Describe monitored metrics that no task measures, one sentence each."""
    named = {"monitor.metric": value_at(cfg, "monitor.metric")}
    named |= {f"monitor.mean[{place}]": name for place, name in enumerate(value_at(cfg, "monitor.mean") or ())}
    if named["monitor.metric"] == MEAN:
        del named["monitor.metric"]
        if not named:
            return [f"'monitor.metric' is {MEAN}, a mean of nothing: list its metrics in monitor.mean."]
    measured = [["val", name] for name in (*tasks, *sets)]
    of = f", or val/<set>/loss or val/<set>/<task>/<metric> of one of {', '.join(sets)}." if sets else "."
    return [
        f"'{key}' is {name}, which no task measures: give val/loss, or val/<task>/<metric> of one of "
        f"{', '.join(tasks) or 'no tasks'}{of}"
        for key, name in named.items()
        if isinstance(name, str) and name != "val/loss" and name.split("/")[:2] not in measured
    ]


def _what_to_evaluate(cfg: DictConfig) -> list[str]:
    matrices = [name for name in ("image", "text") if value_at(cfg, f"embeddings.{name}")]
    if len(matrices) == 1:
        return ["Evaluation from disk needs both embeddings.image=FILE and embeddings.text=FILE."]
    if matrices and value_at(cfg, "run"):
        return ["run= and embeddings= exclude each other: give one."]
    return []
