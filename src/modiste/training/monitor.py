"""Check before training that the monitor is measured, and its direction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from omegaconf import DictConfig

from modiste.config.monitor import settle_mode
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
    better = stated_mode(config.monitor.metric, sets)
    if better is not None:
        settle_mode(config, better)


def stated_mode(metric: str, sets: Mapping[str, ValidationSet]) -> Literal["min", "max"] | None:
    """Mode of a validation metric according to the task that measures it.

    Returns:
        ``min`` or ``max``; None for a loss, and for a task that fails on random embeddings.

    Raises:
        ModisteError: The task does not measure the metric.
    """
    prefix = max((name for name in sets if metric.startswith(f"{name}/")), key=len, default=None)
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
