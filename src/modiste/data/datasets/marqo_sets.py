"""The data sets of Marqo's benchmark (2024): Parquet files with images, text, id and attributes.

One reader serves all; the YAML of a data set describes it. Sources: the cards of huggingface.co/datasets/Marqo/… (split
``data``, columns ``image``, ``text`` (not in iMaterialist), ``item_ID``, and the attributes), and github.com/marqo-ai/
marqo-FashionCLIP (``configs/*.json``: the attributes used as queries).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Card, Catalogue, as_text
from modiste.data.datasets.hub import Hub
from modiste.data.datasets.table import find_parquet, from_dataset, read_parquet
from modiste.data.download import note_partial
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

log = logging.getLogger(__name__)

ID, IMAGE, TEXT = "item_ID", "image", "text"
SPLIT = "data"


@dataclass(frozen=True)
class MarqoSet:
    """Read a data set with all attributes; product_id = item_ID, and every row is in split "test".

    Hyphens in the names of attributes become underscores, so that templates can use them. If the text of a row is
    empty, it is the values of its attributes, joined by ", ".

    Attributes:
        path: Folder with the hub's ``data/*.parquet``, or the value of ``hub`` to load it from there.
        hub: Id of the data set on the hub.
        name: Name of the data set in reports and results.
        attributes: Required columns; every other column is an attribute, too.
        describe: Columns whose values, joined by ", ", are the text.
        title: See `Card`, as for ``licence`` and ``citation``.
        expected: Counts stated by the publisher: ``rows``, ``images``.
        revision: Commit, branch or tag on the hub.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: ``path`` has no such data, files or columns are missing, or the hub cannot be reached.
    """

    path: str
    hub: str
    name: str
    attributes: Sequence[str]
    describe: Sequence[str] = (TEXT,)
    title: str = ""
    licence: str = ""
    citation: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    revision: str | None = None
    max_bad: BadRows | None = None

    @property
    def card(self) -> Card:
        """The data card."""
        return Card(
            self.name,
            self.title,
            self.licence,
            self.citation,
            homepage=f"https://huggingface.co/datasets/{self.hub}",
            expected=dict(self.expected),
            download=f"Get it with: hf download {self.hub} --repo-type dataset --local-dir FOLDER.",
        )

    def __call__(self) -> Catalogue:
        dataset = self._read()
        others = [name for name in dataset.column_names if name not in (ID, IMAGE, TEXT)]
        sources = dict.fromkeys([*self.attributes, *others])
        # The text is set from `describe` below, but the mapping needs a column for it.
        columns = {"product_id": ID, "image": IMAGE, "text": ID} | {attribute(name): name for name in sources}
        if TEXT in self.describe:
            columns["text"] = TEXT
        mapped, images = from_dataset(dataset, columns, attributes=[], name=self.name)
        mapped["text"] = self._texts(mapped, [attribute(name) for name in sources])
        mapped["split"] = ["test"] * len(dataset)
        return note_partial(Catalogue.build(self.card, mapped, images, self.max_bad))

    def _read(self) -> Any:
        folder = Path(self.path).expanduser()
        if self.path == self.hub and not folder.is_dir():
            return Hub(self.hub, revision=self.revision).load(SPLIT)
        files = find_parquet(folder, self.card)
        if not files:
            what = "holds no parquet files (data/*.parquet)" if folder.is_dir() else "does not exist"
            raise ModisteError(
                f"{folder} {what}. {self.card.download} Then set data.catalogue.path to FOLDER; or set it to "
                f"{self.hub} to load the data set from the hub."
            )
        return read_parquet(files)

    def _texts(self, mapped: Columns, attributes: Sequence[str]) -> list[str]:
        texts = _joined(mapped, [attribute(name) for name in self.describe])
        fallback = _joined(mapped, attributes)
        empty = sum(not text for text in texts)
        if empty:
            log.warning("%s: %s rows have no text; their attributes are used as text", self.name, f"{empty:,}")
        return [text or other for text, other in zip(texts, fallback, strict=True)]


def attribute(column: str) -> str:
    """Name of the attribute of a column, without hyphens, which templates cannot contain.

    >>> attribute("sub-category")
    'sub_category'
    """
    return column.replace("-", "_")


def _joined(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[str]:
    """The non-empty values of each row, joined by ", "."""
    rows = zip(*(map(as_text, columns[name]) for name in names), strict=True)
    return [", ".join(filter(None, row)) for row in rows]
