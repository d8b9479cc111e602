"""Train a dual encoder: modiste train data=kagl image=lite text=minilm"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from modiste.commands._line import command, config_dirs
from modiste.commands._transfer import build_sets, validation_sets
from modiste.config import instantiate, validate
from modiste.config.aliases import load_run_config
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger

    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> float | None:
    """Trains and writes the report; returns the best value of the monitor, for multiruns."""
    from modiste.training.callbacks import fast_dev_run

    trainer = train(cfg, overrides())
    if fast_dev_run(trainer) or not trainer.is_global_zero:
        return None
    return conclude(RunDir(cfg.run_dir), trainer)


def train(
    cfg: DictConfig, given: list[str], catalogue: Catalogue | None = None, more_callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Trains a configuration; the report is not written.

    Args:
        cfg: The composed ``train`` config.
        given: The overrides that it was composed with, for the run directory.
        catalogue: That of ``cfg.data``, where it is loaded already.
        more_callbacks: Beside those of the configuration.
    """
    validate(cfg)
    import torch
    from lightning.pytorch import seed_everything

    from modiste.data.build import load as load_catalogue
    from modiste.data.module import check_training
    from modiste.models.load import build_model, load_weights
    from modiste.training.build import build_cache, build_data, build_stream, build_terms, keep_start
    from modiste.training.callbacks import Interrupted, fast_dev_run
    from modiste.training.grad_cache import GradCache
    from modiste.training.module import ContrastiveModule
    from modiste.utils.machine import keep_pages

    start = starting_point(cfg)
    grad_cache = GradCache(**cfg.grad_cache)
    quieten()
    keep_pages()
    seed_everything(cfg.seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")
    sets = validation_sets(cfg, config_dirs())
    catalogue = load_catalogue(cfg.data) if catalogue is None else catalogue
    model = build_model(cfg)
    if start is not None:  # when resuming, too: a file that does not fit is refused here, in one sentence
        load_weights(model, start)
    loss = instantiate(cfg.loss)
    cache = build_cache(cfg, model) if cfg.features.cache else None
    further = build_sets(cfg, sets, catalogue, model, cache)
    stream = build_stream(cfg.data)
    data = build_data(cfg.data, catalogue, model, stream, validation_sets=further, feature_cache=cache)
    check_training(data, loss)
    loss.initialise(model.initial_scale, model.initial_bias, data.batch_size)
    terms = build_terms(cfg, model, start)
    tasks = {name: instantiate(node) for name, node in cfg.task.items()}
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    module = ContrastiveModule(model, loss, instantiate(cfg.optim), tasks, cfg.seed, plain, grad_cache, terms)
    module.train()  # transformers hands out its models in evaluation mode, and Lightning leaves the mode as it is
    run_dir = RunDir(cfg.run_dir)
    loggers = build_loggers(cfg, run_dir)
    with explained():
        trainer = build_trainer(cfg, run_dir, loggers, more_callbacks)
        if trainer.is_global_zero and not fast_dev_run(trainer):
            describe(plain, given, run_dir, loggers)
            keep_start(terms, run_dir)
        try:
            trainer.fit(module, data, ckpt_path=start if cfg.resume or cfg["continue"] else None, weights_only=True)
        except Interrupted as stop:
            raise SystemExit(farewell(run_dir, str(stop))) from None
        finally:
            finish_loggers()
    return trainer


@contextmanager
def explained() -> Iterator[None]:
    """Turns what Lightning and torch say of a user's mistake into one sentence."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except MisconfigurationException as error:
        raise ModisteError(f"The trainer refuses its settings: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if "parameter group" not in str(error):
            raise
        raise ModisteError(
            "The checkpoint's optimizer does not fit: resume and continue need the optim and tune of the run they go "
            "on with. To change them, start with init=RUN."
        ) from error


def quieten() -> None:
    """Leaves out what Lightning and its friends say of themselves; warnings stay, but for those that do not apply."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Found .* module.s. in eval mode",  # frozen parts are meant to be
        "`isinstance.treespec, LeafSpec.` is deprecated",
        "The '.*_dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",
    ):
        warnings.filterwarnings("ignore", message)


def starting_point(cfg: DictConfig) -> Path | None:
    """The checkpoint to start from, or None from scratch.

    Raises:
        ModisteError: The run has no checkpoint.
    """
    given = [(name, cfg[name]) for name in ("init", "resume", "continue") if cfg[name]]
    if not given:
        return None
    name, source = given[0]
    if name == "init" and Path(source).suffix == ".ckpt":
        return Path(source)
    return RunDir.find(source).checkpoint("best" if name == "init" else "last")


def build_loggers(cfg: DictConfig, run_dir: RunDir) -> dict[str, Logger]:
    """The CSV log, and the loggers of the configuration; ``continue`` goes on with their former runs."""
    from lightning.pytorch.loggers import CSVLogger

    earlier = run_dir.read_json("logger") if cfg["continue"] else {}
    chosen = {
        name: instantiate(node, **({"run_id": earlier[name]} if name in earlier else {}))
        for name, node in cfg.logger.items()
    }
    return {"csv": CSVLogger(str(run_dir.path), name="csv"), **chosen}


def build_trainer(
    cfg: DictConfig, run_dir: RunDir, loggers: dict[str, Logger], more_callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Lightning's trainer with the callbacks of the configuration."""
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None] + list(more_callbacks)
    return instantiate(
        cfg.trainer, logger=list(loggers.values()), callbacks=callbacks, default_root_dir=str(run_dir.path)
    )


def describe(config: dict[str, Any], given: list[str], run_dir: RunDir, loggers: dict[str, Logger]) -> None:
    """Writes what the run is: configuration, overrides, environment, ids of the loggers' runs."""
    from modiste.utils.machine import environment

    run_dir.path.mkdir(parents=True, exist_ok=True)
    start = {name: config[name] for name in ("init", "resume")}
    if config["continue"]:
        earlier: Any = load_run_config(run_dir.config)
        start = run_dir.origin(earlier)  # what it began with is still training data of it
    else:
        run_dir.write_json("start", start)
    OmegaConf.save(OmegaConf.create(config | start), run_dir.config)
    OmegaConf.save(OmegaConf.create(given), run_dir.path / "overrides.yaml")
    run_dir.write_json("environment", environment() | {"command": command()})
    ids = {}
    for name, logger in loggers.items():
        logger.log_hyperparams(config)
        if isinstance(logger.version, str) and logger.version and name != "csv":
            ids[name] = logger.version
    run_dir.write_json("logger", ids)


def overrides() -> list[str]:
    """The overrides that the command line gave, without those that only say where to start and write."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    return [
        o for o in HydraConfig.get().overrides.task if o.split("=")[0] not in ("init", "resume", "continue", "run_dir")
    ]


def farewell(run_dir: RunDir, where: str) -> int:
    """Says how to go on with an interrupted run; returns the exit code of an interruption."""
    print(
        f"\nInterrupted at {where}; nothing is lost. Continue with: modiste train continue={run_dir.path}",
        file=sys.stderr,
    )
    return 130


def finish_loggers() -> None:
    """Ends wandb's run, so that the next job of a multirun gets its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def conclude(run_dir: RunDir, trainer: Trainer) -> float | None:
    """Writes the report; returns the best value of the monitor."""
    from modiste.reporting.report import write_report

    print(f"\nRun directory: {run_dir.path}")
    if any(run_dir.path.glob("csv/version_*/metrics.csv")):  # a few steps may be too few to log
        print(f"Report: {write_report(run_dir.path)}")
    print(f"Evaluate it: modiste evaluate run={run_dir.path}")
    best = getattr(trainer.checkpoint_callback, "best_model_score", None)
    return None if best is None else float(best)
