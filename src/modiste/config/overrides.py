"""Hydra overrides as values: what one sets, and how a value is written in one."""

from __future__ import annotations

import json

from omegaconf import OmegaConf

from modiste.config import quote


def override_key(override: str) -> str:
    """The key that an override sets.

    >>> override_key("+data.catalogue.path=x=y")
    'data.catalogue.path'
    """
    return override.partition("=")[0].lstrip("+~")


def override_value(value: object) -> str:
    """A plain value in the grammar of Hydra's command line.

    >>> override_value(["marqo", "zeroshot"]), override_value("kagl"), override_value(None), override_value({"a": 1})
    ('["marqo","zeroshot"]', '"kagl"', 'null', '{a: 1}')
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {override_value(v)}' for key, v in value.items())}}}"
    return json.dumps(value)
