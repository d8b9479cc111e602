"""Progress of training on a terminal or in a log: a header, one line per epoch, and the best epoch."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar, RichProgressBar

from modiste.data.pairs import Batch
from modiste.training.callbacks.interruption import fast_dev_run


class LineProgress(ProgressBar):
    """Plain progress lines within an epoch, for output that is not a terminal.

    Args:
        seconds: Minimum seconds between two lines.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.enabled = True
        self._last = time.monotonic()

    def disable(self) -> None:
        self.enabled = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self.enabled or time.monotonic() - self._last < self.seconds:
            return
        self._last = time.monotonic()
        loss = trainer.callback_metrics.get("train/loss")
        shown = "" if loss is None else f"  train/loss {float(loss):.4g}"
        where = f"epoch {trainer.current_epoch + 1}  batch {batch_idx + 1}/{self.total_train_batches}"
        print(f"  {where}{shown}", flush=True)


def progress() -> ProgressBar:
    """A rich progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else LineProgress()


class EpochLines(Callback):
    """Print a header, one line per epoch, and at the end the best epoch.

    The same lines go to ``train.log`` in the run directory.

    Args:
        run_dir: The run directory.
        metric: The monitored metric.
        mode: ``min`` or ``max``.
    """

    def __init__(self, run_dir: str, metric: str, mode: str) -> None:
        self.run, self.metric, self.mode = Path(run_dir), metric, mode
        self.best: tuple[int, float] | None = None
        self._epoch_started = time.perf_counter()
        self._pairs = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in self._header(trainer, pl_module).items():
            self._say(trainer, f"{name:<10} {value}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_started, self._pairs = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._pairs += len(batch["row"]) * trainer.world_size

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        spent = time.perf_counter() - self._epoch_started
        metrics = trainer.callback_metrics
        names = dict.fromkeys(("train/loss", "val/loss", self.metric))
        shown = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        better = self._note(trainer.current_epoch, float(metrics[self.metric])) if self.metric in metrics else False
        words = [f"epoch {trainer.current_epoch + 1:>{len(str(last))}}/{last}", *shown]
        words += [f"{self._pairs / spent:,.0f} pairs/s", f"{spent:.0f} s", *(["best"] if better else [])]
        self._say(trainer, "  ".join(words))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if fast_dev_run(trainer):
            self._say(trainer, "A training and a validation step ran; no weights were saved.")
            return
        if self.best is None:
            return
        epoch, value = self.best
        stopped = any(isinstance(c, EarlyStopping) and c.stopped_epoch for c in trainer.callbacks)  # type: ignore[attr-defined]
        ended = f"Stopped early after epoch {trainer.current_epoch}" if stopped else "Trained to the end"
        self._say(trainer, f"{ended}; epoch {epoch + 1} is best by {self.metric} ({self.mode}): {value:.4f}.")

    def state_dict(self) -> dict[str, Any]:
        return {"best": list(self.best) if self.best else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = (int(best[0]), float(best[1])) if best else None

    def _note(self, epoch: int, value: float) -> bool:
        """Whether ``value`` is the best so far; if so, it is stored."""
        sign = 1 if self.mode == "max" else -1
        if self.best is not None and not sign * value > sign * self.best[1]:
            return False
        self.best = (epoch, value)
        return True

    def _header(self, trainer: Trainer, module: Any) -> dict[str, str]:
        parameters = list(module.model.parameters())
        total, trained = (sum(p.numel() for p in parameters if every or p.requires_grad) for every in (True, False))
        catalogue = getattr(trainer.datamodule, "catalogue", None)  # type: ignore[attr-defined]
        name = catalogue.card.name if catalogue is not None else "custom data loaders"
        sizes = ", ".join(f"{count:,} {split}" for split, count in splits(trainer).items())
        device = trainer.strategy.root_device.type
        where = f"{trainer.world_size} × {device}" if trainer.world_size > 1 else device
        return {
            "Model": f"{type(module.model).__name__}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained",
            "Data": f"{name}: {sizes} images; {trainer.num_training_batches} batches per epoch",
            "Device": f"{where}, precision {trainer.precision}",
            "Monitor": f"{self.metric} ({self.mode})",
            "Directory": str(self.run),
        }

    def _say(self, trainer: Trainer, line: str) -> None:
        if not trainer.is_global_zero:
            return
        print(line, flush=True)
        if fast_dev_run(trainer):
            return
        self.run.mkdir(parents=True, exist_ok=True)
        with (self.run / "train.log").open("a", encoding="utf-8") as file:
            file.write(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {line}\n")


def splits(trainer: Trainer) -> dict[str, int]:
    """Number of rows of each split of the catalogue."""
    catalogue = getattr(trainer.datamodule, "catalogue", None)  # type: ignore[attr-defined]
    names = catalogue.column("split") if catalogue is not None else []
    return {split: names.count(split) for split in dict.fromkeys(names) if split}
