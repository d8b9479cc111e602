"""Checkpoint selection by each criterion."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from modiste.training import selection
from modiste.training.callbacks.interruption import fast_dev_run
from modiste.training.selection import Validation
from modiste.utils.run_dir import RunDir


class Selection(Callback):
    """Write after every validation which one each criterion chooses (`modiste.training.selection`).

    Criteria are the losses and the tasks' primary metrics on every validation set, and the monitor.

    Args:
        run_dir: The run directory.
        metric: The monitored metric.
        mode: ``min`` or ``max``.
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
        if trainer.is_global_zero and not fast_dev_run(trainer):
            selection.write(self.run, self.validations, self.criteria)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": [asdict(validation) for validation in self.validations], "criteria": self.criteria}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = [Validation(**validation) for validation in state_dict["validations"]]
        self.criteria = state_dict["criteria"]
