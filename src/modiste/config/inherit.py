"""What a configuration inherits from the run that it names."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config.overrides import override_key
from modiste.errors import ModisteError


def from_run(config: DictConfig, trained: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """A copy of ``config`` with the model of a run, and its data set where the user names no other.

    Args:
        config: With ``model``, ``tune``, ``data`` and ``name``.
        trained: The run's configuration.
        overrides: The user's.

    Raises:
        ModisteError: The overrides also name a model, or a split but no data set.
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
            changes = [o.lstrip("+").removeprefix("data.") for o in overrides if o.lstrip("+").startswith("data.")]
            config.data = OmegaConf.merge(trained.data, OmegaConf.from_dotlist(changes))
            config.name = config.data.name
    return config
