"""Speed and cost of a training run."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from modiste.data.pairs import Batch
from modiste.errors import ModisteError
from modiste.training.callbacks.interruption import Interrupted, fast_dev_run
from modiste.utils.energy import Energy, EnergyMeter
from modiste.utils.hardware import peak_memory_mb
from modiste.utils.run_dir import RunDir


class Throughput(Callback):
    """Log ``train/pairs_per_second`` over the last ``window`` steps of an epoch."""

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
    """Round to six significant digits.

    >>> short(0.000123456789)
    0.000123457
    """
    return float(f"{number:.6g}")


class Cost(Callback):
    """Write ``cost.json``: cost of the run, summed over resumed parts.

    ``seconds`` of wall time, ``pairs`` seen and ``steps``; ``peak_memory_mb`` (MiB) of the first process, and
    ``peak_gpu_memory_mb`` (MiB) of its GPU; with codecarbon installed (`modiste.utils.energy`), ``energy_kwh`` and
    ``co2e_kg`` of all machines, from the end of the first step on, and the ``country`` of the electricity; with a
    price, ``price`` and ``currency``.

    Args:
        run_dir: Run directory.
        price_per_hour: Price of one machine per hour; null: none.
        currency: Currency of the price.
        country: Country of the electricity, ISO 3166-1 alpha-3; null: the world average.

    Raises:
        ModisteError: The country is unknown, or the price is negative.
    """

    def __init__(
        self, run_dir: str, price_per_hour: float | None = None, currency: str = "USD", country: str | None = None
    ) -> None:
        if price_per_hour is not None and price_per_hour < 0:
            raise ModisteError(f"cost.price_per_hour={price_per_hour} is negative: give at least 0, or null.")
        self.run = RunDir(run_dir)
        self.price_per_hour, self.currency, self.country = price_per_hour, currency, country
        self.seconds, self.pairs, self.peaks = 0.0, 0, {"peak_memory_mb": 0.0}
        self.energy = Energy(0.0, 0.0)  # of earlier parts of the run
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
        if not self._metered:  # after the first step, which starting the meter would delay
            self._metered = True
            if trainer.local_rank == 0 and not fast_dev_run(trainer):
                self.meter.start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)
        self.meter.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):  # raised in all processes, so `_write` may use a collective
            self._write(trainer)
        self.meter.stop()

    def state_dict(self) -> dict[str, Any]:
        # No collective is possible here: all machines count as this one.
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
        """Energy of all machines, with one measuring process each, and of earlier parts of the run."""
        own = self.meter.read() if trainer.local_rank == 0 else Energy(0.0, 0.0)
        parts = torch.tensor([own.kwh, own.co2e_kg], device=trainer.strategy.root_device)
        every = trainer.strategy.reduce(parts, reduce_op="sum")
        return self.energy + Energy(*torch.as_tensor(every).tolist())
