"""Settings of a server, and which ones it refuses. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modiste.errors import ModisteError


@dataclass(frozen=True)
class Settings:
    """A server's settings.

    Attributes:
        index: Folder of the index that is served.
        compare: Folder of a second index, for the page's Compare tab.
        host: Address to listen on.
        port: 0 takes a free one.
        token: What clients must send as ``Authorization: Bearer``; needed unless ``host`` is loopback.
        hosts: Names under which a loopback server may be asked for, against DNS rebinding.
        backend: See `modiste.embedding.embedder.ModelEmbedder`.
        min_cosine: Of a backend other than torch to torch's embeddings, per tower.
        max_batch: Items in a micro-batch.
        max_wait_ms: How long the first item of a batch waits for others.
        max_queue: Items that may wait for a tower, and requests in flight; beyond it clients get 429.
        max_upload_mb: Size of a request's body.
        max_pixels: Width × height of an image.
        max_results: Largest ``k``.
        max_inputs: Inputs of one request to ``/v1/embeddings``, labels × prompts, queries of a file.
        allow_image_hosts: Hosts that images may be fetched from by https; none: no URL of a client is ever opened.
        poll_seconds: How often a new version of the index is looked for.

    Raises:
        ModisteError: Other machines could reach the server and there is no token, a limit is not positive, or the port
            does not exist.

    >>> Settings("shop.index", host="0.0.0.0")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: host=0.0.0.0 lets other machines in: set token=… or MODISTE_TOKEN, or host=127.0.0.1.
    """

    index: str
    compare: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    hosts: tuple[str, ...] = ()
    backend: str = "auto"
    min_cosine: Mapping[str, float] = field(default_factory=lambda: {"image": 0.995, "text": 0.999})
    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_queue: int = 256
    max_upload_mb: float = 16.0
    max_pixels: int = 50_000_000
    max_results: int = 1000
    max_inputs: int = 2048
    allow_image_hosts: tuple[str, ...] = ()
    poll_seconds: float = 2.0

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise ModisteError(
                f"host={self.host} lets other machines in: set token=… or MODISTE_TOKEN, or host=127.0.0.1."
            )
        for name in ("port", "max_batch", "max_queue", "max_pixels", "max_results", "max_inputs"):
            if not isinstance(getattr(self, name), int):
                raise ModisteError(f"{name}={getattr(self, name)} must be a whole number.")
        if not 0 <= self.port <= 65535:
            raise ModisteError(f"port={self.port} does not exist: give 1 to 65535, or 0 for a free one.")
        for name in ("max_batch", "max_queue", "max_upload_mb", "max_pixels", "max_results", "max_inputs"):
            if getattr(self, name) <= 0:
                raise ModisteError(f"{name}={getattr(self, name)} must be positive.")
        if self.max_wait_ms < 0 or self.poll_seconds <= 0:
            raise ModisteError("max_wait_ms must not be negative, and poll_seconds must be positive.")

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Values of the Host header that are answered; ``*`` where a token guards the server."""
        if self.token:
            return ("*",)
        return ("localhost", "127.0.0.1", "::1", self.host, *self.hosts)

    @property
    def paths(self) -> dict[str, Path]:
        """Names of the indexes to their folders: ``main``, and ``compare`` where there is one."""
        given = {"main": self.index, "compare": self.compare}
        return {name: Path(path).expanduser() for name, path in given.items() if path}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("shop.example")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
