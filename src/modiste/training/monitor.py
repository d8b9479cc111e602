"""Check before training that the monitor is measured, and its direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from omegaconf import DictConfig

from modiste.config import MEAN
from modiste.config.monitor import given_mode, settle_mode
from modiste.data.module import ValidationSet
from modiste.embedding.embedder import MatrixEmbedder
from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.direction import direction

ROWS = 2000
"""Maximum number of rows of a split on which a task is tried."""
DIM = 8


def settle_monitor(config: DictConfig, sets: Mapping[str, ValidationSet]) -> None:
    """Check the monitor before training, and set ``monitor.mode`` in place if it is not given.

    The monitor's task runs once on random embeddings: its result has the names and directions of the metrics. If it
    fails on these, the first validation makes the check.

    Args:
        config: Configuration with a ``monitor`` node.
        sets: Validation sets by the prefix of their metrics.

    Raises:
        ModisteError: The task does not measure the monitor, or ``monitor.mode`` would keep the worst epoch.
    """
    metric = config.monitor.metric
    better = stated_mode(metric, sets, config.monitor.get("mean") or ())
    if better is not None:
        settle_mode(config, better)
    elif not given_mode(config):
        config.monitor.mode = direction(metric)


def stated_mode(
    metric: str, sets: Mapping[str, ValidationSet], mean: Sequence[str] = ()
) -> Literal["min", "max"] | None:
    """Mode of a validation metric: ``min`` of a loss, else that of the task that measures it.

    Args:
        metric: Name (``val/loss``, ``val/retrieval/t2i/mrr``).
        sets: Validation sets by the prefix of their metrics.
        mean: Metrics whose mean is ``val/mean``.

    Returns:
        ``min`` or ``max``; None for a task that fails on random embeddings.

    Raises:
        ModisteError: The task does not measure the metric, or ``mean`` mixes the two modes.
    """
    if metric == MEAN:
        return common_mode({name: stated_mode(name, sets) for name in mean})
    prefix = max((name for name in sets if metric.startswith(f"{name}/")), key=len, default=None)
    if metric == f"{prefix}/loss":
        return "min"
    task = "" if prefix is None else metric[len(prefix) + 1 :].partition("/")[0]
    if prefix is None or task not in sets[prefix].tasks:
        return None
    measured, whole = tried(sets[prefix], task)
    known = {f"{prefix}/{task}/{name}": better for name, better in measured.items()}
    if metric in known:
        return direction(metric, known)
    if known and whole:
        raise ModisteError(
            f"The metric to select by is {metric}, which {task} does not measure. {did_you_mean(metric, known)}"
        )
    return None


def common_mode(modes: Mapping[str, Literal["min", "max"] | None]) -> Literal["min", "max"] | None:
    """The mode of a mean of metrics; None if no mode of theirs is known.

    Args:
        modes: Mode of each metric.

    Raises:
        ModisteError: Higher is better for one and worse for another.

    >>> common_mode({"val/retrieval/t2i/mrr": "max", "val/loss": "min"})
    Traceback (most recent call last):
    modiste.errors.ModisteError: monitor.mean mixes metrics where higher is better with val/loss: remove one kind.
    """
    known = {name: mode for name, mode in modes.items() if mode is not None}
    if len(set(known.values())) > 1:
        lower = next(name for name, mode in known.items() if mode == "min")
        raise ModisteError(f"monitor.mean mixes metrics where higher is better with {lower}: remove one kind.")
    return next(iter(known.values()), None)


def tried(measured: ValidationSet, task: str) -> tuple[Mapping[str, bool], bool]:
    """``higher_is_better`` of a task's metrics, {} if it fails, and whether it ran on the whole split."""
    split = measured.data.pairs(measured.split)
    count = min(len(split), ROWS)
    rows = split.catalogue.select(rows=range(count))
    captions = [split.captions.first(index) for index in range(count)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image, text = (torch.randn(count, DIM) for _ in range(2))
        embedder = MatrixEmbedder(rows, image, text, captions, lambda texts: torch.randn(len(texts), DIM))
        try:
            return measured.tasks[task](embedder, rows, measured.split).higher_is_better, count == len(split)
        except Exception:  # from any task's code; the first validation raises real errors
            return {}, False
