"""Layer groups of third-party towers, and copies of modules that share weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TypeVar

from torch import nn

from modiste.errors import ModisteError

Group = list[nn.Module | nn.Parameter]
AnyModule = TypeVar("AnyModule", bound=nn.Module)


def block_groups(tower: nn.Module, head: nn.Module | None) -> list[Group]:
    """Layer groups of a transformer: modules before its blocks, each block, later modules with ``head``.

    Raises:
        ModisteError: ``tower`` has no list of blocks.

    >>> tower = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), nn.LayerNorm(2))
    >>> [len(group) for group in block_groups(tower, nn.Linear(2, 3))]
    [1, 1, 1, 2]
    """
    lists = {name: module for name, module in tower.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ModisteError(f"{type(tower).__name__} has no list of blocks: this family is not supported.")
    # A block may contain lists, too (T5).
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    path = max(outer, key=lambda name: len(lists[name]))
    before: Group = []
    after: Group = []
    node = tower
    for step in path.split("."):
        before += node.parameters(recurse=False)
        names = [name for name, _ in node.named_children()]
        before += [node.get_submodule(name) for name in names[: names.index(step)]]
        after[:0] = [node.get_submodule(name) for name in names[names.index(step) + 1 :]]
        node = node.get_submodule(step)
    last = after if head is None else [*after, head]
    return with_weights([before, *([block] for block in lists[path]), last])


def distinct(groups: Sequence[Group]) -> list[Group]:
    """Drop modules and parameters whose weights all occur earlier (tied embeddings), and empty groups.

    >>> layer = nn.Linear(1, 1)
    >>> distinct([[layer], [layer, nn.Linear(1, 2)]])
    [[Linear(in_features=1, out_features=1, bias=True)], [Linear(in_features=1, out_features=2, bias=True)]]
    """
    seen: set[int] = set()
    kept: list[Group] = []
    for group in groups:
        kept.append([])
        for item in group:
            own = {id(parameter) for parameter in _parameters(item)}
            if not own <= seen:
                kept[-1].append(item)
            seen |= own
    return [group for group in kept if group]


def with_weights(groups: Sequence[Sequence[nn.Module | nn.Parameter | None]]) -> list[Group]:
    """Drop modules without parameters, and empty groups.

    >>> with_weights([[nn.Identity(), None], [nn.Linear(1, 1), nn.Identity()]])
    [[Linear(in_features=1, out_features=1, bias=True)]]
    """
    kept = [[item for item in group if item is not None and any(True for _ in _parameters(item))] for group in groups]
    return [group for group in kept if group]


def freeze_all_but(model: nn.Module, groups: Sequence[Group]) -> None:
    """Freeze parameters in none of ``groups``: DDP needs a gradient for every trainable parameter."""
    kept = {id(parameter) for group in groups for item in group for parameter in _parameters(item)}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def _parameters(item: nn.Module | nn.Parameter) -> Iterator[nn.Parameter]:
    return iter([item]) if isinstance(item, nn.Parameter) else item.parameters()


def shared_copy(module: AnyModule) -> AnyModule:
    """Copy a module, sharing its parameters and buffers.

    >>> layer = nn.Sequential(nn.Linear(1, 1))
    >>> other = shared_copy(layer)
    >>> other[0] is layer[0], other[0].weight is layer[0].weight
    (False, True)
    """
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def with_module(module: AnyModule, name: str, child: nn.Module) -> AnyModule:
    """Copy a module with another child ``name``; the module itself is unchanged.

    >>> layers = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> with_module(layers, "1", nn.Tanh()), layers[1]
    (Sequential(
      (0): Linear(in_features=1, out_features=1, bias=True)
      (1): Tanh()
    ), ReLU())
    """
    other = copy.copy(module)
    other._modules = {**module._modules, name: child}
    return other
