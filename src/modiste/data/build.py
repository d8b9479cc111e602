"""The catalogue that a configuration describes."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import OmegaConf

from modiste.config import instantiate
from modiste.data.captions import BoundCaptions, Captions
from modiste.data.catalogue import Catalogue
from modiste.data.corruptions import corrupt
from modiste.data.derive import derive
from modiste.data.splits import HeldOut
from modiste.data.storage.preprocessed import Prepared
from modiste.errors import ModisteError

# Of a data node, what `load` reads.
PARTS = ("name", "catalogue", "split", "derive", "prepared", "held_out", "corruptions")


def load(data_cfg: Any) -> Catalogue:
    """The catalogue of a ``data`` node of the configuration: split, held out and corrupted as the node says.

    Raises:
        ModisteError: The prepared pixels are those of another data set, or are to be corrupted.
    """
    # Runs of before there were these keys do not have them.
    catalogue = derive(_whole(data_cfg), data_cfg.get("derive") or {})
    catalogue = instantiate(data_cfg.split)(catalogue)
    if data_cfg.get("held_out"):
        catalogue = HeldOut.parse(instantiate(data_cfg.held_out))(catalogue)
    return corrupt(catalogue, instantiate(data_cfg.corruptions)) if data_cfg.get("corruptions") else catalogue


def captions(data_cfg: Any) -> Captions:
    """The caption templates of a ``data`` node, with their words and synonyms."""
    return Captions(**OmegaConf.to_container(data_cfg.captions, resolve=True))  # type: ignore[arg-type]


def bind_captions(data_cfg: Any, catalogue: Catalogue) -> BoundCaptions:
    """The captions of a catalogue as its ``data`` node words them.

    Raises:
        ModisteError: A template names an unknown column.
    """
    return captions(data_cfg).bind(catalogue)


def identity(data_cfg: Any) -> str:
    """What decides the catalogue that `load` returns: nodes of one identity have the same.

    >>> from modiste.config import compose
    >>> a, b, c = (compose("train", words).data for words in ([], ["data.batch_size=8"], ["data.split.seed=1"]))
    >>> identity(a) == identity(b), identity(a) == identity(c)
    (True, False)
    """
    plain: Any = OmegaConf.to_container(data_cfg, resolve=True)
    return json.dumps({name: plain.get(name) for name in PARTS}, sort_keys=True)


def _whole(data_cfg: Any) -> Catalogue:
    prepared = data_cfg.get("prepared")
    if not prepared:
        return instantiate(data_cfg.catalogue)()
    catalogue = Prepared(prepared)()
    wanted = data_cfg["name"]
    if catalogue.card.name != wanted and not catalogue.card.name.startswith(f"{wanted}_"):  # or a subset of it
        raise ModisteError(
            f"{prepared} holds pixels of '{catalogue.card.name}', not of '{wanted}': "
            f"set data={catalogue.card.name}, or another data.prepared."
        )
    return catalogue
