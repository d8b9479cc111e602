"""Types and ranges of every setting, checked after composition and before heavy imports.

The schema of a node with a ``_target_`` is the annotations of its target. This module declares the rest: the keys of
the root configs, nodes that are passed as a whole to a class (`CLASSES`), and ranges of other packages' classes
(`RANGES`).
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.config.aliases import current
from modiste.config.building import SPECIAL
from modiste.config.signatures import Unknown, signature
from modiste.config.tree import walk
from modiste.errors import did_you_mean
from modiste.utils.ranges import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    PositiveFraction,
    Range,
    Seed,
    Side,
    Width,
    Workers,
)

Text = str | int  # YAML reads a name of digits as a number
Node = Mapping[str, Any]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
# Not 16-true and bf16-true: half-precision weights lose small optimizer updates.
TrainerPrecision = Literal["32-true", "16-mixed", "bf16-mixed", "64-true", "16", "32", "64", "bf16", 16, 32, 64]

# Keys of the root configs and of their nodes without a target; `*` matches one name. Keys not listed are unknown.
KEYS: dict[str, Any] = {
    "name": Text,
    "run_dir": str,
    "data_dir": str,
    "log_dir": str,
    "paths": Any,
    "tags": Sequence[str],
    "seed": Seed,
    "split": str,
    "train_split": str,
    "variant": Text,
    "run": str | None,
    "checkpoint": Literal["best", "last"],
    "precision": Precision,
    "batch_size": Count,
    "device": str,
    "dim": Width | None,
    "overwrite": bool,
    "overlap": bool,
    "deterministic": bool,
    "cache": bool,
    "min_cosine": Node,
    "min_cosine.image": Fraction,
    "min_cosine.text": Fraction,
    "embeddings": Node,
    "embeddings.image": str | None,
    "embeddings.text": str | None,
    "monitor": Node,
    "monitor.metric": str,
    "monitor.mode": Literal["min", "max"] | None,
    "monitor.mean": Sequence[str],
    "transfer": Any,
    "init": str | None,
    "resume": str | None,
    "continue": str | None,
    "model": Node,
    "image": Node,
    "text": Node,
    "loss": Node,
    "term": Node | None,
    "term.*": Node | None,
    "data": Node,
    "task": Node,
    "task.*": Node,
    "optim": Node,
    "trainer": Node,
    "callbacks": Node | None,
    "callbacks.*": Node | None,
    "logger": Node | None,
    "logger.*": Node | None,
    "suite": Node | None,
    "suite.name": Text,
    "suite.entries": Any,
    "tune": Node,
    "tune.image": Node,
    "tune.text": Node,
    "features": Node,
    "features.cache": bool,
    "features.dtype": Literal["float32", "float16"],
    "features.views": Count,
    "grad_cache": Node,
    "cost": Node,
    "cost.price_per_hour": NonNegative | None,
    "cost.currency": str,
    "cost.country": str | None,
    "sweep": Node,
    "sweep.space": Node,
    "sweep.space.*": Node,
    "sweep.trials": Count,
    "sweep.objectives": Sequence[Mapping[str, Any]],
    "sweep.repeats": Count,
    "sweep.processes": Literal["auto", "shared", "own"],
    "sweep.storage": Literal["journal", "sqlite"],
    "sweep.sampler": Node,
    "sweep.pruner": Node,
    "data.name": Text,
    "data.batch_size": Count,
    "data.eval_batch_size": Count,
    "data.num_workers": Annotated[int, Range(least=0, most=1024)] | None,
    "data.limit": Count | None,
    "data.augment": Sequence[Any],
    "data.seed": Seed,
    "data.held_out": Mapping[str, Any] | Sequence[Any] | None,
    "data.corruptions": Sequence[Any],
    "data.preprocessed": str | None,
    "data.decode": Literal["pil", "exact", "scaled"],
    "data.positives": Literal["product", "caption"],
    "data.derive": Node,
    "data.derive.*": Sequence[Any],
    "data.batches": Node,
    "data.fields": Node,
    "data.fields.*": Node | None,
    "data.weight": Node,
    "data.stream": Node,
    "data.stream.columns": Node,
    "data.captions": Node,
    "data.catalogue": Node,
    "data.split": Node,
    "data.prompts": Node,
    "data.prompts.*": Sequence[str] | None,
    "data.classes": Node,
    "data.classes.*": Node,
    "data.synonyms": Node | None,
    "data.compositional": Node | None,
    "data.queries": Node,
    "data.queries.*": Node,
    "data.similar": Node | None,
    "data.grounding": Node | None,
    "data.judgements": str,
    "data.gallery": str,
    "data.origin": str,
}
# Nodes passed as a whole to a class, whose annotations are their schema.
CLASSES = {
    "data.batches": "modiste.data.batches.Batches",
    "data.captions": "modiste.data.captions.Captions",
    "data.weight": "modiste.data.fields.PairWeights",
    "data.stream": "modiste.data.storage.streaming.Stream",
    "tune.image": "modiste.models.finetune.Tuning",
    "tune.text": "modiste.models.finetune.Tuning",
    "grad_cache": "modiste.training.grad_cache.GradCache",
}
# Keys of a single root config, or with a stricter type than elsewhere.
BY_ROOT: dict[str, dict[str, Any]] = {
    "audit": {"other": Any, "hamming": Natural, "colour": Natural, "cosine": Fraction, "copies": bool}
    | {"show": Natural, "sheet": Natural, "out": str | None},
    "embed": {"out": str | None, "workers": Literal["processes", "ray"], "number": Workers | None}
    | {"threads": Workers, "shard_rows": Count},
    "prepare": {"out": str | None, "format": Literal["pixels", "webdataset"], "size": Side, "shard_rows": Count}
    | {"resize": Literal["shortest", "squash", "pad"], "crop_pct": PositiveFraction},
    "merge": {"first": str | None, "second": str | None, "alphas": Sequence[Fraction], "transfer_metric": str | None}
    | {"out": str | None},
    "ground": {"photo": str | None, "phrases": Sequence[Text] | None, "method": Text | None, "size": Side | None}
    | {"threshold": Fraction | None, "out": str | None},
    "verify": {"sources": Sequence[str], "tolerance": NonNegative},
    "table": {"sources": Sequence[str], "out": str | None},
    "compare": {"sources": Sequence[str], "resamples": Annotated[int, Range(least=1, most=10**7)]}
    | {"out": str | None},
    "index": {"action": str | None, "index": str | None, "out": str | None, "vectors": str | None}
    | {"delete_missing": bool, "at": Natural | None, "ids": Sequence[Any], "engine": Literal["lancedb", "qdrant"]}
    | {"qdrant": Node, "qdrant.url": str | None, "qdrant.collection": str | None, "choices": Sequence[str] | None}
    | {"recall_floor": Fraction, "coverage": Fraction, "export_text": bool},
    "search": {"index": str, "query": Node, "query.*": Any, "where": str | None, "k": Count, "weights": Node}
    | {"weights.*": NonNegative, "hybrid": Fraction, "group": bool, "at": Natural | None}
    | {"columns": Sequence[str] | None, "html": str | None, "qdrant": Node, "qdrant.url": str | None},
}
# Ranges and choices of classes of other packages; those of Modiste, and of users' parts, are in their annotations.
RANGES: dict[str, dict[str, Any]] = {
    "lightning.pytorch.Trainer": {
        "accelerator": str,
        "precision": TrainerPrecision | None,
        "devices": Annotated[int, Range(least=-1, most=1024)] | str | Sequence[int],
        "num_nodes": Count,
        "max_epochs": Annotated[int, Range(least=-1)] | None,
        "max_steps": Annotated[int, Range(least=-1)],
        "accumulate_grad_batches": Count,
        "gradient_clip_val": NonNegative | None,
        "log_every_n_steps": Natural,
        "check_val_every_n_epoch": Count | None,
        "val_check_interval": Positive | str | Mapping[str, Any] | None,
        "limit_train_batches": NonNegative | None,
        "limit_val_batches": NonNegative | None,
        "num_sanity_val_steps": Annotated[int, Range(least=-1)],
    },
    "lightning.pytorch.callbacks.EarlyStopping": {"patience": Natural, "mode": Literal["min", "max"]},
    "lightning.pytorch.callbacks.ModelCheckpoint": {
        "mode": Literal["min", "max"], "every_n_train_steps": Natural | None,
    },
    "torch.optim.AdamW": {"eps": NonNegative, "betas": Sequence[Annotated[float, Range(least=0, most=1)]]},
    "torchvision.transforms.v2.RandomGrayscale": {"p": Fraction},
    "torchvision.transforms.v2.RandomHorizontalFlip": {"p": Fraction},
    "modiste.data.storage.streaming.Stream": {"shards": str | Sequence[str] | None},  # null: no stream
}  # fmt: skip
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}


def value_problems(cfg: DictConfig, root: str = "") -> list[str]:
    """Describe values of a composed config of the wrong type or out of range, one sentence each.

    Args:
        cfg: The config.
        root: Name of its root config, which may have stricter types (`BY_ROOT`).

    >>> value_problems(OmegaConf.create({"seed": 0.5, "monitor": {"mode": "x"}}))
    ["'seed' is 0.5: it takes a whole number from 0 to 4294967295.", "'monitor.mode' is x: it takes min, max or null."]
    """
    declared = KEYS | BY_ROOT.get(root, {})
    found: dict[str, tuple[str, Any]] = {}
    for path, parent, key in walk(cfg):
        annotation = _annotation(path, parent, key, declared)
        if problem := _problem(path, parent, key, annotation):
            found[path] = (problem, parent._get_node(key)._value())
    # A wrong value is reported once: not again for interpolations of it, nor for the node around it.
    pointers = {f"${{{path}}}" for path in found}
    problems = [
        problem
        for path, (problem, raw) in found.items()
        if not (isinstance(raw, str) and raw in pointers) and not any(deeper.startswith(f"{path}.") for deeper in found)
    ]
    if root == "sweep" and isinstance(space := plain(cfg.sweep.get("space")), dict):
        problems += [
            f"'sweep.space.{key}' has no values: give choices, or low and high."
            for key, entry in space.items()
            if isinstance(entry, dict) and not ("choices" in entry or {"low", "high"} <= entry.keys())
        ]
    if root in ("evaluate", "merge") and not cfg.get("task"):
        problems.append("'task' is empty: name at least one, as in task=[retrieval].")
    return problems


def _annotation(path: str, parent: Any, key: Any, declared: Mapping[str, Any]) -> Any:
    if not isinstance(parent, DictConfig) or key in SPECIAL:
        return Unknown
    above = path_above(path, key)
    target = target_of(above, parent)
    if target is not None:
        if key in RANGES.get(target, {}):
            return RANGES[target][key]
        taken = signature(target)
        if taken is not None and (parameter := taken.parameters.get(key)):
            nullable = parameter.none and parameter.type is not Unknown
            return parameter.type | None if nullable else parameter.type
    return declared.get(path, declared.get(f"{above}.*", Unknown) if above else Unknown)


def path_above(path: str, key: object) -> str:
    """Return the path of the node that contains ``key``, which may have dots itself."""
    return path[: -len(str(key))].rstrip(".")


def target_of(path: str, node: DictConfig) -> str | None:
    """Return the class whose arguments the node's keys are; None if it has none."""
    if "_target_" not in node:
        return CLASSES.get(path)
    try:
        return current(str(node["_target_"]))
    except OmegaConfBaseException:  # reported elsewhere
        return None


def _problem(path: str, parent: DictConfig, key: Any, annotation: Any) -> str | None:
    try:
        value = None if OmegaConf.is_missing(parent, key) else plain(parent[key])
    except OmegaConfBaseException:  # a broken interpolation, reported at its own key
        return None
    large = isinstance(value, int) and abs(value) >= 2**63
    if OmegaConf.is_missing(parent, key) or value == "???" or (fits(value, annotation) and not large):
        return None
    quotable = str in _options(annotation) and isinstance(value, (int, float)) and not isinstance(value, bool)
    hint = f""" Quote it: '{path}="{value}"'.""" if quotable else ""
    return f"'{path}' is {shown(value)}: it takes {'a number of 64 bits' if large else describe(annotation)}.{hint}"


def plain(value: Any) -> Any:
    """Convert a config node to plain containers; other values are returned unchanged."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def shown(value: object) -> str:
    """Format a value as in an override, shortened to 60 characters."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def fits(value: object, annotation: Any) -> bool:
    """Whether a plain ``value`` fits an annotation; a mapping fits any class: it may be a target's node.

    >>> fits(0.5, Fraction), fits(2, Fraction), fits(True, int), fits([1, 2], Sequence[int]), fits(None, str | None)
    (True, False, False, True, True)
    """
    options = _options(annotation)
    return any(_fits_one(value, option) for option in options)


def _options(annotation: Any) -> list[Any]:
    """Return the members of a union, or the single type."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _fits_one(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (Any, Unknown, object):
        return not isinstance(value, float) or math.isfinite(value)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if origin is Annotated:
        bounds = [bound for bound in arguments[1:] if isinstance(bound, Range)]
        return fits(value, arguments[0]) and all(bound.contains(value) for bound in bounds)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    kind = origin or annotation
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str)
    if not isinstance(kind, type):
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, dict) and (
            len(arguments) < 2 or all(fits(item, arguments[1]) for item in value.values())
        )
    if issubclass(kind, (Sequence, list, tuple)) or kind.__name__ == "Iterable":
        return isinstance(value, list) and _items_fit(value, kind, arguments)
    return True


def _items_fit(value: list[Any], kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def describe(annotation: Any) -> str:
    """Describe a type in words.

    >>> describe(Fraction), describe(Literal["min", "max"]), describe(Sequence[int] | None)
    ('a number from 0 to 1', 'min or max', 'a list, each item a whole number, or null')
    """
    words: list[str] = []
    for option in _options(annotation):
        words += _describe_one(option)
    words = list(dict.fromkeys(words))
    if len(words) < 3:
        joint = ", or " if any("," in word for word in words) else " or "
        return joint.join(words)
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _describe_one(annotation: Any) -> list[str]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return [f"{describe(arguments[0])} {arguments[1]}"]
    if origin is Literal:
        return [str(option) for option in arguments]
    kind = origin or annotation
    if annotation is None:
        return ["null"]
    if annotation in (Any, Unknown, object):
        return ["a finite number"]
    if kind in WORDS:
        return [WORDS[kind]]
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return [
            "a mapping" + (f" to {describe(arguments[1])}" if len(arguments) > 1 and arguments[1] is not Any else "")
        ]
    return ["a list" + (f", each item {describe(arguments[0])}" if arguments and arguments[0] is not Any else "")]


# ------------------------------------------------------------------------------------------------------- unknown keys


def unknown_keys(cfg: DictConfig, top: Sequence[str], root: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, hint) for every key that nothing reads.

    Args:
        cfg: The composed config.
        top: Keys and groups of its root config.
        root: The root config's name.
    """
    declared = KEYS | BY_ROOT.get(root, {})
    children: dict[str, list[str]] = {}
    for name in declared:
        above, _, child = name.rpartition(".")
        children.setdefault(above, []).append(child)
    for key in cfg:
        if str(key) not in top:
            yield str(key), did_you_mean(str(key), top)
    for path, parent, key in walk(cfg):
        above = path_above(path, key)
        if not above or not isinstance(parent, DictConfig) or key in SPECIAL:
            continue
        known = children.get(above, [])
        target = target_of(above, parent)
        taken = signature(target) if target is not None else None
        if target is not None and (taken is None or taken.open):
            continue
        known = [*known, *(taken.parameters if taken else ())]
        if known and key not in known and "*" not in known:
            takes = f"{target} takes no '{key}'. " if "_target_" in parent else ""
            yield path, takes + did_you_mean(str(key), known)
