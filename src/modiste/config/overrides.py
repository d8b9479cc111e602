"""Parsing and formatting of Hydra overrides."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import NoneType
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from modiste.config.quoting import quote
from modiste.errors import ModisteError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# Characters with a meaning in Hydra's grammar of mappings.
GRAMMAR = re.compile(r"""[${}\[\]():,='"\\]""")
# A key of the configuration, or a config group with its package.
KEY = re.compile(r"\+{0,2}[A-Za-z_][\w./-]*(@[\w.]+)?|~[A-Za-z_][\w./-]*")


def override_key(override: str) -> str:
    """Return the key that an override sets.

    >>> override_key("+data.catalogue.path=x=y")
    'data.catalogue.path'
    """
    return override.partition("=")[0].lstrip("+~")


def of_data(overrides: Iterable[str]) -> list[str]:
    """Return those ``overrides`` that choose the data set.

    >>> of_data(["data=kagl", "data/split=marqo", "data.limit=9", "seed=1"])
    ['data=kagl', 'data/split=marqo', 'data.limit=9']
    """
    return [o for o in overrides if override_key(o).split(".")[0].split("/")[0] in ("data", "data_dir")]


def check_list(overrides: object) -> None:
    """Raise ModisteError if ``overrides`` is not a list of texts.

    >>> check_list("data=kagl")
    Traceback (most recent call last):
    modiste.errors.ModisteError: 'data=kagl' is no list of overrides: write ["data=kagl", "loss=siglip"].
    """
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(override, str) for override in overrides):
        raise ModisteError(f'{overrides!r:.60} is no list of overrides: write ["data=kagl", "loss=siglip"].')


def parse(override: str) -> Override:
    """Parse an override with Hydra's own parser: any other parser might read other values.

    Raises:
        OverrideParseException: It cannot be parsed.

    >>> parse('name="a: \\\\x24{b}"').value()
    'a: \\\\x24{b}'
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides([override])[0]


def is_own_key(key: object) -> bool:
    """Whether ``key`` is an override's key of Modiste's configuration rather than of Hydra's.

    >>> is_own_key("optim.lr"), is_own_key("+term@term.x"), is_own_key("hydra/launcher"), is_own_key("+loss@hydra.x")
    (True, True, False, False)
    >>> is_own_key("--config-dir")
    False
    """
    return isinstance(key, str) and bool(KEY.fullmatch(key)) and "hydra" not in re.split(r"[+~./@]", key)


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Format a mapping of keys to plain values as overrides in Hydra's grammar.

    Raises:
        ModisteError: A key, which may come from an untrusted file, does not belong to Modiste's configuration.

    >>> as_overrides({"optim.lr": 0.001, "loss": "clip", "name": "spring, {old}", "optim.tower_lr": {"image": 0.1}})
    ['optim.lr=0.001', 'loss="clip"', 'name="spring, {old}"', 'optim.tower_lr={image: 0.1}']
    >>> as_overrides({"hydra.searchpath": ["/x"]})
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'hydra.searchpath' is not a key of Modiste's configuration: remove it.
    """
    foreign = [key for key in values if not is_own_key(key)]
    if foreign:
        raise ModisteError(f"'{foreign[0]}' is not a key of Modiste's configuration: remove it.")
    return [f"{key}={override_value(value)}" for key, value in values.items()]


def override_value(value: object) -> str:
    """Format a plain value in Hydra's override grammar.

    Raises:
        ModisteError: A mapping has a key with characters that the grammar would interpret, or ``value`` is not plain.

    >>> override_value(["marqo", "zeroshot"]), override_value("kagl"), override_value(None), override_value({"a": 1})
    ('["marqo","zeroshot"]', '"kagl"', 'null', '{a: 1}')
    """
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, (str, PurePath)):
        return quote(str(value))
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, dict):
        odd = [key for key in value if GRAMMAR.search(str(key))]
        if odd:
            raise ModisteError(f"'{odd[0]}' cannot be a key on Hydra's command line: remove its punctuation.")
        return f"{{{','.join(f'{key}: {override_value(v)}' for key, v in value.items())}}}"
    if not isinstance(value, (int, float, NoneType)):
        raise ModisteError(f"{value!r:.60} is no value of a configuration: give text, numbers, lists or mappings.")
    return json.dumps(value)
