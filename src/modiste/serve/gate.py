"""Middleware: checks host, token, size and load of every request.

It adds headers and metrics to every response.
"""

from __future__ import annotations

import hmac
import json
import time
from pathlib import Path
from typing import Any

from anyio import move_on_after
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from modiste.serve.metrics import Metrics
from modiste.serve.settings import Settings

COOKIE = "modiste_token"
OPEN = ("/health", "/token")
"""Paths that need no token, in addition to ``/assets/``."""
FORM_BYTES = 4096
"""Maximum size of a body that comes without a token."""
BODY_SECONDS = 60.0
"""Seconds in which a body must arrive; its request does not count as in flight before."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
DOCS_POLICY = POLICY.replace("script-src 'self'", "script-src 'self' 'unsafe-inline'").replace(
    "style-src 'self'", "style-src 'self' 'unsafe-inline'"
)
Refusal = tuple[int, str, dict[str, str]]
OVERLOADED: Refusal = (429, "Too many requests are being answered: try again in 1 s.", {"retry-after": "1"})
LOGIN = (Path(__file__).parent / "page" / "login.html").read_text(encoding="utf-8")


class Gate:
    """ASGI middleware that refuses requests with 400, 401, 408, 411, 413 or 429.

    Args:
        app: The wrapped application.
        settings: The server's settings.
        metrics: Metrics of the responses, by route and status.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.in_flight = self.held = 0
        self.limit = int(settings.max_upload_mb * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status = time.perf_counter(), 500

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._mark(scope["path"], MutableHeaders(scope=message))
            await send(message)

        body = bytearray()
        refused = self._refuse(scope)
        if not refused and scope["method"] == "POST":
            refused = await self._read(scope["path"], receive, body)
        refused = refused or self._overloaded(scope)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            if refused:
                await _respond(answer, *refused)
            else:
                await self.app(scope, _again(body, receive), answer)
        finally:
            self.in_flight -= 1
            self.held -= len(body)
            self.metrics.in_flight.set(self.in_flight)
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.observe(route, status, time.perf_counter() - start)

    def _refuse(self, scope: Scope) -> Refusal | None:
        """Return status, message and headers of a refusal; None if the request is accepted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]")
        if "*" not in self.settings.allowed_hosts and host not in self.settings.allowed_hosts:
            return 400, f"The host {host} is not allowed: start the server with hosts=[{host}].", {}
        path = scope["path"]
        if self.settings.token and not _is_open(path) and not self._knows(headers):
            if path == "/" and "text/html" in headers.get("accept", ""):
                return 401, LOGIN, {"content-type": "text/html; charset=utf-8"}
            return 401, "Send the server's token: Authorization: Bearer ….", {"www-authenticate": "Bearer"}
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return 411, "Send the length of the body: Content-Length.", {}
            if float(length) > self._limit(path):
                return self._too_large(path)
        return None

    def _limit(self, path: str) -> int:
        """Maximum size of a body in bytes; small where no token is needed."""
        return FORM_BYTES if _is_open(path) else self.limit

    def _too_large(self, path: str) -> Refusal:
        return 413, f"The body has more than {self._limit(path) / 2**20:.3g} MiB: send a smaller one.", {}

    async def _read(self, path: str, receive: Receive, body: bytearray) -> Refusal | None:
        """Read the body into ``body``, or return a refusal.

        A body is refused if it does not arrive in time or is longer than it said.
        """
        with move_on_after(BODY_SECONDS):
            more = True
            while more:
                if self.held > self.settings.max_queue * self.limit:
                    return OVERLOADED
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                body += message.get("body", b"")
                self.held += len(message.get("body", b""))
                if len(body) > self._limit(path):
                    return self._too_large(path)
                more = message.get("more_body", False)
            else:
                return None
        return 408, f"The body did not arrive within {BODY_SECONDS:g} s: send it again.", {"connection": "close"}

    def _overloaded(self, scope: Scope) -> Refusal | None:
        full = self.in_flight >= self.settings.max_queue and scope["path"] not in ("/health", "/metrics")
        return OVERLOADED if full else None

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return matches(given, self.settings.token)

    def _mark(self, path: str, headers: MutableHeaders) -> None:
        headers["x-content-type-options"] = "nosniff"
        headers["referrer-policy"] = "no-referrer"
        headers["cross-origin-resource-policy"] = "same-origin"
        headers["content-security-policy"] = DOCS_POLICY if path.startswith("/docs") else POLICY


def _is_open(path: str) -> bool:
    """Whether a path needs no token."""
    return path in OPEN or path.startswith("/assets/")


def matches(given: str, token: str | None) -> bool:
    """Whether the given token is correct, compared in constant time."""
    return hmac.compare_digest(given.encode(), (token or "").encode())


def _again(body: bytearray, receive: Receive) -> Receive:
    """Return a receive function that replays a body already read, then continues."""
    left = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def give() -> Any:
        return left.pop() if left else await receive()

    return give


async def _respond(send: Any, status: int, message: str, headers: dict[str, str]) -> None:
    body = message if "content-type" in headers else json.dumps({"error": {"message": message}}, ensure_ascii=False)
    content = body.encode()
    given = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})
