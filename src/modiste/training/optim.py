"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.models.finetune import TOWERS, parameters
from modiste.utils.ranges import Fraction, NonNegative, Positive, PositiveFraction

SCHEDULES = ("cosine", "linear", "constant")


@dataclass
class Length:
    """Planned number of optimizer steps, which a resumed run may change.

    The rest of the schedule is then stretched or compressed to the new end, so that the learning rate does not jump.

    Attributes:
        spans: (step, total) of every plan, the first from step 0.

    >>> length = Length([(0, 10)])
    >>> length.change(5, 15)
    >>> [length.place(step) for step in (4, 5, 10, 15)]
    [4.0, 5.0, 7.5, 10.0]
    """

    spans: list[tuple[int, int]]

    @property
    def first(self) -> int:
        """Total of the first plan, the scale of `place`."""
        return self.spans[0][1]

    @property
    def total(self) -> int:
        """Total of the latest plan."""
        return self.spans[-1][1]

    def place(self, step: int) -> float:
        """Position of ``step`` in the first plan, in steps."""
        place, (start, total) = 0.0, self.spans[0]
        for after, new_total in [*self.spans[1:], (step, 0)]:
            until = min(after, step)
            share = min(1.0, (until - start) / max(1, total - start))
            place = float(min(until, self.first)) if start == 0 else place + (self.first - place) * share
            if after >= step:
                break
            start, total = after, new_total
        return place

    def change(self, step: int, total: int) -> None:
        """Plan ``total`` steps from ``step`` on."""
        self.spans.append((step, total))


@dataclass(frozen=True)
class Optim:
    """An optimizer, its parameter groups and its schedule.

    Attributes:
        optimizer: Optimizer class of torch, or a partial of one, called with the parameter groups.
        lr: Peak learning rate.
        weight_decay: Decay of matrices and kernels; vectors (biases, norms) and the loss's scale and bias have none.
        tower_lr: Factor on ``lr`` for the trunk of each tower, ``{"image": …, "text": …}``; projections and the loss
            keep ``lr``.
        layer_decay: Layer-wise learning rate decay: factor per layer group of a trunk, counted from the projection
            (Clark et al. 2020, arXiv:2003.10555); 1 is off.
        warmup: Steps of linear warm-up; below 1, a fraction of all steps.
        schedule: After the warm-up: ``cosine`` or ``linear`` down to ``final`` times the peak, or ``constant``.
        final: Final learning rate as a fraction of the peak.

    Raises:
        ModisteError: The schedule or a tower is unknown.
    """

    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.1
    tower_lr: Mapping[str, NonNegative] = field(default_factory=lambda: {"image": 1.0, "text": 1.0})
    layer_decay: PositiveFraction = 1.0
    warmup: NonNegative = 0.05
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ModisteError(f"optim.schedule={self.schedule} is not known. {did_you_mean(self.schedule, SCHEDULES)}")
        unknown = set(self.tower_lr) - set(TOWERS)
        if unknown:
            raise ModisteError(f"optim.tower_lr has no tower '{min(unknown)}'. {did_you_mean(min(unknown), TOWERS)}")

    def groups(self, model: DualEncoder, loss: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups: every trainable parameter once, named by tower, layer group and decay.

        Raises:
            ModisteError: Both towers are frozen.
        """
        entries = [(f"{tower}/{depth}", lr, p) for tower in TOWERS for depth, lr, p in self._tower(model, tower)]
        seen = {id(p) for _, _, p in entries}
        others = [("loss", self.lr, p) for p in loss.parameters()]
        others += [("model", self.lr, p) for p in model.parameters() if id(p) not in seen]
        groups: dict[str, dict[str, Any]] = {}
        for name, lr, parameter in entries + others:
            if not parameter.requires_grad:
                continue
            decay = self.weight_decay if parameter.ndim > 1 else 0.0
            name = f"{name}/{'decay' if decay else 'no_decay'}"
            group = groups.setdefault(name, {"name": name, "lr": lr, "weight_decay": decay, "params": []})
            group["params"].append(parameter)
        if not any(name.split("/")[0] != "loss" for name in groups):
            raise ModisteError("Both towers are frozen, so nothing trains: set tune.image.train or tune.text.train.")
        return list(groups.values())

    def _tower(self, model: DualEncoder, tower: str) -> list[tuple[int, float, nn.Parameter]]:
        groups = model.layer_groups(tower)
        *trunk, head = ([*parameters([group])] for group in groups)
        trunk_lr = self.lr * self.tower_lr.get(tower, 1.0)
        entries = [
            (depth, trunk_lr * self.layer_decay ** (len(trunk) - depth), p)
            for depth, part in enumerate(trunk)
            for p in part
        ]
        return entries + [(len(trunk), self.lr, p) for p in head]

    def factor(self, step: float, total: int) -> float:
        """Learning rate at ``step`` of ``total`` as a fraction of the peak."""
        warmup = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        curve = 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done
        return self.final + (1 - self.final) * curve

    def build(self, model: DualEncoder, loss: nn.Module, length: Length) -> tuple[torch.optim.Optimizer, LambdaLR]:
        """Build the optimizer and a per-step scheduler over the ``length`` of training."""
        optimizer = self.optimizer(self.groups(model, loss))
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(length.place(step), length.first))
