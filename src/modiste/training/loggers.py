"""wandb without an account, and helpers for loggers."""

from __future__ import annotations

import logging
import netrc
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from modiste.config.invocation import given
from modiste.config.overrides import override_key, parse
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


def wandb_logger(
    save_dir: str,
    offline: bool | None = None,
    run_id: str | None = None,
    project: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] | None = None,
    notes: str | None = None,
    entity: str | None = None,
    prefix: str = "",
    log_model: bool | str = False,
) -> WandbLogger:
    """Build a `WandbLogger` that, without an API key, logs offline for a later ``wandb sync``.

    The host is that of the machine (WANDB_BASE_URL, ``wandb login``), never of a configuration: it gets the key.

    Args:
        save_dir: Output directory.
        offline: Whether to log offline; null: True without a key.
        run_id: Run to continue. wandb cannot resume an offline run: a new one then starts in the same group.
        project: Project of the run.
        name: Name of the run.
        group: Group of the run.
        job_type: Type of the run.
        tags: Tags of the run.
        notes: Notes on the run.
        entity: User or team.
        prefix: Prefix of metric names.
        log_model: Upload checkpoints: False, True (at the end) or ``all``.

    Raises:
        ModisteError: wandb is not installed.
    """
    try:
        import wandb  # noqa: F401
        from lightning.pytorch.loggers import WandbLogger
    except ImportError:
        raise ModisteError("logger=wandb needs wandb: pip install 'modiste[wandb]', or use another logger.") from None
    offline = not has_key() if offline is None else offline
    set_up_wandb(offline)
    if run_id and offline:
        log.warning("wandb cannot resume an offline run (%s): starting a new one in the same group.", run_id)
        group, run_id = group or run_id, None
    resume: dict[str, Any] = {"id": run_id, "resume": "must"} if run_id else {}
    of_run: dict[str, Any] = {"group": group, "job_type": job_type, "tags": tags, "notes": notes, "entity": entity}
    return WandbLogger(
        name=name, save_dir=save_dir, offline=offline, project=project, prefix=prefix,
        log_model=cast(Any, log_model), **resume, **of_run,
    )  # fmt: skip


def set_up_wandb(offline: bool) -> None:
    """Set up wandb from the user's and the environment's settings, without the working directory's.

    A downloaded directory's ``wandb/settings`` could name the host that gets the key.

    Args:
        offline: Whether runs are offline; wandb reads the environment only here, before Lightning sets it there.
    """
    import wandb

    here = os.getcwd()
    with tempfile.TemporaryDirectory() as elsewhere:
        os.chdir(elsewhere)
        try:
            settings = wandb.Settings(root_dir=here)
            if offline:
                settings.mode = "offline"
            wandb.setup(settings)
        finally:
            os.chdir(here)


def has_key() -> bool:
    """Whether wandb can log in: by WANDB_API_KEY or ~/.netrc, unless WANDB_MODE is offline or disabled."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc(Path.home() / ".netrc").hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def run_name(config: Mapping[str, Any], swept: Sequence[str] = ()) -> str:
    """Name a run by recipe, data and seed, in a grid also by the overrides of its job.

    Args:
        config: Configuration with ``name``, ``data.name`` and ``seed``.
        swept: Overrides that vary over the grid.

    >>> run_name({"name": "kagl_lite", "data": {"name": "kagl"}, "seed": 0})
    'kagl_lite-kagl-seed0'
    >>> run_name({"name": "kagl", "data": {"name": "kagl"}, "seed": 1}, ["loss=siglip", "optim.lr=0.001", "seed=1"])
    'kagl-seed1 loss=siglip lr=0.001'
    >>> run_name({"name": "kagl", "data": {"name": "kagl"}, "seed": 0}, ["tune.image.rank=4", "tune.text.rank=8"])
    'kagl-seed0 tune.image.rank=4 tune.text.rank=8'
    """
    parts = dict.fromkeys((str(config["name"]), str(config["data"]["name"]), f"seed{config['seed']}"))
    values = {override_key(override): override.partition("=")[2] for override in swept}
    values.pop("seed", None)
    last = Counter(key.rpartition(".")[2] for key in values)
    short = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in values}
    return " ".join(["-".join(parts), *(f"{short[key]}={value}" for key, value in values.items())])


def swept_overrides() -> list[str]:
    """Return the overrides of the running job that vary over its grid (``-m``); none outside of a grid."""
    if not HydraConfig.initialized():
        return []
    job = HydraConfig.get()
    file = Path(job.sweep.dir) / "multirun.yaml"  # Hydra writes it before the first job
    if job.mode != RunMode.MULTIRUN or not file.is_file():
        return []
    grid = cast(Any, OmegaConf.to_container(OmegaConf.load(file), resolve=False))["hydra"]["overrides"]["task"]
    keys = {override_key(override) for override in grid if parse(override).is_sweep_override()}
    return [override for override in given(job)["task"] if override_key(override) in keys]


def declare_direction(loggers: Iterable[object], name: str, higher_is_better: bool) -> None:
    """Declare a metric's direction to wandb, so that run summaries hold its best value, not its last."""
    for logger in loggers:
        run = getattr(logger, "experiment", None) if type(logger).__name__ == "WandbLogger" else None
        if run is not None and hasattr(run, "define_metric"):  # absent in processes that do not log
            run.define_metric(name, summary="max" if higher_is_better else "min")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted names, by which loggers can filter runs.

    >>> flat({"optim": {"lr": 0.1}, "seed": 0, "task": ["retrieval"]})
    {'optim.lr': 0.1, 'seed': 0, 'task': ['retrieval']}
    """
    names: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            names |= flat(value, f"{prefix}{key}.")
        else:
            names[f"{prefix}{key}"] = value
    return names
