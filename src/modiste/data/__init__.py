"""Product catalogues and the Lightning data module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modiste.utils.lazy import lazy_exports

if TYPE_CHECKING:
    from modiste.data.build import from_run
    from modiste.data.catalogue import Catalogue
    from modiste.data.module import FashionDataModule, ValidationSet
    from modiste.data.tables import from_table

__all__ = ["Catalogue", "FashionDataModule", "ValidationSet", "from_run", "from_table"]

__getattr__ = lazy_exports(
    __name__,
    {
        "Catalogue": "modiste.data.catalogue",
        "FashionDataModule": "modiste.data.module",
        "ValidationSet": "modiste.data.module",
        "from_run": "modiste.data.build",
        "from_table": "modiste.data.tables",
    },
)
