"""Callback that reports a trial in this process to its study."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lightning.pytorch import Callback, LightningModule, Trainer


class EpochReporter(Callback):
    """Report the metrics of every validation to the pruner, and stop pruned training runs."""

    def __init__(self, watch: Callable[[Mapping[str, float]], bool]) -> None:
        self.watch = watch
        self.pruned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        if not trainer.sanity_checking and self.watch(metrics):
            self.pruned = trainer.should_stop = True

    def check(self) -> None:
        """Raise Optuna's TrialPruned if the training run was pruned."""
        import optuna

        if self.pruned:
            raise optuna.TrialPruned
