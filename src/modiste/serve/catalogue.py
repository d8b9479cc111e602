"""``/catalogue`` (the served indexes), ``/facets`` and ``/catalogue-health`` (suspicious rows)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from anyio import to_thread
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from modiste.models.dual_encoder import DualEncoder
from modiste.search import health
from modiste.search.where import TEXT
from modiste.serve.lists import Compute, as_csv
from modiste.serve.live import Held
from modiste.serve.schema import Text
from modiste.serve.server import Server, facets, products
from modiste.serve.uploads import Refused

EXAMPLES = 4
"""Number of titles that the page suggests as queries."""
TITLES = {
    "duplicates": ("Near-duplicates", "Different products whose photos look alike to the model."),
    "misfits": ("Photo and title", "Photos that fit the titles of other products far better than their own."),
    "attributes": ("Probable wrong attributes", "Values that the photos contradict, by confident learning."),
    "unfound": ("Never found", "Products that no query like their own title brings up."),
}


def _list(name: str) -> Compute:
    def compute(index: Any) -> pa.Table:

        return getattr(health, name)(index)

    return compute


LISTS = {name: _list(name) for name in TITLES}


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["catalogue"])

    @routes.get("/catalogue")
    def catalogue() -> JSONResponse:
        """The served indexes: sizes, columns, models, limits."""
        described = {}
        for name, live in server.lives.items():
            with live.use() as held:
                described[name] = describe(live.path.stem, held)
        return JSONResponse({"indexes": described, "limits": {
            "max_upload_mb": server.settings.max_upload_mb, "max_pixels": server.settings.max_pixels,
            "max_results": server.settings.max_results,
        }})  # fmt: skip

    @routes.get("/facets")
    async def facet_counts(where: Text | None = None, index: Text = "main") -> JSONResponse:
        """Number of products by facet value, and in total, among those that pass a filter."""

        def counted() -> JSONResponse:
            with server.use(index) as held:
                found = {"count": held.index.count(where), "products": held.index.count_products(where)}
                return JSONResponse(found | {"facets": facets(held, where, {})})

        return await to_thread.run_sync(counted, limiter=server.few)

    @routes.get("/catalogue-health")
    def lists() -> JSONResponse:
        """The available lists, with their lengths if already computed."""
        with server.use() as held:
            listed = [
                {"name": name, "title": title, "description": text, "total": server.lists.total(name, held)}
                for name, (title, text) in TITLES.items()
                if name in server.lists.compute
            ]
        return JSONResponse({"lists": listed})

    @routes.get("/catalogue-health/{name}.csv", response_class=Response)
    def exported(name: Text) -> Response:
        """A list as CSV; waits for its computation."""
        with server.use() as held:
            table = _wanted(name, held).result()
        headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
        return Response(as_csv(table), media_type="text/csv; charset=utf-8", headers=headers)

    @routes.get("/catalogue-health/{name}")
    def listed(name: Text, limit: int = Query(50, ge=1, le=1000)) -> JSONResponse:
        """The first rows of a list, or status `computing` (202): retry later."""
        with server.use() as held:
            future = _wanted(name, held)
            if not future.done():
                return JSONResponse({"status": "computing"}, 202)
            table = future.result()
            return JSONResponse({"status": "ready", "total": table.num_rows, **shown(table.slice(0, limit), held)})

    def _wanted(name: str, held: Held) -> Any:
        if name not in server.lists.compute:
            raise Refused(f"There is no list '{name}': choose from {', '.join(server.lists.compute)}.", 404)
        return server.lists.get(name, held)

    return routes


def describe(name: str, held: Held) -> dict[str, Any]:
    """Describe an index for the page."""
    index, towers = held.index, held.towers
    return {
        "name": name,
        "products": index.count_products(),
        "rows": len(index),
        "version": held.version,
        "columns": columns(held),
        "examples": examples(held),
        "model": {
            "name": index.card.name, "fingerprint": towers.fingerprint[:12], "dim": towers.model.embed_dim,
            "backends": towers.used,
            "patches": type(towers.model).patch_features is not DualEncoder.patch_features,
        },
    }  # fmt: skip


def columns(held: Held) -> list[dict[str, Any]]:
    """Describe the attribute columns: numbers with their range, facets with their values.

    Facets with few values come first, then numbers, then other columns, and the split last, as it is of little use for
    searching.
    """
    described: list[dict[str, Any]] = []
    counted = facets(held, None, {})
    order = {name: place for place, name in enumerate(held.facets)}
    numbers = [name for name in held.index.attributes if held.index.types[name] != TEXT]
    order |= dict.fromkeys(numbers, len(order))
    for column in sorted(held.index.attributes, key=lambda name: (name == "split", order.get(name, len(order) + 1))):
        if held.index.types[column] == TEXT:
            values = [entry["value"] for entry in counted.get(column, [])]
            described.append({"name": column, "type": "text", "facet": len(values) > 1, "values": values})
        else:
            low, high = held.range(column)
            described.append({"name": column, "type": "number", "facet": low != high, "min": low, "max": high})
    return described


def examples(held: Held) -> list[str]:
    """Return a few short titles of the catalogue, always the same ones."""
    titles = held.index.snapshot.table.column("text").slice(0, 500).to_pylist()
    short = sorted({title for title in titles if 2 <= len(title.split()) <= 5})
    chosen = np.random.default_rng(0).permutation(len(short))[:EXAMPLES]
    return [short[place] for place in sorted(chosen)]


def shown(table: pa.Table, held: Held) -> dict[str, Any]:
    """Format the rows of a list.

    Columns ``row`` and ``<what>_row`` are joined with their products, for the photos.
    """
    photos = [name for name in table.column_names if name == "row" or name.endswith("_row")]
    rows = table.to_pylist()
    for name in photos:
        found = held.take([row[name] for row in rows])
        for row, product in zip(rows, products(found, "main", held), strict=True):
            row[f"{name}_product"] = product
    return {"columns": [name for name in table.column_names if name not in photos], "photos": photos, "rows": rows}
