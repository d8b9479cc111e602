"""No client holds the server's memory by its headers, and a stop drops no request that has been sent."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from modiste.serve import connections  # noqa: E402

HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"


async def slow(scope, receive, send):
    """Answers after a while."""
    await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def serving():
    """The server and the port that it listens on."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    http = connections.bounded(HttpToolsProtocol)
    server = connections.DrainingServer(uvicorn.Config(slow, http=http, lifespan="off", log_level="error"))
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield server, listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def ask(port, head, ending=b"\r\n"):
    """What comes back; empty where the connection is closed or reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        try:
            client.sendall(head + ending)
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionError:
            return b""


def test_headers_are_bounded_in_bytes():
    with serving() as (_, port):
        assert ask(port, HEAD + b"X: " + b"a" * 100_000 + b"\r\n").startswith(b"HTTP/1.1 200")
        for endless in (b"X: " + b"a" * 4_000_000, b"X: a\r\n" * 600_000):
            assert not ask(port, HEAD + endless).startswith(b"HTTP/1.1 200")


def test_headers_are_bounded_in_time(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with serving() as (_, port):
        begun = time.monotonic()
        assert ask(port, HEAD, ending=b"") == ask(port, b"", ending=b"") == b""
        assert time.monotonic() - begun < 10
        assert ask(port, HEAD).startswith(b"HTTP/1.1 200")


def test_a_stop_answers_every_request_that_was_sent():
    answers = []
    with serving() as (server, port):
        assert ask(port, HEAD).startswith(b"HTTP/1.1 200")
        clients = [threading.Thread(target=lambda: answers.append(ask(port, HEAD))) for _ in range(40)]
        for client in clients:
            client.start()
        server.should_exit = True
        for client in clients:
            client.join()
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 40
