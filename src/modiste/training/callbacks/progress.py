"""Progress of training, on a terminal and in a pipe."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar

from modiste.data.module import Batch


class LineProgress(ProgressBar):
    """A plain line now and then, for logs that are no terminal."""

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.enabled = True
        self._last = 0.0

    def disable(self) -> None:
        self.enabled = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if time.monotonic() - self._last >= self.seconds:
            self._last = time.monotonic()
            self._print(trainer, pl_module, f"batch {batch_idx + 1}/{self.total_train_batches}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._print(trainer, pl_module, "validated")

    def _print(self, trainer: Trainer, pl_module: LightningModule, where: str) -> None:
        if not self.enabled:
            return
        metrics = self.get_metrics(trainer, pl_module)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float))
        print(f"epoch {trainer.current_epoch}  {where}  step {trainer.global_step}  {shown}", flush=True)


def progress() -> ProgressBar:
    """A rich progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else LineProgress()
