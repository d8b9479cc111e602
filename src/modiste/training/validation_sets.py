"""Additional validation sets of a training run, composed like those of `modiste evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config import HELD_OUT, instantiate, literal_config, validate
from modiste.config.overrides import as_overrides
from modiste.data.argument import Entry
from modiste.data.build import load
from modiste.data.catalogue import Catalogue
from modiste.data.module import ValidationSet
from modiste.errors import ModisteError
from modiste.evaluation.overlap import source
from modiste.evaluation.spec import EvaluationSpec, named_entries
from modiste.models.dual_encoder import DualEncoder
from modiste.training.data import build_data
from modiste.training.feature_cache import FeatureCache

LOADING = ("batch_size", "eval_batch_size", "num_workers")


def validation_specs(cfg: DictConfig, config_dirs: Sequence[Path] = ()) -> dict[str, EvaluationSpec]:
    """The sets of ``transfer`` by name, each as `modiste evaluate run=RUN` would compose it.

    ``data`` and ``task`` of a set default to those of the training run. ``held_out`` is added if ``data.held_out`` is
    set.

    Args:
        cfg: The ``train`` configuration.
        config_dirs: Folders with the user's config groups.

    Raises:
        ModisteError: A set cannot be composed, or has settings that validation during training does not support.
    """
    names = ("data", "task", "transfer", "model", "tune", "data_dir", "seed")
    values = {name: cfg[name] for name in names}
    plain = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in values.items()}
    trained = literal_config(plain)
    entries: dict[str, Entry] = {HELD_OUT: {"split": "val_held_out"}} if cfg.data.held_out else {}
    specs = {}
    for name, entry in {**entries, **named_entries(trained.transfer)}.items():
        try:
            specs[name] = _compose(
                name, {"data": entry} if isinstance(entry, str) else dict(entry), trained, config_dirs
            )
        except ModisteError as error:
            raise ModisteError(f"transfer.{name}: {error}") from error
    return specs


def _compose(name: str, entry: dict[str, Any], trained: DictConfig, config_dirs: Sequence[Path]) -> EvaluationSpec:
    named = {str(key).partition(".")[0] for key in entry}
    settings = {"data_dir": trained.data_dir, "seed": trained.seed}
    settings |= {f"data.{key}": trained.data[key] for key in LOADING}
    shared = as_overrides(settings)
    tasks = {} if "task" in entry else {"task": list(trained.task)}
    spec = EvaluationSpec.compose(name, {"split": "val", **tasks, **entry}, shared, config_dirs=config_dirs)
    # The shared settings may be those of a run's data, too: only the entry says whether it names other data.
    own = EvaluationSpec(name, spec.config, spec.overrides[len(shared) :]).of_run(trained)
    with open_dict(own.config):
        if not named & {"data/split", "task"} and "data" not in entry:
            own.config.task = trained.task  # with the training run's settings
        own.config.trainer = {}  # tells a task that it validates a training run
    validate(own.config)
    return own


def build_validation_sets(
    specs: Mapping[str, EvaluationSpec],
    trained: DictConfig,
    catalogue: Catalogue,
    model: DualEncoder,
    feature_cache: FeatureCache | None = None,
) -> dict[str, ValidationSet]:
    """Build the data and tasks of `validation_specs`.

    Args:
        specs: Specifications by name.
        trained: The ``train`` configuration.
        catalogue: Its catalogue.
        model: The model that is trained.
        feature_cache: Feature cache of the training run, which the sets share.

    Raises:
        ModisteError: A set's data are missing, or its split is empty.
    """
    sets = {}
    for name, spec in specs.items():
        cfg = spec.config
        try:
            same = source(cfg.data) == source(trained.data) and cfg.data.preprocessed == trained.data.preprocessed
            own = catalogue if same else load(cfg.data)
            own.select(split=spec.split)  # an empty one is refused now, not after an epoch
            data = build_data(cfg.data, own, model, feature_cache=feature_cache, cached_splits=[spec.split])
        except ModisteError as error:
            raise ModisteError(f"transfer.{name}: {error}") from error
        sets[name] = ValidationSet(data, spec.split, {key: instantiate(node) for key, node in cfg.task.items()})
    return sets
