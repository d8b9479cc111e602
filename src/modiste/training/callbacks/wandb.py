"""Weights & Biases: sample retrievals, results and weights, in addition to metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """The trainer's `WandbLogger` instances, in the process that logs."""
    from lightning.pytorch.loggers import WandbLogger

    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero]


class SampleRetrievals(Callback):
    """Log a table of sample retrievals, hits and misses, to wandb after each validation.

    Args:
        count: Maximum number of queries.
        thumbnails: Images per query.
    """

    def __init__(self, count: int = 8, thumbnails: int = 5) -> None:
        self.count, self.thumbnails = count, thumbnails

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in wandb_loggers(trainer):
            for name, result in cast(Any, pl_module).results.items():
                self._send(logger, trainer, name, result)

    def _send(self, logger: Any, trainer: Trainer, name: str, result: Any) -> None:
        import wandb

        examples = [example for example in result.examples if example["kind"] == "t2i"][: self.count]
        if not examples:
            return
        full = getattr(trainer.datamodule, "catalogue", None)  # type: ignore[attr-defined]
        if full is None:  # custom data loaders
            return
        position = {row: index for index, row in enumerate(full.column("row"))}
        rows = []
        for example in examples:
            shown = example["results"][: self.thumbnails]
            images = [wandb.Image(full.read_image(position[hit["row"]])) for hit in shown]
            rows.append([example["query"], example["rank"], *images, *[None] * (self.thumbnails - len(images))])
        columns = ["query", "rank", *(f"top {i + 1}" for i in range(self.thumbnails))]
        logger.log_table(f"val/{name}/samples", columns=columns, data=rows)


class Artifacts(Callback):
    """Log two artifacts to wandb at the end of a training run: the results and the best weights.

    ``results.json`` has the metrics of the last validation and the tasks' results with their intervals; ``cost.json``
    is in the same artifact, and its numbers are in the run's summary.

    Args:
        run_dir: Run directory with the checkpoints and ``cost.json``.
        upload: Upload the weights; otherwise log a reference to the file, with its checksum.
    """

    def __init__(self, run_dir: str, upload: bool = False) -> None:
        self.run, self.upload = RunDir(run_dir), upload

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in wandb_loggers(trainer):
            metrics = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
            results = {name: result.to_json() for name, result in cast(Any, pl_module).results.items()}
            self._send_results(logger.experiment, {"metrics": metrics, "results": results})
            self._send_weights(logger.experiment, metrics)

    def _send_results(self, run: Any, content: dict[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(f"results-{run.id}", type="results")
        with artifact.new_file("results.json", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        cost = self.run.read_json("cost")
        if cost:
            artifact.add_file(str(self.run.path / "cost.json"))
            run.summary.update({f"cost/{name}": value for name, value in cost.items()})
        run.log_artifact(artifact)

    def _send_weights(self, run: Any, metrics: dict[str, float]) -> None:
        import wandb

        best = self.run.checkpoints / "best.ckpt"
        if not best.is_file():  # checkpoints are off
            return
        artifact = wandb.Artifact(
            f"weights-{run.id}", type="model", metadata={"run_dir": str(self.run.path), **metrics}
        )
        if self.upload:
            artifact.add_file(str(best))
        else:
            artifact.add_reference(best.resolve().as_uri(), name=best.name)
        run.log_artifact(artifact, aliases=["best"])
