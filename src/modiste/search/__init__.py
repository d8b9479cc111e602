"""Search over a catalogue: an index with versions, queries by text, photo and product, filters.

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
    """Open the index in the folder ``path``, at its newest version or an earlier one.

    Args:
        path: Folder of the index.
        version: Number of a version; None: the newest.
        qdrant_url: URL of the server of an index with engine=qdrant; None: ``MODISTE_QDRANT_URL``. No other server is
            contacted.

    Raises:
        ModisteError: The index or the version does not exist, or the index is unfinished or damaged.
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
