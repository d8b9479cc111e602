"""The FastAPI application: routes, error handlers and page."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import anyio.to_thread
from fastapi import FastAPI, Form, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import modiste
from modiste import search
from modiste.errors import ModisteError
from modiste.serve import catalogue, comparing, embeddings, looking
from modiste.serve.batching import Busy
from modiste.serve.gate import COOKIE, LOGIN, Gate, matches
from modiste.serve.lists import Compute
from modiste.serve.live import Held, Open
from modiste.serve.schema import Row, SearchBody, Text
from modiste.serve.server import Server
from modiste.serve.settings import Settings
from modiste.serve.uploads import Refused

log = logging.getLogger(__name__)
PAGE = Path(__file__).parent / "page"
DAY = 86400
SHOWN = 10
"""Maximum number of a body's errors that a client is told."""


def create_app(
    settings: Settings, open_index: Open | None = None, health: Mapping[str, Compute] | None = None
) -> FastAPI:
    """Create the server's application.

    The indexes are opened here, so that errors appear before the port is bound.

    Args:
        settings: The server's settings.
        open_index: Opens an index by its path; None: `modiste.search.open`.
        health: Name → function of an index, for ``/catalogue-health``; None: the lists of `modiste.search.health`.

    Raises:
        ModisteError: An index cannot be opened, or a named backend cannot run its model.
    """
    if open_index is None:
        open_index = search.open
    server = Server(settings, open_index, catalogue.LISTS if health is None else health)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Requests block threads while they wait for their micro-batch.
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.max_queue
        yield
        await anyio.to_thread.run_sync(server.close)

    app = FastAPIOffline(
        docs_url="/docs", redoc_url=None, title="Modiste", version=modiste.__version__, lifespan=lifespan,
        description="Search a catalogue by text and photo, classify, ground, and embed.",
    )  # fmt: skip
    app.state.server = server
    add_search(app, server)
    add_operations(app, server)
    add_page(app, server)
    for part in (catalogue, looking, comparing, embeddings):
        app.include_router(part.router(server))
    add_errors(app)
    app.add_middleware(Gate, settings=settings, metrics=server.metrics)
    return app


def add_search(app: FastAPI, server: Server) -> None:
    """Add ``/search`` by JSON, query string and form, and ``/similar``."""

    @app.post("/search", tags=["search"])
    async def search(body: SearchBody) -> JSONResponse:
        """Search by text, photo and product, with weights, and text to avoid."""
        return JSONResponse(await server.answer(body))

    @app.get("/search", tags=["search"])
    async def search_by_address(
        text: Text | None = None, like: Text | None = None, minus: Text | None = None, where: Text | None = None,
        hybrid: bool = False, group: bool = True, k: int = Query(20, ge=1), index: Text = "main",
    ) -> JSONResponse:  # fmt: skip
        """Search with a query string: `curl 'localhost:8000/search?text=red+shoes&k=5'`."""
        given = {"text": text, "like": like, "minus": minus, "where": where, "hybrid": hybrid, "group": group}
        return JSONResponse(await server.answer(SearchBody.model_validate(given | {"k": k, "index": index})))

    @app.post("/search/upload", tags=["search"])
    async def search_by_upload(
        image: UploadFile,
        text: Annotated[Text | None, Form()] = None,
        where: Annotated[Text | None, Form()] = None,
        k: int = Form(20, ge=1),
    ) -> JSONResponse:
        """Search with an uploaded photo: `curl -F image=@photo.jpg -F k=5 localhost:8000/search/upload`."""
        photo = base64.b64encode(await image.read()).decode()
        return JSONResponse(await server.answer(SearchBody(image=photo, text=text, where=where, k=k)))

    @app.get("/similar", tags=["search"])
    async def similar(product_id: Text, where: Text | None = None, k: int = Query(20, ge=1)) -> JSONResponse:
        """Products similar to a product."""
        return JSONResponse(await server.answer(SearchBody(like=product_id, where=where, k=k)))

    @app.get("/image", tags=["catalogue"], response_class=Response)
    def product_image(product_id: Text, index: Text = "", large: bool = False) -> Response:
        """The first photo of a product, of the first served index that has it unless one is named."""
        for name in [index] if index else server.lives:
            with server.use(name) as held:
                row = held.row_of(product_id)
                if row is not None:
                    return photo(held, row, large)
        raise Refused(f"The index has no product '{product_id}'.", 404)

    @app.get("/image/{row}", tags=["catalogue"], response_class=Response)
    def image(row: Row, index: Text = "main", large: bool = False, v: Text = "") -> Response:
        """A photo of the index, as a thumbnail or larger; `v` is ignored and only busts browser caches."""
        with server.use(index) as held:
            return photo(held, row, large)

    def photo(held: Held, row: int, large: bool) -> Response:
        try:
            with held.towers.decoding if large else nullcontext():
                content, media_type = held.photo(row, large)
        except KeyError as error:
            raise Refused(f"The index has no photo in row {row}.", 404) from error
        return Response(content, media_type=media_type, headers={"cache-control": f"private, max-age={DAY}"})


def add_operations(app: FastAPI, server: Server) -> None:
    """Add ``/health`` and ``/metrics``."""

    @app.get("/health", tags=["operations"])
    def health() -> JSONResponse:
        """State of the server: served versions and the backends of its towers."""
        facts = {}
        for name, live in server.lives.items():
            with live.use() as held:
                facts[name] = {"version": str(held.version), "backends": held.towers.used}
        return JSONResponse({"status": "ok", "modiste": modiste.__version__, "indexes": facts})

    @app.get("/metrics", tags=["operations"], response_class=Response)
    def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def add_page(app: FastAPI, server: Server) -> None:
    """Add the page, its assets, and the token form."""
    fresh = {"cache-control": "no-cache"}

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=fresh)

    @app.post("/token", include_in_schema=False)
    async def token(request: Request) -> Response:
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0].strip()
        if not server.settings.token or not matches(given, server.settings.token):
            return Response(LOGIN, 401, media_type="text/html")
        answer = RedirectResponse("./", 303)
        answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    app.mount("/assets", Assets(directory=PAGE), name="assets")


class Assets(StaticFiles):
    """The page's files, which browsers revalidate each time, so that updates show."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def add_errors(app: FastAPI) -> None:
    """Make every error ``{"error": {"message": …}}``; unexpected ones are logged and reveal nothing."""

    def said(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": {"message": message}}, status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return said(str(error), error.status)

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        return said(str(error), 429, {"retry-after": str(error.retry_after)})

    @app.exception_handler(ModisteError)
    async def mistaken(request: Request, error: ModisteError) -> JSONResponse:
        return said(str(error), 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return said(_problems(error.errors()), 422)

    @app.exception_handler(ValidationError)
    async def invalid_value(request: Request, error: ValidationError) -> JSONResponse:
        return said(_problems(error.errors()), 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return said(str(error.detail), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return said("The server could not answer this request: see its log.", 500)


def _problems(errors: Any) -> str:
    """Format the first of pydantic's errors in one line.

    The part of the request is removed from its location.
    """
    some = errors[:SHOWN]
    places = [[str(part) for part in e["loc"] if part not in ("body", "query", "path")] for e in some]
    told = "; ".join(f"{'.'.join(place) or 'body'}: {e['msg']}" for place, e in zip(places, some, strict=True))
    return told + (f"; and {len(errors) - SHOWN:,} more" if len(errors) > SHOWN else "")
