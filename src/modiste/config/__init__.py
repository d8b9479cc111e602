"""Configuration: location, composition, allow-list and validation of conf/, without heavy imports."""

from __future__ import annotations

from modiste.config.building import instantiate
from modiste.config.composition import VERSION_BASE, compose, run_or
from modiste.config.messages import LAUNCHERS
from modiste.config.paths import config_dir, list_groups
from modiste.config.quoting import escape_interpolations, literal_config, quote
from modiste.config.stored import load_config, load_overrides, load_run_config
from modiste.config.targets import exported_node, locate
from modiste.config.validation import HELD_OUT, MEAN, STARTS, report, validate, value_problems

__all__ = [
    "HELD_OUT",
    "LAUNCHERS",
    "MEAN",
    "STARTS",
    "VERSION_BASE",
    "compose",
    "config_dir",
    "escape_interpolations",
    "exported_node",
    "instantiate",
    "list_groups",
    "literal_config",
    "load_config",
    "load_overrides",
    "load_run_config",
    "locate",
    "quote",
    "report",
    "run_or",
    "validate",
    "value_problems",
]
