"""Detected settings of a user's table, and the YAML that saves them as a data set."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from modiste.config import literal_config
from modiste.data import shop
from modiste.data.catalogue import Catalogue
from modiste.data.datasets.table import Table
from modiste.errors import ModisteError
from modiste.utils.atomic import write_text

TARGET = "modiste.data.datasets.table.Table"
EXAMPLES = 3
LOOKED_AT = 1000
"""Number of rows that examples are taken from."""


def is_table(data_cfg: DictConfig) -> bool:
    """Whether a ``data`` node reads a user's table, without preprocessed images."""
    return data_cfg.catalogue.get("_target_") == TARGET and not data_cfg.get("preprocessed")


def reader(data_cfg: DictConfig) -> Table:
    """Return the reader of a node for which `is_table` holds."""
    options: Any = OmegaConf.to_container(data_cfg.catalogue, resolve=True)
    return Table(**{name: value for name, value in options.items() if name != "_target_"})


def columns(data_cfg: DictConfig, catalogue: Catalogue) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return column → detected role, and column → a few of its values.

    Args:
        data_cfg: A node for which `is_table` holds.
        catalogue: The catalogue loaded from it.
    """
    table = reader(data_cfg)
    raw = table.read()
    roles = shop.recognise(raw, table.columns)
    named = {roles.text: "text", roles.product_id: "product id", roles.split: "split"}
    named |= dict.fromkeys(roles.images, "image")
    renamed = {column: word for word, column in table.columns.items() if isinstance(column, str)}
    taken = {name: named.get(name) or _kind(catalogue, renamed.get(name, name)) for name in raw}
    examples = {
        name: list(dict.fromkeys(_shown(cell) for cell in cells[:LOOKED_AT] if cell not in (None, "")))[:EXAMPLES]
        for name, cells in raw.items()
    }
    return taken, examples


def _shown(cell: Any) -> str:
    return "a picture" if isinstance(cell, (bytes, dict)) else str(cell)


def _kind(catalogue: Catalogue, name: str) -> str:
    if name not in catalogue.attributes:
        return "not used"
    if name in catalogue.class_attributes:
        return "classes"
    kind = str(catalogue.table.schema.field(name).type)
    return {"string": "text, too varied for classes", "bool": "true/false"}.get(kind, "numbers, for filters")


def write(name: str, data_cfg: DictConfig, catalogue: Catalogue, folder: Path) -> Path:
    """Write the detected settings as ``data/NAME.yaml`` below a folder of configs; return the file.

    Args:
        name: Name of the data set, later selected by ``data=NAME``.
        data_cfg: A node for which `is_table` holds.
        catalogue: The catalogue loaded from it.
        folder: Folder of configs for ``--config-dir``.

    Raises:
        ModisteError: ``name`` is not a valid name, or the file exists.
    """
    name = str(name)
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ModisteError(f"write={name} is not a valid name: use letters, digits, - and _, starting with a letter.")
    file = folder / "data" / f"{name}.yaml"
    if file.exists():
        raise ModisteError(f"{file} exists: choose another write=NAME, or delete it.")
    table = reader(data_cfg)
    roles = shop.recognise(table.read(), table.columns)
    options = {key: value for key, value in vars(table).items() if value is not None and key != "name"}
    found: dict[str, Any] = {"text": roles.text, "product_id": roles.product_id, "split": roles.split}
    found["image"] = roles.images[0] if len(roles.images) == 1 else list(roles.images)
    options |= {"path": str(table.file.resolve()), "columns": {**table.columns, **found}}
    if table.images is not None:
        options["images"] = str(Path(table.images).expanduser().resolve())
    content: dict[str, Any] = {
        "defaults": ["table", *([{"override split": "given"}] if roles.split else []), "_self_"],
        "name": name,
        "catalogue": options,
    }
    if catalogue.class_attributes:
        content["prompts"] = {
            column: [f"a photo of a product, {column.lower()}: {{}}"] for column in catalogue.class_attributes
        }
    # Escapes interpolations, so that text from an untrusted table stays a plain value.
    plain = OmegaConf.to_container(literal_config(content), resolve=False)
    command = f"modiste train --config-dir {shlex.quote(str(folder))} data={name}"
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    write_text(file, f"# A table as modiste data recognised it: {command}\n{text}")
    return file
