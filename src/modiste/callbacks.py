"""Lightning callbacks: progress, cost, interruption, sample retrievals."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import asdict
from types import FrameType
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, ProgressBar, RichProgressBar
from torch import Tensor

from modiste import selection
from modiste.data.module import Batch
from modiste.machine import peak_memory_mb
from modiste.rundir import RunDir
from modiste.selection import Validation


def fast_dev_run(trainer: Trainer) -> bool:
    """Whether this is ``debug=step``, which saves and logs nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


class Interrupted(BaseException):
    """Training stopped on request, its state saved."""


class Interruptible(Checkpoint):
    """Ctrl-C or SIGTERM: finish the step in hand, save it, stop. A second Ctrl-C stops at once.

    A `Checkpoint`, because Lightning calls these last: the other callbacks' part of the step is then done.
    """

    def __init__(self, run_dir: str) -> None:
        self.checkpoint = RunDir(run_dir).checkpoints / "recent.ckpt"
        self.requested = False
        self._step = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self._previous = {
                number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        if not stepped:  # between the batches of an accumulated step: their gradient is in no checkpoint
            return
        # All processes stop at the same step, whichever of them was asked to.
        if trainer.strategy.reduce_boolean_decision(self.requested, all=False):
            if not fast_dev_run(trainer):
                trainer.save_checkpoint(self.checkpoint)
            raise Interrupted(f"step {trainer.global_step}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


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
    return average * rate + current * (1 - rate)


class Throughput(Callback):
    """Logs ``train/pairs_per_second`` over the last ``window`` steps of an epoch."""

    def __init__(self, window: int = 20) -> None:
        self._times: deque[tuple[float, int]] = deque(maxlen=window + 1)
        self._pairs = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._times.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._pairs += len(batch["row"]) * trainer.world_size
        self._times.append((time.perf_counter(), self._pairs))
        (since, before), (now, pairs) = self._times[0], self._times[-1]
        if now > since:
            pl_module.log("train/pairs_per_second", (pairs - before) / (now - since), prog_bar=True)


class Cost(Callback):
    """Writes ``cost.json``: wall seconds, pairs and steps of training, and peak memory, summed over continuations."""

    def __init__(self, run_dir: str) -> None:
        self.run = RunDir(run_dir)
        self.seconds, self.pairs = 0.0, 0
        self._started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.pairs += len(batch["row"]) * trainer.world_size

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._total(), "pairs": self.pairs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.pairs = state_dict["seconds"], state_dict["pairs"]

    def _total(self) -> float:
        return self.seconds + time.perf_counter() - self._started

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and not fast_dev_run(trainer):
            facts = {"seconds": round(self._total(), 1), "pairs": self.pairs, "steps": trainer.global_step}
            self.run.write_json("cost", facts | {"peak_memory_mb": round(peak_memory_mb(), 1)})


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


class Selection(Callback):
    """Writes which validation each criterion would have chosen (`modiste.selection`), when training ends.

    Criteria are the losses and the tasks' primary metrics on every set that is validated, and the monitor.
    """

    def __init__(self, run_dir: str, metric: str, mode: str) -> None:
        self.run, self.monitor = RunDir(run_dir), {metric: mode}
        self.validations: list[Validation] = []
        self.criteria: dict[str, str] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.criteria = dict(cast(Any, pl_module).criteria) | self.monitor
        known = {
            name: float(trainer.callback_metrics[name]) for name in self.criteria if name in trainer.callback_metrics
        }
        self.validations.append(Validation(trainer.current_epoch, trainer.global_step, known))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not fast_dev_run(trainer):
            selection.write(self.run, self.validations, self.criteria)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": [asdict(validation) for validation in self.validations], "criteria": self.criteria}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = [Validation(**validation) for validation in state_dict["validations"]]
        self.criteria = state_dict["criteria"]


def progress() -> ProgressBar:
    """A rich progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else LineProgress()


class SampleRetrievals(Callback):
    """Sends a table of sample retrievals, hits and misses, to wandb after each validation, if wandb logs."""

    def __init__(self, count: int = 8, thumbnails: int = 5) -> None:
        self.count, self.thumbnails = count, thumbnails

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from lightning.pytorch.loggers import WandbLogger

        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                for name, result in cast(Any, pl_module).results.items():
                    self._send(logger, trainer, name, result)

    def _send(self, logger: Any, trainer: Trainer, name: str, result: Any) -> None:
        import wandb

        examples = [example for example in result.examples if example["kind"] == "t2i"][: self.count]
        if not examples:
            return
        full = trainer.datamodule.catalogue  # type: ignore[attr-defined]
        position = {row: index for index, row in enumerate(full.column("row"))}
        rows = []
        for example in examples:
            shown = example["results"][: self.thumbnails]
            images = [wandb.Image(full.read_image(position[hit["row"]])) for hit in shown]
            rows.append([example["query"], example["rank"], *images, *[None] * (self.thumbnails - len(images))])
        columns = ["query", "rank", *(f"top {i + 1}" for i in range(self.thumbnails))]
        logger.log_table(f"val/{name}/samples", columns=columns, data=rows)
