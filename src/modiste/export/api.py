"""Export as configured by `modiste export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from modiste.config import load_run_config, validate
from modiste.config.inherit import from_run
from modiste.config.invocation import Invocation
from modiste.config.overrides import override_key
from modiste.data.build import load as load_data
from modiste.export.inputs import of_catalogue
from modiste.export.writing import Exported, check_target, export, layout_of
from modiste.models.load import build_model
from modiste.utils.run_dir import RunDir


def export_config(cfg: DictConfig, line: Invocation) -> Exported:
    """Export the run or the ``model`` node of a configuration to its ``out``.

    Args:
        cfg: The composed ``export`` configuration.
        line: The command line that it was composed from.

    Raises:
        ModisteError: The configuration is invalid, or see `modiste.export.writing.export`.
    """
    layout_of(cfg.format, cfg.precision)  # before anything is loaded
    check_target(Path(cfg.out).expanduser())
    source: Any
    if cfg.run:
        run = RunDir.find(cfg.run)
        source, cfg = run.path, from_run(cfg, load_run_config(run.config), line.overrides)
    validate(cfg)
    if not cfg.run:
        torch.manual_seed(cfg.seed)  # model=two_tower has randomly initialised weights
        source = build_model(cfg)
    named = {override_key(override) for override in line.overrides}
    card: Any = OmegaConf.to_container(cfg.card, resolve=True)
    return export(
        source,
        cfg.format,
        cfg.out,
        precision=cfg.precision,
        checkpoint=cfg.checkpoint,
        inputs=of_catalogue(load_data(cfg.data), cfg.data) if named & {"data", "data/split"} else None,
        min_cosine=cfg.min_cosine,
        repo_id=cfg.repo_id or "",
        card={name: value for name, value in card.items() if value},
    )
