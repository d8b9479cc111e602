"""``/compare``: compare two indexes on one query, or blindly on a file of queries."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from modiste.serve.judging import CUTOFF, MAIN, OTHER, Query, judge, measure, parse_queries, team_draft
from modiste.serve.schema import CompareBody, JudgeBody, QueriesBody, SearchBody
from modiste.serve.server import Server
from modiste.serve.uploads import Refused

QUERIES = 500
"""Maximum number of queries per file."""
SIDES = (MAIN, OTHER)


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/compare", tags=["compare"])

    @routes.post("/search")
    def search(body: CompareBody) -> JSONResponse:
        """Search both indexes with one query; `shared` lists the products that both find."""
        asked = {"text": body.text, "where": body.where, "k": body.k}
        found = {side: server.search(SearchBody.model_validate(asked | {"index": side})) for side in SIDES}
        ids = [[product["product_id"] for product in found[side]["results"]] for side in SIDES]
        return JSONResponse({**found, "shared": [product for product in ids[0] if product in set(ids[1])]})

    @routes.post("/queries")
    def queries(body: QueriesBody) -> JSONResponse:
        """Interleaved results of both indexes for each query of a file, without revealing their index."""
        asked, seed = parse_queries(body.file, QUERIES), secrets.token_hex(8)
        answering = versions()  # before the searches: a change while they run makes the verdict refuse these lists
        found = [both(query) for query in asked]
        listed = []
        for place, (query, sides) in enumerate(zip(asked, found, strict=True)):
            known = {product["product_id"]: product for side in reversed(SIDES) for product in sides[side]}
            draft = drafted(sides, seed, place)
            results = [known[item] | {"score": None, "match": None, "image": photo_of(item)} for item, _ in draft]
            listed.append({"query": query.text, "results": results})
        return JSONResponse({"seed": seed, "versions": answering, "queries": listed})

    @routes.post("/judge")
    def verdict(body: JudgeBody) -> JSONResponse:
        """Which index's results were marked more often, and whether the difference is significant."""
        asked = parse_queries(body.file, QUERIES)
        found = [both(query) for query in asked]
        if body.versions != versions():  # after the searches, which would see a change
            raise Refused("An index has changed since these queries were answered: start again.", 409)
        drafts = [drafted(sides, body.seed, place) for place, sides in enumerate(found)]
        ranked = {side: [[product["product_id"] for product in sides[side]] for sides in found] for side in SIDES}
        return JSONResponse(judge(drafts, body.picked) | {"measured": measure(asked, ranked[MAIN], ranked[OTHER])})

    def both(query: Query) -> dict[str, list[dict[str, Any]]]:
        return {
            side: server.search(SearchBody.model_validate({"text": query.text, "k": CUTOFF, "index": side}))["results"]
            for side in SIDES
        }

    def versions() -> dict[str, str]:
        held = {}
        for side in SIDES:
            with server.use(side) as one:
                held[side] = f"{one.towers.fingerprint[:12]} {one.edition}"
        return held

    return routes


def photo_of(product: str) -> str:
    """URL of a product's photo, which does not reveal the index.

    >>> photo_of("a/b #1")
    'image?product_id=a%2Fb%20%231'
    >>> photo_of(".")  # browsers drop a dot from a path
    'image?product_id=.'
    """
    return f"image?product_id={quote(product, safe='')}"


def drafted(sides: Mapping[str, Sequence[dict[str, Any]]], seed: str, place: int) -> list[tuple[str, str]]:
    """Return the interleaved list of (product id, side) of the query at ``place``.

    It is deterministic given ``seed``.
    """
    main, other = ([product["product_id"] for product in sides[side]] for side in SIDES)
    return team_draft(main, other, CUTOFF, f"{seed} {place}")
