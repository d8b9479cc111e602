"""The further validation sets of a training: composed as `modiste evaluate` composes what it evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.commands.evaluate import key_of, quote_value, take_over
from modiste.config import HELD_OUT, compose, instantiate, validate
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.data.module import ValidationSet
    from modiste.models.dual_encoder import DualEncoder
    from modiste.training.feature_cache import FeatureCache

LOADING = ("batch_size", "eval_batch_size", "num_workers")


def validation_sets(cfg: DictConfig, config_dirs: list[Path]) -> dict[str, DictConfig]:
    """The sets of ``transfer`` by name, each as `modiste evaluate run=RUN` would compose it.

    A set is overrides of that command: without ``data`` it is the training's own data, without ``task`` it has the
    training's tasks. ``held_out`` is added where ``data.held_out`` leaves something out.

    Args:
        cfg: The training's config.
        config_dirs: Folders with groups of the user's.

    Raises:
        ModisteError: A set cannot be composed, or asks for what a training's validation cannot see.
    """
    values = {name: cfg[name] for name in ("data", "task", "transfer", "model", "tune", "data_dir", "seed")}
    plain = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in values.items()}
    trained = OmegaConf.create(plain)
    entries = {HELD_OUT: {"split": "val_held_out"}} if cfg.data.held_out else {}
    sets = {}
    for name, entry in {**entries, **trained.transfer}.items():
        try:
            sets[str(name)] = _compose(trained, {"split": "val", **entry}, config_dirs)
        except ModisteError as error:
            raise ModisteError(f"transfer.{name}: {error}") from error
    return sets


def _compose(trained: Any, entry: dict[str, Any], config_dirs: list[Path]) -> DictConfig:
    named = {key.partition(".")[0] for key in entry}
    shared = {"data_dir": trained.data_dir, "seed": trained.seed}
    shared |= {f"data.{name}": trained.data[name] for name in LOADING}
    tasks = {"task": list(trained.task)} if "task" not in entry else {}
    own = [f"{key_of(key)}={quote_value(value)}" for key, value in {**tasks, **entry}.items()]
    cfg = compose("evaluate", [*(f"{key}={quote_value(value)}" for key, value in shared.items()), *own], config_dirs)
    take_over(cfg, trained, own)
    with open_dict(cfg):
        if not named & {"data/split", "task"} and "data" not in entry:
            cfg.task = trained.task  # with the training's own settings
        cfg.trainer = {}  # tells a task that it is to validate a training
    validate(cfg)
    return cfg


def build_sets(
    trained: DictConfig,
    sets: dict[str, DictConfig],
    catalogue: Catalogue,
    model: DualEncoder,
    feature_cache: FeatureCache | None = None,
) -> dict[str, ValidationSet]:
    """Return the data and tasks of the ``sets`` of `validation_sets`.

    Args:
        trained: The training's config.
        sets: See `validation_sets`.
        catalogue: That of the training.
        model: The model that is trained.
        feature_cache: Serves the sets, too.

    Raises:
        ModisteError: A set's data are not there, or its split is empty.
    """
    built = {}
    for name, cfg in sets.items():
        try:
            built[name] = _built(catalogue, trained, cfg, model, feature_cache)
        except ModisteError as error:
            raise ModisteError(f"transfer.{name}: {error}") from error
    return built


def _built(
    catalogue: Catalogue, trained: DictConfig, cfg: DictConfig, model: DualEncoder, cache: FeatureCache | None
) -> ValidationSet:
    from modiste.data.build import load
    from modiste.data.module import ValidationSet
    from modiste.evaluation.overlap import source
    from modiste.training.build import build_data

    same = source(cfg.data) == source(trained.data) and cfg.data.preprocessed == trained.data.preprocessed
    data = catalogue if same else load(cfg.data)
    data.select(split=cfg.split)  # an empty one is refused now, not after an epoch
    part = build_data(cfg.data, data, model, feature_cache=cache, cached_splits=[cfg.split])
    return ValidationSet(part, cfg.split, {name: instantiate(node) for name, node in cfg.task.items()})
