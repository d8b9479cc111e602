"""A loss from its config node, begun where the weights and the batch say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import instantiate
from modiste.config.targets import locate
from modiste.losses.base import ContrastiveLoss, Origin


def build_loss(node: DictConfig | Mapping[str, Any], origin: Origin) -> ContrastiveLoss:
    """The loss of a config node; what the node leaves open follows from where training starts.

    Args:
        node: ``_target_`` and its arguments; a loss may have losses among them.
        origin: Temperature of the weights and size of the batch.

    Raises:
        ModisteError: The node cannot be built; see `modiste.config.instantiate`.

    >>> clip = {"_target_": "modiste.losses.clip.ClipLoss", "init_scale": None}
    >>> round(build_loss(clip, Origin(scale=50.0, global_batch=8)).scale.item(), 3)
    50.0
    """
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    loss: ContrastiveLoss = instantiate(_begun(plain, origin))
    return loss


def _begun(node: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """The node with the arguments of `ContrastiveLoss.begin`, its own losses' too."""
    node = {
        key: _begun(value, origin) if isinstance(value, dict) and "_target_" in value else value
        for key, value in node.items()
    }
    target = locate(node["_target_"])
    if not (inspect.isclass(target) and issubclass(target, ContrastiveLoss)):
        return node
    return node | {name: value for name, value in target.begin(node, origin).items() if node.get(name) is None}
