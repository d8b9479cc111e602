"""Stop training on request, with its state saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from modiste.data.pairs import Batch
from modiste.training.callbacks.checkpoints import validation_is_due
from modiste.utils.run_dir import RunDir

REQUEUE = getattr(signal, "SIGUSR2", signal.SIGTERM)
"""Signal that submitit makes Slurm send before a job ends."""

LOST_WORKER = "DataLoader worker "
"""Prefix of torch's errors for killed workers."""


def fast_dev_run(trainer: Trainer) -> bool:
    """Whether this is ``debug=step``, which saves and logs nothing."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


class Interrupted(BaseException):
    """Raised when training stops on request, with its state saved."""


class Interruptible(Checkpoint):
    """On Ctrl-C, SIGTERM or SIGHUP, finish the step and any due validation, save the state and stop.

    A second Ctrl-C stops at once.

    A job of submitit (``hydra/launcher=slurm``) gets SIGUSR2 before its time limit or preemption, and ignores SIGTERM:
    the step is saved, submitit requeues the job, and ``continue=auto`` resumes it.

    It is a `Checkpoint` because Lightning calls those after all other callbacks.
    """

    def __init__(self, run_dir: str) -> None:
        self.checkpoint = RunDir(run_dir).checkpoints / "recent.ckpt"
        self.requested = 0  # number of the signal
        self._step = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            end = REQUEUE if callable(signal.getsignal(REQUEUE)) else signal.SIGTERM
            hung_up = getattr(signal, "SIGHUP", end)
            numbers = {signal.SIGINT, end} | ({hung_up} if signal.getsignal(hung_up) != signal.SIG_IGN else set())
            self._previous = {number: signal.signal(number, self._request) for number in numbers}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        stepped, self._step = trainer.global_step > self._step, trainer.global_step
        # While gradients accumulate, a checkpoint would lose them.
        if stepped and not validation_is_due(trainer, batch_idx):
            self._stop_if_requested(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._stop_if_requested(trainer)

    def _stop_if_requested(self, trainer: Trainer) -> None:
        # All processes stop at the same step, whichever of them got the signal.
        if not trainer.strategy.reduce_boolean_decision(bool(self.requested), all=False):
            return
        if not fast_dev_run(trainer):
            trainer.save_checkpoint(self.checkpoint)
        if self.requested == REQUEUE:
            self._previous[REQUEUE](REQUEUE, None)  # ends this process, if it is the first of its job
        raise Interrupted(f"step {trainer.global_step}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number != REQUEUE:
            raise KeyboardInterrupt
        self.requested = number
        tolerate_lost_workers()


def tolerate_lost_workers() -> None:
    """Let the current step end even if the stop signal also killed data loader workers.

    torch's SIGCHLD handler raises wherever the main thread is. A loader that waits for a lost worker's batch still
    raises.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(handler) or isinstance(handler, Tolerant):
        return
    signal.signal(signal.SIGCHLD, Tolerant(handler))


class Tolerant:
    """Signal handler that suppresses torch's errors for lost workers."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error of torch's data loader reports a killed worker."""
    return str(error).startswith(LOST_WORKER)
