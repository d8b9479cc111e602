"""Serve an index with a search page and an HTTP API: modiste serve index=shop.index"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.errors import ModisteError
from modiste.serve.running import serve
from modiste.serve.settings import Settings


def run(cfg: DictConfig) -> None:
    """Serve ``cfg.index`` until interrupted; pending requests are answered.

    Raises:
        ModisteError: No index is given, or see `serve`.
    """
    serve(read_settings(cfg))


def read_settings(cfg: DictConfig) -> Settings:
    """Create the settings from a configuration.

    Raises:
        ModisteError: No index is given, its folder does not exist, or see `Settings`.
    """
    if not cfg.index:
        raise ModisteError("No index given: modiste serve index=shop.index (build one with modiste index).")
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    given = {field.name: values[field.name] for field in dataclasses.fields(Settings)}
    given |= {name: tuple(map(str, given[name])) for name in ("hosts", "allow_image_hosts")}
    given["token"] = None if given["token"] is None else str(given["token"])
    settings = Settings(**given)
    for path in settings.paths.values():
        if not path.is_dir():
            raise ModisteError(
                f"There is no index {path}: build it with modiste index run=RUN data=… out={shlex.quote(str(path))}."
            )
    return settings
