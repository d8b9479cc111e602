"""Search over a catalogue: an index on disk, queries by words, photos and products, filters, versions.

>>> import modiste.search  # doctest: +SKIP
>>> index = modiste.search.open("shop.index")  # doctest: +SKIP
>>> index.search(text="red running shoes", where="price < 50", k=5).to_pandas()  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modiste.search.index import Index


def open(path: str | Path, version: int | None = None, qdrant_url: str | None = None) -> Index:
    """The index in the folder ``path``, at its newest version or an earlier one.

    Args:
        path: The folder.
        version: Number of an earlier version.
        qdrant_url: Of the server that an index with engine=qdrant is on; null: the one of ``MODISTE_QDRANT_URL``. No
            other server is contacted.

    Raises:
        ModisteError: There is none, it is unfinished, or it has no such version.
    """
    from modiste.search.engines.qdrant import confirm
    from modiste.search.index import Index
    from modiste.search.opened import newest_version, read_facts
    from modiste.search.remote import RemoteIndex

    folder = Path(path).expanduser()
    facts = read_facts(folder)
    kind = RemoteIndex if facts["engine"]["kind"] == "qdrant" else Index
    confirm(qdrant_url)
    index = kind(folder, facts, newest_version(facts))
    return index if version is None else index.at(version)
