"""Catalogues of products and the data module that trains on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.data.module import FashionDataModule

__all__ = ["Catalogue", "FashionDataModule"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and Lightning are heavy."""
    if name == "Catalogue":
        from modiste.data.catalogue import Catalogue

        return Catalogue
    if name == "FashionDataModule":
        from modiste.data.module import FashionDataModule

        return FashionDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
