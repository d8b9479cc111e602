"""The catalogue that a configuration describes."""

from __future__ import annotations

from typing import Any

from modiste.config import instantiate
from modiste.data.catalogue import Catalogue
from modiste.data.corruptions import corrupt
from modiste.data.derive import derive
from modiste.data.prepared import Prepared
from modiste.data.splits import HeldOut
from modiste.errors import ModisteError


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
