"""Run a server in this process until a signal stops it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modiste.errors import ModisteError
from modiste.serve.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

    from modiste.serve.connections import DrainingServer

GRACE = 90
"""Seconds after which a stopping server abandons clients that do not send their request or read their response."""
PACKAGES = ("fastapi", "fastapi_offline", "multipart", "prometheus_client", "uvicorn")


def serve(settings: Settings) -> None:
    """Serve an index until interrupted; pending requests are answered, and the process ends.

    Args:
        settings: What is served, where, and within which limits.

    Raises:
        ModisteError: The index cannot be opened, the port is in use, or a package is not installed.
    """
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ModisteError(f"modiste serve needs {package}: pip install 'modiste[serve]'.")
    listening = listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    print(f"Opening {settings.index} …", flush=True)
    import torch
    import uvicorn
    from threadpoolctl import threadpool_limits
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from modiste.serve.app import create_app
    from modiste.serve.connections import DrainingServer, bounded

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, force=True)
    logging.getLogger("modiste").setLevel(logging.INFO)
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # leave one core to requests and ranking
    threadpool_limits(torch.get_num_threads(), "blas")  # NumPy's threads would spin on it
    app = create_app(settings)
    gc.collect()
    gc.freeze()  # else each full collection would go through torch's objects: 0.3 s in which no request is answered
    shown = f"[{host}]" if ":" in host else host
    print(
        f"Serving {settings.index} at http://{shown}:{port} (API: /docs, metrics: /metrics). Ctrl-C stops.", flush=True
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30,
        http=bounded(AutoHTTPProtocol), ws="none", timeout_graceful_shutdown=GRACE,
    )  # fmt: skip
    server = DrainingServer(config)
    with stopping(server) as signals, suppress(KeyboardInterrupt):  # uvicorn raises it once everything is closed
        server.run([listening])
    if signals:
        done = "at once" if server.force_exit else "after the requests in flight"
        print(f"\nStopped {done}: serve again with the same command.", file=sys.stderr)
    leave(signals[0] if signals else 0)


@contextmanager
def stopping(server: DrainingServer) -> Iterator[list[int]]:
    """Make SIGHUP, unless ignored, stop the server like SIGTERM; yield the signals it receives."""
    signals: list[int] = []
    stop, number = server.handle_exit, getattr(signal, "SIGHUP", signal.SIGTERM)

    def handle(sig: int, frame: FrameType | None) -> None:
        signals.append(sig)
        stop(sig, frame)

    server.handle_exit = handle  # type: ignore[method-assign]
    before = signal.getsignal(number)
    if before != signal.SIG_IGN:
        signal.signal(number, handle)
    try:
        yield signals
    finally:
        signal.signal(number, before)


def leave(number: int) -> None:
    """Exit as if ended by the signal ``number``; 0 exits normally.

    A thread that is still converting a tower in a native library would crash a regular exit of Python.
    """
    if number == signal.SIGTERM:  # supervisors send it, and expect it in the exit status
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    code = 130 if number else 0
    if any(thread.daemon for thread in threading.enumerate()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        raise SystemExit(code)


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that a port in use is reported before the index is opened.

    Raises:
        ModisteError: The port is in use or not permitted, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise ModisteError(f"Cannot listen on {host}:{port}: {error}; choose another port=…, or port=0.") from error
