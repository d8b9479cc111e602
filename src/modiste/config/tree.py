"""Traversal of a composed config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def value_at(cfg: DictConfig, path: str) -> Any:
    try:
        return OmegaConf.select(cfg, path)
    except OmegaConfBaseException:  # reported by `value_problems`
        return None


def walk(node: object, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted path, container, key) of everything in ``node``, without following interpolations."""
    if not isinstance(node, (DictConfig, ListConfig)) or node._is_none() or node._is_missing():
        return
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node.keys()):
        here = join(path, key)
        yield here, node, key
        if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):  # type: ignore[arg-type]
            yield from walk(node[key], here)  # type: ignore[index]


def nodes(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    for path, parent, key in walk(cfg):
        if not OmegaConf.is_interpolation(parent, key) and not OmegaConf.is_missing(parent, key):
            value = parent[key]
            if isinstance(value, DictConfig) and not value._is_none():
                yield path, value
