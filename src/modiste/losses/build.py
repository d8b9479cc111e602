"""Build a loss from its config node, the pretrained weights and the batch size."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from modiste.config import instantiate
from modiste.config.targets import locate
from modiste.losses.base import ContrastiveLoss, Origin


def build_loss(node: Mapping[str, Any], origin: Origin) -> ContrastiveLoss:
    """Build the loss of a config node, with null arguments derived from ``origin``.

    Args:
        node: ``_target_`` and its arguments, which may be losses themselves.
        origin: Temperature and bias of the weights, and the global batch size.

    Raises:
        ModisteError: The node cannot be built; see `modiste.config.instantiate`.

    >>> clip = {"_target_": "modiste.losses.clip.ClipLoss", "init_scale": None}
    >>> round(build_loss(clip, Origin(scale=50.0, global_batch=8)).scale.item(), 3)
    50.0
    """
    inner = {key: build_loss(value, origin) for key, value in node.items() if _class_of(value)}
    target = _class_of(node)
    begun = target.begin(node, origin) if target else {}
    loss: ContrastiveLoss = instantiate(
        node, **inner, **{name: value for name, value in begun.items() if node.get(name) is None}
    )
    return loss


def _class_of(node: Any) -> type[ContrastiveLoss] | None:
    """The class of a loss that a config node describes; None for anything else."""
    target = locate(node["_target_"]) if isinstance(node, Mapping) and "_target_" in node else None
    return target if inspect.isclass(target) and issubclass(target, ContrastiveLoss) else None
