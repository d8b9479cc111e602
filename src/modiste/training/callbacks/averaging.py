"""Moving averages of the weights."""

from __future__ import annotations

import functools

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor

from modiste.utils.ranges import Fraction


class EMA(EMAWeightAveraging):
    """Exponential moving average of the weights, used for validation and checkpoints.

    The decay grows with the number n of updates, min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage, so that the initial weights do not dominate a short run.

    Args:
        decay: Upper limit of the decay.
    """

    def __init__(self, decay: Fraction = 0.999) -> None:
        super().__init__(decay=decay)
        del self._kwargs["avg_fn"]
        self._kwargs["multi_avg_fn"] = functools.partial(average_warmed_up, decay)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No-op: the module's hook runs after those of callbacks, and still needs the average."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def average_warmed_up(decay: float, averages: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
    """Update moving averages of one dtype in place after ``updates`` updates; integers are copied.

    >>> average = torch.zeros(1)
    >>> average_warmed_up(0.999, [average], [torch.ones(1)], updates=0)
    >>> average
    tensor([0.9000])
    """
    if not averages[0].is_floating_point():
        torch._foreach_copy_(averages, current)
        return
    n = float(updates)  # once for all tensors, since it synchronises a GPU
    # If both are equal (frozen weights), the average does not change by a bit.
    step = torch._foreach_sub(current, averages)
    torch._foreach_mul_(step, 1 - min(decay, (1 + n) / (10 + n)))
    torch._foreach_add_(averages, step)
