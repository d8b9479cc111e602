"""`modiste.train`: from a configuration to a run directory."""

from __future__ import annotations

import functools
import logging
import math
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config import (
    compose,
    config_dir,
    escape_interpolations,
    instantiate,
    list_groups,
    load_run_config,
    quote,
    validate,
)
from modiste.config.invocation import Invocation
from modiste.config.overrides import check_list
from modiste.config.restart import check_in_place, check_unchanged, restart
from modiste.config.validation import AUTOMATIC
from modiste.data.build import load as load_catalogue
from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError
from modiste.models.load import check_fits, starting_point
from modiste.training.build import TrainingParts, build_parts, keep_start
from modiste.training.callbacks import (
    CheckpointFiles,
    Interrupted,
    Interruptible,
    OwnPaths,
    check_checkpoint_space,
    fast_dev_run,
    is_lost_worker,
)
from modiste.training.loggers import flat, run_name, swept_overrides
from modiste.training.validation_sets import validation_specs
from modiste.utils.atomic import make_folder, remove_all_leftovers, write_text
from modiste.utils.hardware import environment, is_out_of_memory, keep_pages
from modiste.utils.lock import exclusive, is_further_process
from modiste.utils.orphans import end_with_parent
from modiste.utils.run_dir import RunDir

WHERE_TO_START = ("init", "resume", "continue", "run_dir")


class Run(RunDir):
    """A trained run directory.

    Attributes:
        path: The directory.
        trainer: Lightning's trainer, as training left it.
        score: Best value of the monitor; None without a validation.
        interrupted: Step at which training was stopped on request, with its state saved; None: training finished.
    """

    def __init__(self, path: str | Path, trainer: Trainer, interrupted: str | None = None) -> None:
        super().__init__(path)
        self.trainer, self.interrupted = trainer, interrupted

    @property
    def score(self) -> float | None:
        scores = [getattr(callback, "best_model_score", None) for callback in self.trainer.checkpoint_callbacks]
        return next((float(score) for score in scores if score is not None), None)

    @property
    def concludes(self) -> bool:
        """Whether this process writes the final outputs of the run: rank 0, unless ``debug=step``."""
        return self.trainer.is_global_zero and not fast_dev_run(self.trainer)

    def write_report(self) -> Path | None:
        """Write ``report.html`` and return its path; None where this process does not, or nothing was logged."""
        from modiste.reporting.report import write_report

        logged = any(self.path.glob("csv/version_*/metrics.csv"))  # a few steps may be too few to log
        return write_report(self.path) if self.concludes and logged else None


def train(
    config: DictConfig | Sequence[str] = (),
    *,
    catalogue: Catalogue | None = None,
    callbacks: Sequence[Callback] = (),
    line: Invocation | None = None,
    report: bool = True,
) -> Run:
    """Train a dual encoder and write its run directory.

    Args:
        config: Overrides of conf/train.yaml, as on the command line (``["data=kagl", "loss=siglip"]``), or the
            configuration that they compose. ``continue=RUN`` and ``resume=RUN`` start from RUN's overrides.
        catalogue: The data to train on, instead of what ``config.data`` loads.
        callbacks: Additional Lightning callbacks.
        line: The command line, to be recorded.
        report: Write ``report.html`` after training.

    Returns:
        The run directory, which `modiste.evaluate`, `modiste.embed` and `modiste.load` take.

    Raises:
        ModisteError: The configuration is invalid, data are missing, a checkpoint does not match, the settings of a
            continued run have changed, training diverges, or memory or disk space runs out.

    Example:
        ``run = modiste.train(["data=kagl", "image=lite", "text=minilm"])``, then ``modiste.evaluate(run, tasks=[…])``.
    """
    if not isinstance(config, DictConfig):
        check_list(config)
        overrides = restarted(config)
        line = line or Invocation(overrides=overrides)
        config = compose("train", overrides)
        check_in_place(config, overrides, functools.partial(compose, "train"))
    line = line or Invocation()
    if is_further_process():
        end_with_parent()
    config = config.copy()  # what is settled below stays out of the caller's configuration
    settle_run_dir(config)
    validate(config)
    settle_continue(config)
    check_unchanged(config, line.overrides)
    start = starting_point(config)
    prepare_process(config.seed)
    specs = validation_specs(config, line.config_dirs)
    catalogue = load_catalogue(config.data) if catalogue is None else catalogue
    parts = build_parts(config, catalogue, specs, start)
    check_fits(parts.module, start)
    run = RunDir(config.run_dir)
    loggers = build_loggers(config, run)
    with exclusive(run.path), explained(), same_groups(), memory_named(config):
        trainer = build_trainer(config, run, loggers, callbacks, parts.data.batches_per_epoch)
        if trainer.is_global_zero and not fast_dev_run(trainer):
            remove_all_leftovers(run.path)
            check_checkpoint_space(trainer, parts.module)
            describe(parts, line, run, loggers)
            keep_start(parts.module.terms, run)
            run.write_json("status", {"finished": False})
        try:
            trainer.fit(
                parts.module, parts.data, ckpt_path=start.checkpoint if start.resumes else None, weights_only=True
            )
        except Interrupted as stop:
            return Run(run.path, trainer, interrupted=str(stop))
        except RuntimeError as error:
            if not is_lost_worker(error) or not stop_requested(trainer):
                raise
            raise ModisteError(
                "A data loader worker was killed before the last step was done: the steps since the newest checkpoint "
                f"are lost. Continue with: modiste train continue={shlex.quote(str(run.path))}"
            ) from error
        finally:
            finish_loggers()
        if trainer.is_global_zero and not fast_dev_run(trainer):
            run.write_json("status", {"finished": True})
    trained = Run(run.path, trainer)
    if report:
        trained.write_report()
    return trained


def restarted(overrides: Sequence[str]) -> tuple[str, ...]:
    """Prepend the overrides of the run that ``resume=`` or ``continue=`` names, as on the command line."""
    again = restart(overrides, list_groups([config_dir()]))
    if again is None:
        return tuple(overrides)
    place = [f"run_dir={quote(str(again.run))}"] if again.continues else []
    return (*again.overrides, *place, *overrides)


def settle_run_dir(config: DictConfig) -> None:
    """Set the run directory ``<log_dir>/<name>/<time>`` in place, unless one is given or Hydra made one."""
    if HydraConfig.initialized() or not OmegaConf.is_interpolation(config, "run_dir"):
        return
    with open_dict(config):
        place = f"{config.log_dir}/{config.name}/{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
        config.run_dir = escape_interpolations(place)


def settle_continue(config: DictConfig) -> None:
    """Resolve ``continue=auto`` in place: the run directory if it has a checkpoint, else null.

    A requeued job thus resumes with the same command.
    """
    if config["continue"] != AUTOMATIC:
        return
    run = RunDir(config.run_dir)
    with open_dict(config):
        try:
            run.checkpoint("last")
        except ModisteError:
            config["continue"] = None
            return
        config["continue"], config.init, config.resume = escape_interpolations(str(run.path)), None, None


def prepare_process(seed: int) -> None:
    """Set seeds, matmul precision and memory settings, and silence messages that a user cannot act on."""
    quieten()
    keep_pages()
    seed_everything(seed, workers=True, verbose=False)
    torch.set_float32_matmul_precision("high")


def quieten() -> None:
    """Silence Lightning's and torch's own messages, except warnings that a user can act on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Found .* module.s. in eval mode",  # frozen parts are meant to be
        "`isinstance.treespec, LeafSpec.` is deprecated",
        "The '.*_dataloader' does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed from",  # a resumed run has a new directory
    ):
        warnings.filterwarnings("ignore", message)


@contextmanager
def explained() -> Iterator[None]:
    """Turn Lightning's and wandb's errors about settings into ModisteError."""
    try:
        yield
    except MisconfigurationException as error:
        raise ModisteError(f"The trainer rejects its settings: {' '.join(str(error).split())}") from error
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):
            raise
        raise ModisteError(f"logger.wandb rejects its settings: {' '.join(str(error).split())}") from error


def stop_requested(trainer: Trainer) -> bool:
    """Whether a signal has asked this process to stop after its step."""
    found = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Interruptible)]
    return any(callback.requested for callback in found)


@contextmanager
def same_groups() -> Iterator[None]:
    """Turn the error of an optimizer state that does not match into ModisteError."""
    try:
        yield
    except ValueError as error:
        if "parameter group" not in str(error):
            raise
        raise ModisteError(
            "The checkpoint's optimizer state does not match: resume and continue need the same optim and tune. To "
            "change them, start with init=RUN."
        ) from error


@contextmanager
def memory_named(cfg: DictConfig) -> Iterator[None]:
    """Turn an out-of-memory error into a ModisteError that names the settings to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        batch, micro = cfg.data.batch_size, cfg.grad_cache.micro_batch
        raise ModisteError(
            f"Out of memory at data.batch_size={batch} with grad_cache.micro_batch={micro or 'null'}: keep the batch "
            f"and embed fewer pairs at a time (grad_cache.micro_batch={max(min(batch, micro or batch) // 2, 1)}), or "
            "lower data.batch_size."
        ) from error


def build_loggers(cfg: DictConfig, run: RunDir) -> dict[str, Logger]:
    """Build the CSV logger and those of the configuration; ``continue`` resumes their earlier runs.

    Raises:
        ModisteError: The run directory has a ``$``, which TensorBoard would expand as a variable.
    """
    earlier = run.read_json("logger") if cfg["continue"] else {}
    more = {name: {"run_id": earlier[name]} for name in cfg.logger if name in earlier}
    if "wandb" in cfg.logger and cfg.logger.wandb.get("name") is None:
        more["wandb"] = {"name": run_name(cfg, swept_overrides()), **more.get("wandb", {})}
    chosen = {name: instantiate(node, **more.get(name, {})) for name, node in cfg.logger.items()}
    if "$" in str(run.path) and any(isinstance(logger, TensorBoardLogger) for logger in chosen.values()):
        raise ModisteError(f"TensorBoard reads the $ of '{run.path}' as a variable's name: rename the folder.")
    return {"csv": CSVLogger(str(run.path), name="csv"), **chosen}


def build_trainer(
    cfg: DictConfig,
    run: RunDir,
    loggers: Mapping[str, Logger],
    more_callbacks: Sequence[Callback] = (),
    batches_per_epoch: int | None = None,
) -> Trainer:
    """Build the trainer without Lightning's default callbacks; it logs at least once per epoch."""
    callbacks = [instantiate(node) for node in cfg.callbacks.values() if node is not None]
    callbacks += [*more_callbacks, OwnPaths()]
    # FSDP2 gathers and writes checkpoints itself.
    sharded = "ModelParallelStrategy" in str(OmegaConf.select(cfg, "trainer.strategy._target_"))
    plugins = [*instantiate(cfg.trainer.get("plugins") or []), *([] if sharded else [CheckpointFiles()])]
    trainer: Trainer = instantiate(
        cfg.trainer,
        **without_defaults(cfg, callbacks),
        plugins=plugins,
        logger=list(loggers.values()),
        callbacks=callbacks,
        default_root_dir=str(run.path),
        log_every_n_steps=max(1, min(cfg.trainer.log_every_n_steps, batches_per_epoch or math.inf)),
    )
    # With max_steps, Lightning mistakes a finished epoch for an interrupted one: a resumed run would skip the next.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    return trainer


def without_defaults(cfg: DictConfig, callbacks: Sequence[Callback]) -> dict[str, bool]:
    """Settings that keep Lightning from adding its own progress bar or checkpoint callback."""
    defaults = {"enable_progress_bar": ProgressBar, "enable_checkpointing": Checkpoint}
    return {
        name: any(isinstance(callback, kind) for callback in callbacks)
        for name, kind in defaults.items()
        if name not in cfg.trainer
    }


def describe(parts: TrainingParts, line: Invocation, run: RunDir, loggers: Mapping[str, Logger]) -> None:
    """Write the description of the run: configuration, overrides, environment, ids of the loggers' runs."""
    make_folder(run.path)
    config = parts.config
    start = {name: config[name] for name in ("init", "resume")}
    if config["continue"]:
        start = run.origin(load_run_config(run.config))  # the data of its initial weights still count as training data
    else:
        run.write_json("start", start)
    write_text(run.config, OmegaConf.to_yaml(OmegaConf.create(config | start)))
    kept = [override for override in line.overrides if override.split("=")[0] not in WHERE_TO_START]
    write_text(run.path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(kept)))
    run.write_json("environment", environment() | {"command": line.command})
    ids = {}
    for name, logger in loggers.items():
        logger.log_hyperparams(flat(config))
        if isinstance(logger.version, str) and logger.version and name != "csv":
            ids[name] = logger.version
    run.write_json("logger", ids)


def finish_loggers() -> None:
    """Finish wandb's run, so that the next job of a multirun gets its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
