"""The mode of a monitor: the given one, or that of its metric."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from modiste.errors import ModisteError


def given_mode(config: DictConfig) -> str:
    """The ``monitor.mode`` that somebody gave; "" if it is to follow from the metric."""
    return "" if OmegaConf.is_interpolation(config.monitor, "mode") else config.monitor.mode or ""


def settle_mode(config: DictConfig, better: str) -> None:
    """Set ``monitor.mode`` in place if it is not given.

    Args:
        config: Configuration with a ``monitor`` node.
        better: Mode of the monitored metric, ``min`` or ``max``.

    Raises:
        ModisteError: The given mode is the other one.

    >>> config = OmegaConf.create({"monitor": {"metric": "val/gap/gap", "mode": None}})
    >>> settle_mode(config, "min")
    >>> config.monitor.mode
    'min'
    """
    check_mode(config.monitor.metric, given_mode(config) or better, better)
    config.monitor.mode = better


def check_mode(metric: str, mode: str, better: str, key: str = "monitor.mode") -> None:
    """Raise ModisteError if ``mode``, given as ``key``, is not that of the metric, ``better``.

    >>> check_mode("val/gap/gap", "max", "min")
    Traceback (most recent call last):
    modiste.errors.ModisteError: monitor.mode=max would keep the worst val/gap/gap: set monitor.mode=min.
    """
    if mode != better:
        raise ModisteError(f"{key}={mode} would keep the worst {metric}: set {key}={better}.")
