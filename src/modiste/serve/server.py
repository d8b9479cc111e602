"""Served indexes, and the format of products and filters, shared by the routes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from PIL import Image

from modiste.serve.facets import count_values
from modiste.serve.lists import Compute, Lists
from modiste.serve.live import Held, Live, Open
from modiste.serve.metrics import Metrics
from modiste.serve.schema import Filter, PhotoBody, SearchBody
from modiste.serve.settings import Settings
from modiste.serve.towers import DECODED
from modiste.serve.uploads import Refused, read_image
from modiste.utils.hardware import usable_cores

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from modiste.search.index import Index


EMBEDDED = Image.new("RGB", (1, 1))
"""Stands for a photo that has been embedded before the search (`modiste.serve.towers.Embedded`)."""
SEPARATE = ("product_id", "row", "score", "match", "views", "text")
"""Columns of results that are not attributes."""


class Server:
    """Open the indexes and answer searches on them; call `close` at the end.

    Args:
        settings: The server's settings.
        open_index: Opens an index by its path.
        health: Name → function of an index that computes a health list.

    Attributes:
        few: Limits the number of searches that run at the same time, after embedding: more threads than cores would
            wait for the GIL in turns.
        decoders: Limits the number of searches whose photos wait to be decoded, apart from ``few``.

    Raises:
        ModisteError: An index cannot be opened.
    """

    def __init__(self, settings: Settings, open_index: Open, health: Mapping[str, Compute]) -> None:
        self.settings, self.metrics, self.lists = settings, Metrics(), Lists(health)
        self.few, self.decoders = CapacityLimiter(usable_cores()), CapacityLimiter(DECODED)
        self.lives: dict[str, Live] = {}
        for name, path in settings.paths.items():
            self.lives[name] = Live(name, path, open_index, settings, self.metrics)

    def close(self) -> None:
        """Wait until all queued work is done."""
        for live in self.lives.values():
            live.close()

    @contextmanager
    def use(self, name: str = "main") -> Iterator[Held]:
        """Yield the newest version of an index. Raises Refused if no index of this name is served."""
        if name not in self.lives:
            raise Refused("Only one index is served: start the server with compare=… for a second one.", 404)
        with self.lives[name].use() as held:
            yield held

    def photos(self, body: PhotoBody, held: Held) -> Iterator[Image.Image]:
        """The one photo of a request, decoded when asked for.

        Raises Refused if it does not exist or cannot be read.
        """
        if body.image is not None:
            yield read_image(body.image, self.settings)
        else:
            assert body.row is not None
            yield row_image(held, body.row)

    async def answer(self, body: SearchBody) -> dict[str, Any]:
        """Like `search`, but occupy a thread only before and after the embedding.

        A waiting thread per request would compete with the towers for the GIL, and answer out of order.
        """
        with self.use(body.index) as held:
            pixels: list[Tensor] = []
            if body.image is not None:
                pixels = [await to_thread.run_sync(self._pixels, body.image, held, limiter=self.decoders)]
            texts = list(dict.fromkeys(text for text in (body.text, body.minus) if text and text.strip()))
            alone = len(texts) == 1 and not (body.minus or pixels or body.like or body.where or body.filters)
            index = await held.asked(texts, pixels, alone)
            return await to_thread.run_sync(self._search, body, held, index, limiter=self.few)

    def search(self, body: SearchBody) -> dict[str, Any]:
        """Answer a search without a photo.

        Raises:
            ModisteError: The filter is invalid, or the product is unknown.
            Refused: A column is unknown, or ``k`` is too large.
            Busy: A tower's queue is full.
        """
        with self.use(body.index) as held:
            return self._search(body, held, held.index)

    def _pixels(self, encoded: str, held: Held) -> Tensor:
        """Return the preprocessed photo of a search, (3, S, S)."""
        with held.towers.decoding:
            return held.towers.model.preprocess(read_image(encoded, self.settings))

    def _search(self, body: SearchBody, held: Held, index: Index) -> dict[str, Any]:
        if body.k > self.settings.max_results:
            raise Refused(f"k={body.k} exceeds {self.settings.max_results}: ask for fewer results.")
        start = time.perf_counter()
        where = where_of(body.where, body.filters, held)
        image = None if body.image is None else EMBEDDED
        asked: dict[str, Any] = {"text": body.text, "image": image, "like": body.like}
        given = {name: value for name, value in asked.items() if value}
        weights = {str(part): weight for part, weight in body.weights.items()}
        hybrid = body.hybrid and bool(body.text)
        if given or body.minus:
            found = index.search(
                **given, minus=body.minus or None, where=where, k=body.k, weights=weights or None,
                hybrid=hybrid, group=body.group,
            )  # fmt: skip
            facts = {
                "exactness": str(found.exactness), "no_match": found.no_match, "threshold": found.threshold,
                "coverage": found.coverage, "calibration": found.calibration, "uncalibrated": found.uncalibrated,
                "note": found.exactness.note, "count": found.passing, "products": found.products,
                "hints": list(found.hints),
            }  # fmt: skip
            table = found.table
        else:
            facts = {
                "exactness": "", "no_match": False, "threshold": None,
                "coverage": None, "calibration": "", "uncalibrated": "",
                "note": "", "count": index.count(where), "products": index.count_products(where), "hints": [],
            }  # fmt: skip
            table = index.browse(where, body.k, body.group)
        answer = facts | {"hybrid": hybrid, "results": products(table, body.index, held), "version": held.version}
        if body.facets:
            answer["facets"] = facets(held, body.where, body.filters, body.group, body.like)
        return answer | {"took_ms": 1000 * (time.perf_counter() - start)}


def row_image(held: Held, row: int) -> Image.Image:
    """Return the photo of a row. Raises Refused if the row does not exist."""
    try:
        return held.index.image(row)
    except KeyError as error:
        raise Refused(f"The index has no photo in row {row}.", 404) from error


def products(table: pa.Table, index: str, held: Held) -> list[dict[str, Any]]:
    """Format rows of results for clients."""
    end = f"?v={held.edition}" + (f"&index={index}" if index != "main" else "")
    return [
        {
            "product_id": row["product_id"],
            "row": row["row"],
            "score": row.get("score"),
            "match": row.get("match"),
            "views": row.get("views") or [row["row"]],
            "title": row.get("text", ""),
            "image": f"image/{row['row']}{end}",
            "attributes": {name: value for name, value in row.items() if name not in SEPARATE},
        }
        for row in table.to_pylist()
    ]


def facets(
    held: Held, where: str | None, filters: Mapping[str, Filter], group: bool = True, like: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Count the values of the facet columns among the products that pass the filters, most frequent first.

    Without ``group`` rows are counted. The product ``like``, which is no result, is not. A column's own filter is
    ignored for its counts, so that a client can select a second value.
    """
    snapshot = held.index.snapshot
    codes = snapshot.products if group else np.arange(len(snapshot))
    own = snapshot.of_product(like) if like else np.empty(0, np.int64)
    passing = functools.cache(lambda condition: _passing(held, condition, own))
    found = {}
    for name in held.facets:
        others = {other: given for other, given in filters.items() if other != name}
        column, chosen = snapshot.table.column(name).combine_chunks(), codes
        if (positions := passing(where_of(where, others, held))) is not None:
            column, chosen = column.take(positions), codes[positions]
        counts = count_values(column, chosen)
        found[name] = [{"value": value, "count": count} for value, count in counts.items() if value != ""]
    return found


def _passing(held: Held, where: str | None, excluded: np.ndarray) -> np.ndarray | None:
    """Return the positions of the rows that pass a filter, without the excluded ones; None: all."""
    positions = held.index.snapshot.passing(held.index._condition(where))
    if not len(excluded):
        return positions
    return np.setdiff1d(np.arange(len(held.index.snapshot)) if positions is None else positions, excluded)


def where_of(where: str | None, filters: Mapping[str, Filter], held: Held) -> str | None:
    """Combine a client's SQL filter and filters by column into one. Raises Refused for an unknown column."""
    parts = [f"({where})"] if where and where.strip() else []
    known = held.index.types
    for name, given in filters.items():
        if name not in known:
            raise Refused(f"The index has no column '{name}'.")
        column = f"`{name}`"
        if given.values is not None:
            parts.append(f"{column} in ({', '.join(map(_quoted, given.values))})" if given.values else "false")
        if given.min is not None:
            parts.append(f"{column} >= {given.min!r}")
        if given.max is not None:
            parts.append(f"{column} <= {given.max!r}")
    return " and ".join(parts) or None


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
