"""Moving averages of the weights."""

from __future__ import annotations

import functools

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor


class EMA(EMAWeightAveraging):
    """An exponential moving average of the weights, which is validated, saved and used at the end.

    The decay grows with the updates, min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage, so
    that a short run is not left with its first weights.

    Args:
        decay: Its upper limit.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(decay=decay)
        self._kwargs["avg_fn"] = functools.partial(warmed_up_average, decay)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing yet: the module's own hook comes after the callbacks' and still needs the average."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def warmed_up_average(decay: float, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
    """The next value of a moving average after ``updates`` updates."""
    n = float(updates)
    rate = min(decay, (1 + n) / (10 + n))
    # Where both are equal (frozen weights), the average stays what it is, to the bit.
    return average + (current - average) * (1 - rate)
