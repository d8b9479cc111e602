"""Lightning callbacks: progress, cost, interruption; sample retrievals and artifacts for wandb."""

from __future__ import annotations

import functools
import json
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import asdict
from types import FrameType
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, ProgressBar, RichProgressBar
from torch import Tensor

from modiste.data.pairs import Batch
from modiste.errors import ModisteError
from modiste.training import selection
from modiste.training.selection import Validation
from modiste.utils.energy import Energy, EnergyMeter
from modiste.utils.machine import peak_memory_mb
from modiste.utils.run_dir import RunDir


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


def short(number: float) -> float:
    """Six significant digits.

    >>> short(0.000123456789)
    0.000123457
    """
    return float(f"{number:.6g}")


class Cost(Callback):
    """Writes ``cost.json``: what the training cost, summed over continuations.

    ``seconds`` of wall time, ``pairs`` seen and ``steps``; ``peak_memory_mb`` (MiB) of the first process, and
    ``peak_gpu_memory_mb`` of its GPU; ``energy_kwh`` and ``co2e_kg`` of all machines where codecarbon is installed
    (`modiste.utils.energy`), from the end of the first step on, and the ``country`` of the electricity; ``price`` and
    ``currency`` where a rate is given.

    Args:
        run_dir: Where it is written.
        price_per_hour: Of one machine; null leaves the price out.
        currency: Of the rate.
        country: Whose electricity it is, ISO 3166-1 alpha-3; null: the world's average.

    Raises:
        ModisteError: The country is not known, or the rate is negative.
    """

    def __init__(
        self, run_dir: str, price_per_hour: float | None = None, currency: str = "USD", country: str | None = None
    ) -> None:
        if price_per_hour is not None and price_per_hour < 0:
            raise ModisteError(f"cost.price_per_hour={price_per_hour} is negative: give 0 or more, or null.")
        self.run = RunDir(run_dir)
        self.price_per_hour, self.currency, self.country = price_per_hour, currency, country
        self.seconds, self.pairs, self.peaks = 0.0, 0, {"peak_memory_mb": 0.0}
        self.energy = Energy(0.0, 0.0)  # of the parts before this one
        self.meter = EnergyMeter(country)
        self._machines, self._metered = 1, False
        self._started = time.perf_counter()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._machines = trainer.num_nodes

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.pairs += len(batch["row"]) * trainer.world_size
        if not self._metered:  # not before the first step, which somebody may be waiting for
            self._metered = True
            if trainer.local_rank == 0 and not fast_dev_run(trainer):
                self.meter.start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)
        self.meter.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):  # in all processes, so that they can be asked
            self._write(trainer)
        self.meter.stop()

    def state_dict(self) -> dict[str, Any]:
        # A process cannot ask the others here: their machines count as this one.
        energy = self.energy + self.meter.read() * self._machines
        return {"seconds": self._total(), "pairs": self.pairs, "energy": [*vars(energy).values()], "peaks": self.peaks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.pairs = state_dict["seconds"], state_dict["pairs"]
        self.energy = Energy(*state_dict.get("energy", ()))
        self.peaks |= state_dict.get("peaks", {})

    def _total(self) -> float:
        return self.seconds + time.perf_counter() - self._started

    def _write(self, trainer: Trainer) -> None:
        if fast_dev_run(trainer) or trainer.sanity_checking:
            return
        energy = self._energy(trainer)
        device = trainer.strategy.root_device
        peaks = {"peak_memory_mb": peak_memory_mb()}
        if device.type == "cuda":
            peaks["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        self.peaks = {name: max(self.peaks.get(name, 0.0), peak) for name, peak in peaks.items()}
        facts: dict[str, Any] = {"seconds": round(self._total(), 1), "pairs": self.pairs, "steps": trainer.global_step}
        facts |= {name: round(peak, 1) for name, peak in self.peaks.items()}
        if energy.measured:
            facts |= {"energy_kwh": short(energy.kwh), "co2e_kg": short(energy.co2e_kg)}
            facts["country"] = self.country or "world"
        if self.price_per_hour is not None:
            price = self.price_per_hour * self._machines * self._total() / 3600
            facts |= {"price": short(price), "currency": self.currency}
        if trainer.is_global_zero:
            self.run.write_json("cost", facts)

    def _energy(self, trainer: Trainer) -> Energy:
        """Of all machines, one process each of which measures, and of the parts before this one."""
        own = self.meter.read() if trainer.local_rank == 0 else Energy(0.0, 0.0)
        parts = torch.tensor([own.kwh, own.co2e_kg], device=trainer.strategy.root_device)
        every = trainer.strategy.reduce(parts, reduce_op="sum")
        return self.energy + Energy(*torch.as_tensor(every).tolist())


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
    """Writes which validation each criterion would have chosen (`modiste.training.selection`), when training ends.

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


def wandb_loggers(trainer: Trainer) -> list[Any]:
    """Those of the trainer's loggers, in the process that logs."""
    from lightning.pytorch.loggers import WandbLogger

    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero]


class SampleRetrievals(Callback):
    """Sends a table of sample retrievals, hits and misses, to wandb after each validation, if wandb logs."""

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
        full = trainer.datamodule.catalogue  # type: ignore[attr-defined]
        position = {row: index for index, row in enumerate(full.column("row"))}
        rows = []
        for example in examples:
            shown = example["results"][: self.thumbnails]
            images = [wandb.Image(full.read_image(position[hit["row"]])) for hit in shown]
            rows.append([example["query"], example["rank"], *images, *[None] * (self.thumbnails - len(images))])
        columns = ["query", "rank", *(f"top {i + 1}" for i in range(self.thumbnails))]
        logger.log_table(f"val/{name}/samples", columns=columns, data=rows)


class Artifacts(Callback):
    """Gives wandb, if it logs, two artifacts at the end of a training: ``results.json`` and the best weights.

    ``results.json`` has the metrics of the last validation and the tasks' results with their intervals; what the
    training cost is beside it and in the run's summary.

    Args:
        run_dir: Where the checkpoints and ``cost.json`` are.
        upload: Send the weights themselves; otherwise a reference to the file, with its checksum.
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
        if not best.is_file():  # no checkpoints were asked for
            return
        artifact = wandb.Artifact(
            f"weights-{run.id}", type="model", metadata={"run_dir": str(self.run.path), **metrics}
        )
        if self.upload:
            artifact.add_file(str(best))
        else:
            artifact.add_reference(best.resolve().as_uri(), name=best.name)
        run.log_artifact(artifact, aliases=["best"])
