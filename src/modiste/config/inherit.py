"""Settings that a configuration with ``run=`` inherits from that run."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config.overrides import override_key, parse
from modiste.config.quoting import escape_interpolations
from modiste.errors import ModisteError


def from_run(config: DictConfig, trained: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Copy ``config`` with the model of a run and, unless the user names another, its data set.

    Args:
        config: A configuration with ``model``, ``tune``, ``data`` and ``name``.
        trained: The run's configuration.
        overrides: The user's overrides.

    Raises:
        ModisteError: The overrides name a model, or a split without a data set.
    """
    named = {override_key(override) for override in overrides}
    if "model" in named:
        raise ModisteError("run= and model= exclude each other: give one model.")
    if "data/split" in named and "data" not in named:
        raise ModisteError("data/split= with run= also needs data=: for example data=kagl data/split=marqo.")
    config = config.copy()
    with open_dict(config):
        config.model, config.tune = trained.model, trained.tune
        if "data" not in named:
            config.data = OmegaConf.create(trained.data)
            for override in map(parse, overrides):
                if override.key_or_group.startswith("data."):
                    OmegaConf.update(config, override.key_or_group, override.value(), merge=True, force_add=True)
            config.name = escape_interpolations(config.data.name)
    return config
