"""The parts of a training run, each from its node of the configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import instantiate
from modiste.data.batches import Batches
from modiste.data.build import captions_of
from modiste.data.catalogue import Catalogue
from modiste.data.fields import Fields, PairWeights
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import load, load_weights
from modiste.utils.run_dir import RunDir, cache_dir

if TYPE_CHECKING:
    from modiste.data.module import FashionDataModule
    from modiste.data.storage.streaming import Stream
    from modiste.terms.base import Term
    from modiste.training.feature_cache import FeatureCache

STARTING_WEIGHTS = "start.ckpt"


def build_data(
    cfg: DictConfig, catalogue: Catalogue, model: DualEncoder, stream: Stream | None = None, **more: Any
) -> FashionDataModule:
    """Return the LightningDataModule of a configuration's ``data`` node; for training with its `build_stream`.

    Args:
        cfg: The node.
        catalogue: That of the node.
        model: Its image transform and tokenizer are used.
        stream: Shards to train on.
        more: Further arguments of `FashionDataModule`: ``validation_sets``, ``feature_cache``, ``cached_splits``.
    """
    from modiste.data.module import FashionDataModule

    captions = captions_of(cfg)
    fields: Any = OmegaConf.to_container(cfg.fields, resolve=True)
    options = {
        name: cfg[name]
        for name in ("batch_size", "eval_batch_size", "num_workers", "limit", "seed", "positives", "decode")
    }
    return FashionDataModule(
        catalogue,
        model,
        captions=captions,
        augment=[instantiate(node) for node in cfg.augment],
        batches=Batches(**cfg.batches),
        fields=Fields(fields, captions) if fields else None,
        weight=PairWeights(**cfg.weight),
        stream=stream,
        **options,
        **more,
    )


def build_stream(cfg: DictConfig) -> Stream | None:
    """The shards that training reads, of a configuration's ``data`` node; None: it has none.

    Raises:
        ModisteError: They go with what needs the whole training set, or see `modiste.data.storage.streaming.Stream`.
    """
    from modiste.data.storage.streaming import Stream

    # Runs of before there were streams do not have the node.
    if not cfg.get("stream") or not cfg.stream.shards:
        return None
    for name in ("held_out", "corruptions"):
        if cfg.get(name):
            raise ModisteError(f"data.{name} is not for shards (data.stream): write them as training is to see them.")
    options: Any = OmegaConf.to_container(cfg.stream, resolve=True)
    return Stream(**options)


def build_cache(cfg: DictConfig, model: DualEncoder) -> FeatureCache:
    """The feature cache of a configuration's ``features`` node."""
    from modiste.training.feature_cache import FeatureCache
    from modiste.utils.progress import progress_bar

    folder = cache_dir() / "features"
    return FeatureCache(model, folder, cfg.features.dtype, cfg.features.views, progress=progress_bar)


def build_terms(cfg: DictConfig, model: DualEncoder, start: Path | None) -> dict[str, Term]:
    """The terms of a configuration's ``term`` node, by name, each with its teacher; terms share one of the same name.

    Args:
        cfg: The ``train`` config.
        model: The model that is going to be trained, its weights loaded.
        start: The checkpoint that it was loaded from, if there is one.

    Raises:
        ModisteError: A teacher cannot be loaded, or a resumed run kept no starting weights.
    """
    from modiste.terms.teacher import OWN, START, Teacher

    terms: dict[str, Term] = {name: instantiate(node) for name, node in (cfg.get("term") or {}).items()}
    teachers: dict[str, Teacher | None] = {OWN: None}
    for term in terms.values():
        name = term.teacher
        if name not in teachers:
            teacher = starting_model(cfg, model, start) if name == START else load(name).model
            teachers[name] = Teacher(teacher, name == START, cfg.grad_cache.micro_batch)
        term.begin(model, teachers[name])
    return terms


def starting_model(cfg: DictConfig, model: DualEncoder, start: Path | None) -> DualEncoder:
    """A copy of the model as it was before training: as it is now, or what the resumed run has kept."""
    teacher = copy.deepcopy(model)
    if cfg.resume or cfg["continue"]:
        assert start is not None
        kept = start.parent.with_name(STARTING_WEIGHTS)  # beside checkpoints/, whose newest file is what resumes
        if not kept.is_file():
            raise ModisteError(
                f"{kept.parent} has no {STARTING_WEIGHTS}, the weights from before training, since the run had no "
                "term with teacher=start: name a teacher, as in term.distill.teacher=RUN, or start with init=RUN."
            )
        teacher.initial_scale = None
        load_weights(teacher, kept)
    return teacher


def keep_start(terms: Mapping[str, Term], run_dir: RunDir) -> None:
    """Writes ``start.ckpt`` where a term has the starting weights as its teacher: resuming needs them."""
    from modiste.terms.teacher import START, save_start

    teachers = [term.model for term in terms.values() if term.teacher == START and term.model is not None]
    path = run_dir.path / STARTING_WEIGHTS
    if teachers and not path.is_file():
        save_start(teachers[0].model, path)
