"""The LightningModule that trains a dual encoder with a contrastive loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modiste.config import MEAN
from modiste.config.monitor import check_mode
from modiste.data.module import ValidationSet
from modiste.data.pairs import Batch
from modiste.embedding.embedder import MatrixEmbedder
from modiste.errors import ModisteError, did_you_mean
from modiste.losses.base import ContrastiveLoss
from modiste.metrics.direction import direction
from modiste.models.dual_encoder import DualEncoder
from modiste.models.finetune import rest_frozen
from modiste.tasks.result import Result
from modiste.terms.base import Term
from modiste.training.callbacks.checkpoints import diverged
from modiste.training.fsdp import shard
from modiste.training.grad_cache import GradCache
from modiste.training.loggers import declare_direction
from modiste.training.monitor import common_mode
from modiste.training.optim import Length, Optim
from modiste.utils.seeds import mix

log = logging.getLogger(__name__)
LENGTH = "length"
"""Checkpoint key of the planned numbers of steps."""


class ValidationEmbeddings(Metric):
    """Gather the embeddings of a validation split from all processes, without rows repeated as padding."""

    full_state_update = False
    images: list[Tensor]
    texts: list[Tensor]
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("images", "texts", "rows"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, images: Tensor, texts: Tensor, rows: Tensor) -> None:
        """Add image embeddings (B, D), text embeddings (B, D) and catalogue rows (B,)."""
        self.images.append(images.float())
        self.texts.append(texts.float())
        self.rows.append(rows)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image embeddings (N, D), text embeddings (N, D) and their rows (N,), sorted by row."""
        images, texts, rows = (dim_zero_cat(state) for state in (self.images, self.texts, self.rows))
        order = rows.argsort(stable=True)
        rows = rows[order]
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        return images[order][first], texts[order][first], rows[first]

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """`compute`, with the dimensions that torchmetrics drops for a single row."""
        images, texts, rows = self.compute()
        count = rows.numel()
        return images.reshape(count, -1), texts.reshape(count, -1), rows.reshape(count)


class ContrastiveModule(LightningModule):
    """Train a `DualEncoder`.

    Args:
        model: The dual encoder, with trainable layers already set (`modiste.models.finetune`).
        loss: A contrastive loss (`modiste.losses`).
        optim: Optimizer and schedule; null for evaluation only.
        validation: Set of each validation loader, in the loaders' order, by the prefix of its metrics (``val``,
            ``val/<set>``), which are logged as ``<prefix>/loss`` and ``<prefix>/<task>/<metric>``. None: the mean loss
            of the batches is logged as ``val/loss``.
        batches_per_epoch: Length of an epoch, for the schedule; None: Lightning's estimate.
        seed: Dropout of a batch depends on (seed, epoch, batch, process) only, so that a resumed run repeats it.
        config: The resolved configuration as plain containers; saved in the checkpoint.
        grad_cache: Gradient caching; None: a batch is embedded at once.
        terms: Terms added to the loss, by name; ``train/loss`` and ``val/loss`` exclude them.
        mean: Validation metrics whose unweighted mean is logged as `MEAN`.
    """

    def __init__(
        self,
        model: DualEncoder,
        loss: ContrastiveLoss,
        optim: Optim | None = None,
        validation: Mapping[str, ValidationSet] | None = None,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        grad_cache: GradCache | None = None,
        terms: Mapping[str, Term] | None = None,
        mean: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"config": dict(config or {})}, logger=False)  # the command logs it
        self.model, self.optim, self.seed = model, optim, seed
        self.loss = loss
        self.sets = dict(validation or {})
        self.batches_per_epoch = batches_per_epoch
        self.grad_cache = grad_cache or GradCache()
        self.terms, self.mean = dict(terms or {}), list(mean)
        self.monitor = dict((config or {}).get("monitor") or {})
        self.validation: Any = nn.ModuleList(ValidationEmbeddings() for _ in self.sets)
        self.results: dict[str, Result] = {}
        self.criteria: dict[str, str] = {}
        self.higher_is_better: dict[str, bool] = {}
        self.sharded = False
        self.length: Length | None = None

    def configure_model(self) -> None:
        """Shard the weights over the processes with ``trainer=fsdp``."""
        from lightning.pytorch.strategies import ModelParallelStrategy

        if isinstance(self.trainer.strategy, ModelParallelStrategy) and not self.sharded:
            # Not `self.device`: the module is moved to it later.
            shard(self.model, self.loss, self.trainer.strategy.root_device.type)
            self.sharded = True

    def train(self, mode: bool = True) -> ContrastiveModule:
        super().train(mode)
        if mode:
            rest_frozen(self.model)
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(mix(self.seed, self.current_epoch, batch_idx, self.global_rank))
        for term in self.terms.values():
            term.epoch = self.current_epoch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, text = self.grad_cache(self.model, batch["pixels"], batch["tokens"])
        more: dict[str, Any] = {name: batch[name] for name in ("fields", "weight") if name in batch}
        if self.loss.needs_tokens:
            more["tokens"] = self.grad_cache.tokens(self.model, batch["pixels"], batch["tokens"])
        loss = self.loss(image, text, batch["product"], **more)
        self._check_finite(loss, "the loss")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(image))
        scale = self.loss.inverse_temperature()
        if scale is not None:
            self.log("train/temperature", 1 / scale.detach(), prog_bar=True, batch_size=len(image))
        groups = self.trainer.optimizers[0].param_groups
        self.log("train/lr", max(group["lr"] for group in groups), batch_size=len(image))
        for name, term in self.terms.items():
            value = term(image, text, batch, scale)
            self.log(f"train/{name}", value, batch_size=len(image))
            loss = loss + term.weight * value
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        image, text = self.model(batch["pixels"], batch["tokens"])
        if not self.sets:
            loss = self.loss(image, text, batch["product"])
            self.log("val/loss", loss, prog_bar=True, sync_dist=True, batch_size=len(image))
            return
        self.validation[dataloader_idx].update(image, text, batch["row"])

    def on_validation_epoch_end(self) -> None:
        values: dict[str, float] = {}
        for (prefix, measured), embeddings in zip(self.sets.items(), self.validation, strict=True):
            values |= self._measure(prefix, measured, *embeddings.gathered())
            embeddings.reset()
        if self.mean:
            better = self._direction_of_mean(values)
            self._log(MEAN, sum(values[name] for name in self.mean) / len(self.mean), better)
        metric = self.monitor.get("metric")
        if metric in self.higher_is_better:  # known before training, except of tasks that fail on random embeddings
            check_mode(metric, self.monitor["mode"], direction(metric, self.higher_is_better))

    def _direction_of_mean(self, values: Mapping[str, float]) -> bool:
        """Whether a higher mean is better.

        Raises:
            ModisteError: A metric is not measured, or higher is better for one and worse for another.
        """
        for name in self.mean:
            if name not in values:
                raise ModisteError(f"monitor.mean names {name}, which is not measured. {did_you_mean(name, values)}")
        return common_mode({name: direction(name, self.higher_is_better) for name in self.mean}) == "max"

    def _measure(
        self, prefix: str, measured: ValidationSet, images: Tensor, texts: Tensor, rows: Tensor
    ) -> dict[str, float]:
        """Log and return loss and metrics of a set; add the selection criteria with their mode to `criteria`."""
        self._check_finite(images, "an image embedding")
        self._check_finite(texts, "a text embedding")
        split = measured.data.pairs(measured.split)
        chosen = rows.cpu().numpy()
        positions = {row: index for index, row in enumerate(split.rows)}
        part = [positions[row] for row in chosen.tolist()]
        products = torch.tensor([split.product[index] for index in part], device=self.device)
        values = {f"{prefix}/loss": self._loss(images, texts, products, measured.data.batch_size)}
        self._log(f"{prefix}/loss", values[f"{prefix}/loss"], False)
        self.criteria[f"{prefix}/loss"] = "min"
        captions = [split.captions.first(index) for index in part]
        seen = split.catalogue.select(rows=part)

        def encode(texts: Sequence[str]) -> Tensor:
            return self._encode_texts(texts, measured.data.eval_batch_size)

        embedder = MatrixEmbedder(seen, images.cpu(), texts.cpu(), captions, encode)
        for name, task in measured.tasks.items():
            result = task(embedder, seen, measured.split)
            if prefix == "val":  # their examples are rows of the training run's catalogue
                self.results[name] = result
            for metric, interval in result.metrics.items():
                values[f"{prefix}/{name}/{metric}"] = interval.value
                self._log(f"{prefix}/{name}/{metric}", interval.value, result.higher_is_better[metric])
            self.criteria[f"{prefix}/{name}/{result.primary}"] = result.direction(result.primary)
        return values

    def _check_finite(self, values: Tensor, what: str) -> None:
        """Raise ModisteError before non-finite values reach the weights or a checkpoint."""
        if bool(torch.isfinite(values).all()):
            return
        groups = self.trainer.optimizers[0].param_groups
        rate = max(group["lr"] for group in groups)
        more = f" (lr {rate:.2g}, precision {self.trainer.precision})"
        raise diverged(f"{what} is not finite", self.trainer.global_step, more)

    def configure_optimizers(self) -> Any:
        assert self.optim is not None
        self.length = self.length or Length([(0, self._total_steps())])
        optimizer, scheduler = self.optim.build(self.model, self.loss, self.length)
        self._settings = {group["name"]: _without_parameters(group) for group in optimizer.param_groups}
        # Lightning's LearningRateMonitor logs every parameter group under this name.
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "train/lr"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.length is not None:
            checkpoint[LENGTH] = [list(span) for span in self.length.spans]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        spans = [(int(step), int(total)) for step, total in checkpoint.get(LENGTH, [])]
        if spans and self.length is not None:  # sharded weights: loaded after the optimizer was built
            self.length.spans = spans
        elif spans:
            self.length = Length(spans)

    def on_train_start(self) -> None:
        """Restore the configured learning rate and optimizer settings, which a checkpoint overwrites."""
        step = self.trainer.global_step
        if not step or self.optim is None or self.length is None:
            return
        self._extend(step)
        (optimizer,), (schedule,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        for index, group in enumerate(optimizer.param_groups):
            if group.get("name") in self._settings:
                group.update(self._settings[group["name"]])
                schedule.scheduler.base_lrs[index] = group["initial_lr"]
                group["lr"] = group["initial_lr"] * self.optim.factor(self.length.place(step), self.length.first)

    def _extend(self, step: int) -> None:
        """Stretch the schedule if the resumed run plans a different number of steps."""
        total, length, optim = self._total_steps(), self.length, self.optim
        assert length is not None
        assert optim is not None
        if total == length.total or total <= step:
            return
        if step >= length.total and optim.schedule != "constant":
            raise ModisteError(
                f"The {optim.schedule} schedule of the run ended at step {length.total}, and more steps would need a "
                "learning rate: start a new run from its weights with init=RUN, or add optim.schedule=constant and "
                "optim.lr=…."
            )
        if optim.schedule != "constant":
            log.warning(
                "The rest of the %s schedule, steps %d to %d, is stretched to step %d.",
                optim.schedule, step, length.total, total,
            )  # fmt: skip
        length.change(step, total)

    def _total_steps(self) -> int:
        """Total number of optimizer steps.

        Not `Trainer.estimated_stepping_batches`: it creates the loader's iterator before the checkpoint restores the
        position in the epoch.
        """
        trainer = self.trainer
        if self.batches_per_epoch is None:
            return int(trainer.estimated_stepping_batches)
        batches = self.batches_per_epoch
        limit = trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
        total = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
        if trainer.max_steps >= 0:
            total = min(total, trainer.max_steps)
        if math.isinf(total):
            raise ModisteError("The learning rate schedule needs an end: set trainer.max_epochs or trainer.max_steps.")
        return int(total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.loss.clamp()  # here, before any checkpoint of this step

    def _log(self, name: str, value: Any, higher_is_better: bool) -> None:
        """Log a value that every process has computed from the same gathered embeddings."""
        if name not in self.higher_is_better:
            self.higher_is_better[name] = higher_is_better
            declare_direction(self.loggers, name, higher_is_better)
        # A mean could round; the maximum of equal numbers is exact on any number of processes.
        self.log(name, float(value), prog_bar=name == "val/loss", sync_dist=True, reduce_fx="max")

    def _loss(self, images: Tensor, texts: Tensor, products: Tensor, batch_size: int) -> float:
        """Mean loss over shuffled batches of the training size; each process takes its shard of a batch."""
        rank, world = self.global_rank, self.trainer.world_size
        size = max(min(batch_size, len(images)) // world, 1) * world
        # A fixed shuffle: the views of a product are adjacent in a catalogue.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        losses = []
        for start in range(0, len(images) - size + 1, size):
            mine = order[start + rank : start + size : world]
            losses.append(float(self.loss(images[mine], texts[mine], products[mine])))
        return sum(losses) / max(len(losses), 1)

    def _encode_texts(self, texts: Sequence[str], batch_size: int) -> Tensor:
        parts = []
        for start in range(0, len(texts), batch_size):
            tokens = self.model.tokenizer(texts[start : start + batch_size])
            parts.append(self.model.encode_text({name: t.to(self.device) for name, t in tokens.items()}).float().cpu())
        return torch.cat(parts)


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
