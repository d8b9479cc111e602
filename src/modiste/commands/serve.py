"""Serve an index with a search page and an HTTP API: modiste serve index=shop.index"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.serve.running import serve
from modiste.serve.settings import Settings


def run(cfg: DictConfig) -> None:
    """Serve ``cfg.index`` until interrupted; pending requests are answered.

    Raises:
        ModisteError: No index is given, or see `serve`.
    """
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    serve(Settings.of(values))
