"""Checkpoints: when they are saved, and how they are written."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging

from modiste.data.pairs import Batch
from modiste.errors import ModisteError
from modiste.utils.atomic import DiskFullError, atomic, check_space

RESUMABLE = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state", "MixedPrecision")
"""Checkpoint keys that only resuming needs."""


def validation_is_due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a validation follows this batch.

    No state is saved between a step and its validation: a run resumed from it would skip the validation.
    """
    batch = batch_idx + 1
    return batch >= trainer.num_training_batches or batch % (trainer.val_check_batch or 1) == 0


class EpochCheckpoint(ModelCheckpoint):
    """Save after every validation, but not where ``trainer.max_steps`` ends the run mid-epoch.

    Lightning counts such an epoch as finished, so a resumed run would skip the rest of it.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_epoch_end(trainer, pl_module)


class RecentCheckpoint(ModelCheckpoint):
    """Save the latest state mid-epoch, except before a validation, after which ``last`` is saved.

    A run that ends at ``trainer.max_steps`` mid-epoch saves its last step, too.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if validation_is_due(trainer, batch_idx):
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == trainer.max_steps and self._last_global_step_saved != trainer.global_step:
            trainer.save_checkpoint(Path(str(self.dirpath)) / f"{self.filename}.ckpt")


class OwnPaths(Callback):
    """Remove paths outside the callbacks' folders from a loaded checkpoint.

    Lightning deletes and uploads the files that a checkpoint names, and the checkpoint may not be trusted. Runs before
    the callbacks load their states.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saving = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        folders = {Path(str(callback.dirpath)) for callback in saving if callback.dirpath}
        states = checkpoint.get("callbacks")
        for state in states.values() if isinstance(states, dict) else ():
            for name, value in state.items() if isinstance(state, dict) else ():
                if name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = value if is_file_of(value, folders) else ""
                elif name == "best_k_models" and isinstance(value, dict):
                    state[name] = {path: score for path, score in value.items() if is_file_of(path, folders)}


def is_file_of(path: object, folders: Collection[Path]) -> bool:
    """Whether ``path`` names a file directly in one of the folders.

    >>> is_file_of("/run/best.ckpt", [Path("/run")]), is_file_of("/run/../x", [Path("/run")])
    (True, False)
    >>> is_file_of("local:///run/x", [Path("/run")]), is_file_of("/run/..", [Path("/run")])
    (False, False)
    """
    return isinstance(path, str) and any(
        path == str(folder / Path(path).name) and Path(path).name != ".." for folder in folders
    )


class CheckpointFiles(TorchCheckpointIO):
    """Write checkpoints atomically, fsynced, and only with finite weights; delete nothing but checkpoints.

    ``best.ckpt`` cannot be resumed from: it has the weights without the states of optimizer, loops and callbacks.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            ModisteError: A weight is not finite, or the file cannot be written.
        """
        path = Path(path)
        check_finite(checkpoint)
        if path.name == "best.ckpt":
            checkpoint = {name: value for name, value in checkpoint.items() if name not in RESUMABLE}
        try:
            with atomic(path) as unfinished:
                torch.save(checkpoint, unfinished)
        except OSError as error:
            reason = "no space left" if isinstance(error, DiskFullError) else error.strerror
            raise ModisteError(
                f"The checkpoint {path} cannot be written ({reason}): free space or permissions, then resume with "
                f"modiste train continue={shlex.quote(str(path.parent.parent))}."
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint; files without the suffix ``.ckpt`` are kept."""
        path = Path(path)
        if path.suffix == ".ckpt" and path.is_file():
            path.unlink()


def check_checkpoint_space(trainer: Trainer, module: LightningModule) -> None:
    """Raise DiskFullError before training if the disk has no space for the checkpoints.

    They need the files that the callbacks keep, minus existing ones, plus one that is written before it replaces
    another. A file has the weights, their moving average, and two moments of every trained weight, as for Adam.
    """
    storages = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    weights = sum(storages.values())
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    state = weights * (2 if averaged else 1) + 2 * trained
    needed, largest, names, folder = 0, 0, [], Path(trainer.default_root_dir)
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not callback.save_top_k:
            continue
        size = weights if callback.filename == "best" else state
        kept = callback.save_top_k if callback.save_top_k > 0 else max(trainer.max_epochs or 1, 1)
        needed, largest = needed + size * kept, max(largest, size)
        names.append(f"{kept} × {callback.filename}" if kept > 1 else str(callback.filename))
        folder = Path(callback.dirpath or folder)
    existing = sum(path.stat().st_size for path in folder.glob("*.ckpt"))
    if names:
        what = f"The training run in run_dir={trainer.default_root_dir} (checkpoints {', '.join(names)})"
        check_space(folder, max(needed - existing, 0) + largest, what)


def check_finite(checkpoint: dict[str, Any]) -> None:
    """Raise ModisteError if a weight of a checkpoint is not finite."""
    for name, tensor in checkpoint["state_dict"].items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise diverged(f"the weight {name} is not finite", checkpoint.get("global_step", 0))


def diverged(what: str, step: int, more: str = "") -> ModisteError:
    """Error for a training run with non-finite values."""
    return ModisteError(
        f"Training diverged at step {step}: {what}{more}. Lower optim.lr, lengthen optim.warmup, or set "
        "trainer.precision=32-true; modiste train continue=RUN resumes from the last finite checkpoint."
    )
