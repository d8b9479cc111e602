"""Build the parts of a training run from their config nodes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from modiste.config import instantiate
from modiste.data.build import load as load_catalogue
from modiste.data.catalogue import Catalogue
from modiste.data.module import FashionDataModule, ValidationSet, check_training
from modiste.errors import ModisteError
from modiste.evaluation.spec import EvaluationSpec
from modiste.losses.base import ContrastiveLoss, Origin
from modiste.losses.build import build_loss
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import Start, build_model, load, load_weights, save_weights
from modiste.terms.base import Term, TrainingInputs
from modiste.terms.teacher import OWN, START, Teacher
from modiste.training.data import build_data, build_stream
from modiste.training.feature_cache import FeatureCache
from modiste.training.grad_cache import GradCache
from modiste.training.module import ContrastiveModule
from modiste.training.monitor import settle_monitor, stated_mode
from modiste.training.validation_sets import build_validation_sets, validation_specs
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir, cache_dir

STARTING_WEIGHTS = "start.ckpt"


@dataclass(frozen=True)
class TrainingParts:
    """The built parts of a training configuration.

    Attributes:
        config: The resolved configuration as plain containers.
        model: The dual encoder, with trainable layers set and weights loaded.
        data: The LightningDataModule.
        module: The LightningModule.
    """

    config: dict[str, Any]
    model: DualEncoder
    data: FashionDataModule
    module: ContrastiveModule


def build_parts(
    cfg: DictConfig, catalogue: Catalogue, validation: Mapping[str, EvaluationSpec], start: Start
) -> TrainingParts:
    """Build the parts of a ``train`` configuration.

    Args:
        cfg: The configuration.
        catalogue: Catalogue of its ``data`` node.
        validation: Additional validation sets by name.
        start: Checkpoint that training starts from.

    Raises:
        ModisteError: A setting is invalid, data are missing, or the checkpoint does not match; or see
            `modiste.training.monitor.settle_monitor`.
    """
    model = build_model(cfg, None if start.resumes else start.checkpoint)
    if start.resumes and start.checkpoint is not None:  # fails with a clearer error than Lightning's
        load_weights(model, start.checkpoint)
    cache = build_cache(cfg, model) if cfg.features.cache else None
    sets = build_validation_sets(validation, cfg, catalogue, model, cache)
    stream = build_stream(cfg.data)
    data = build_data(cfg.data, catalogue, model, stream, validation_sets=sets, feature_cache=cache)
    loss = build_loss(cfg.loss, Origin(model.initial_scale, model.initial_bias, data.batch_size))
    check_training(data, loss)
    grad_cache = GradCache(**cfg.grad_cache)
    inputs = None
    if stream is None:
        inputs = TrainingInputs(data.training_rows, cfg.seed, partial(grad_cache.patches, model), cache)
    terms = build_terms(cfg, model, start, inputs)
    check_patch_head(model, loss, terms)
    validated = all_validation_sets(cfg, data, sets)
    settle_monitor(cfg, validated)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    module = ContrastiveModule(
        model,
        loss,
        instantiate(cfg.optim),
        validation=validated,
        batches_per_epoch=data.batches_per_epoch,
        seed=cfg.seed,
        config=plain,
        grad_cache=grad_cache,
        terms=terms,
        mean=cfg.monitor.mean,
    )
    module.train()  # transformers loads models in evaluation mode, and Lightning keeps the mode
    return TrainingParts(plain, model, data, module)


def all_validation_sets(
    cfg: DictConfig, data: FashionDataModule, sets: Mapping[str, ValidationSet]
) -> dict[str, ValidationSet]:
    """The run's own split ``val`` and additional sets, by the prefix of their metrics."""
    own = ValidationSet(data, "val", {name: instantiate(node) for name, node in cfg.task.items()})
    return {"val": own, **{f"val/{name}": part for name, part in sets.items()}}


def stated_modes(
    cfg: DictConfig, metrics: Sequence[str], config_dirs: Sequence[Path] = ()
) -> dict[str, Literal["min", "max"]]:
    """Modes of validation metrics that training with ``cfg`` would settle before its first step.

    Args:
        cfg: The ``train`` configuration.
        metrics: Names (``val/retrieval/t2i/mrr``).
        config_dirs: Folders with the user's config groups.

    Raises:
        ModisteError: The model or the data cannot be built, or a task does not measure its metric.
    """
    model = build_model(cfg)
    catalogue = load_catalogue(cfg.data)
    sets = build_validation_sets(validation_specs(cfg, config_dirs), cfg, catalogue, model)
    data = build_data(cfg.data, catalogue, model, build_stream(cfg.data))
    validated = all_validation_sets(cfg, data, sets)
    modes = {metric: stated_mode(metric, validated, cfg.monitor.mean) for metric in metrics}
    return {metric: mode for metric, mode in modes.items() if mode is not None}


def build_cache(cfg: DictConfig, model: DualEncoder) -> FeatureCache:
    """Build the feature cache of a configuration's ``features`` node."""
    folder = cache_dir() / "features"
    gpu = cfg.trainer.get("accelerator") in ("gpu", "cuda", "auto")
    device = own_gpu(cfg.trainer.get("devices")) if gpu else "cpu"
    return FeatureCache(model, folder, cfg.features.dtype, cfg.features.views, progress=progress_bar, device=device)


def own_gpu(devices: int | str | Sequence[int]) -> str:
    """The GPU of this process among the trainer's ``devices``, or ``cpu`` without GPUs.

    The trainer does not exist yet, so the local rank is read from the environment of Lightning or Slurm.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    local = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return f"cuda:{local if isinstance(devices, (int, str)) else devices[local]}"


def build_terms(
    cfg: DictConfig, model: DualEncoder, start: Start, inputs: TrainingInputs | None = None
) -> dict[str, Term]:
    """Build the terms of a configuration's ``term`` node with their teachers; equal teachers are shared.

    Args:
        cfg: The ``train`` configuration.
        model: The model to train, with weights loaded.
        start: Checkpoint that training starts from.
        inputs: Inputs for terms with their own data; None: training streams its rows.

    Raises:
        ModisteError: A teacher cannot be loaded, a resumed run has no starting weights, or a term cannot work with the
            model or the data.
    """
    terms: dict[str, Term] = {name: instantiate(node) for name, node in (cfg.get("term") or {}).items()}
    teachers: dict[str, Teacher | None] = {OWN: None}
    for term in terms.values():
        name = term.teacher
        if name not in teachers:
            teacher = starting_model(model, start) if name == START else load(name).model
            teachers[name] = Teacher(teacher, name == START, cfg.grad_cache.micro_batch)
        term.bind(model, teachers[name], inputs)
    return terms


def check_patch_head(model: DualEncoder, loss: ContrastiveLoss, terms: Mapping[str, Term]) -> None:
    """Refuse a patch head that nothing trains; freeze its background embedding if no term uses it.

    Raises:
        ModisteError: ``image.patch_stages`` without a term or a loss that compares patches.
    """
    head = getattr(model, "patch_head", None)
    if head is None or any(term.trains_patches for term in terms.values()):
        return
    if not loss.needs_tokens:
        raise ModisteError(
            "image.patch_stages adds a patch head, but nothing trains it: add term=regions, choose loss=filip, or "
            "remove patch_stages."
        )
    head.background.requires_grad_(False)


def starting_model(model: DualEncoder, start: Start) -> DualEncoder:
    """Copy of the model before training: its current state, or the starting weights of the resumed run.

    Raises:
        ModisteError: The resumed run has no starting weights.
    """
    teacher = copy.deepcopy(model)
    if start.resumes and start.checkpoint is not None:
        kept = start.checkpoint.parent.with_name(STARTING_WEIGHTS)  # next to checkpoints/
        if not kept.is_file():
            raise ModisteError(
                f"{kept.parent} has no {STARTING_WEIGHTS}, the initial weights, since the run had no "
                "term with teacher=start: name a teacher, as in term.distill.teacher=RUN, or start with init=RUN."
            )
        teacher.initial_scale = None
        load_weights(teacher, kept)
    return teacher


def keep_start(terms: Mapping[str, Term], run_dir: RunDir) -> None:
    """Write ``start.ckpt``, which resuming needs, if a term has the starting weights as its teacher."""
    teachers = [term.model for term in terms.values() if term.teacher == START and term.model is not None]
    path = run_dir.path / STARTING_WEIGHTS
    if teachers and not path.is_file():
        save_weights(teachers[0].model, path)
