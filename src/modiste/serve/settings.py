"""Settings of the server and their validation, without heavy imports."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from modiste.errors import ModisteError

MOST_INPUTS = 8192
"""Maximum of ``max_inputs``, below `modiste.serve.schema.ENTRIES`."""


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        index: Folder of the served index.
        compare: Folder of a second index, for the page's Compare tab.
        host: Address to listen on.
        port: Port to listen on; 0: a free one.
        token: Token that clients send as ``Authorization: Bearer``; required unless ``host`` is loopback.
        hosts: Additional values of the Host header accepted without a token; others are refused to prevent DNS
            rebinding.
        backend: See `modiste.embedding.embedder.ModelEmbedder`.
        min_cosine: Minimum cosine between another backend's embeddings and torch's, per tower.
        max_batch: Maximum number of items per micro-batch.
        max_wait_ms: Milliseconds that the first item of a batch waits for others.
        max_queue: Maximum number of items waiting for a tower, and of requests in flight; beyond it clients get 429.
        max_upload_mb: Maximum size of a request's body in MiB.
        max_pixels: Maximum width × height of an image.
        max_results: Maximum ``k``.
        max_inputs: Maximum number of inputs per request to ``/v1/embeddings``, and of labels × prompts.
        allow_image_hosts: Hosts from which images may be fetched by https; if empty, URLs of clients are never opened.
        poll_seconds: Seconds between checks for a new version of the index.

    Raises:
        ModisteError: ``host`` is not loopback and there is no token, a limit is not positive, or the port is invalid.

    >>> Settings("shop.index", host="0.0.0.0")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: host=0.0.0.0 admits other machines: set token=… or MODISTE_TOKEN, or host=127.0.0.1.
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
                f"host={self.host} admits other machines: set token=… or MODISTE_TOKEN, or host=127.0.0.1."
            )
        for name in ("port", "max_batch", "max_queue", "max_pixels", "max_results", "max_inputs"):
            if not isinstance(getattr(self, name), int):
                raise ModisteError(f"{name}={getattr(self, name)} must be a whole number.")
        if not 0 <= self.port <= 65535:
            raise ModisteError(f"port={self.port} is invalid: give 1 to 65535, or 0 for a free port.")
        for name in ("max_batch", "max_queue", "max_upload_mb", "max_pixels", "max_results", "max_inputs"):
            if getattr(self, name) <= 0:
                raise ModisteError(f"{name}={getattr(self, name)} must be positive.")
        if self.max_inputs > MOST_INPUTS:
            raise ModisteError(f"max_inputs={self.max_inputs} is too large: give at most {MOST_INPUTS}.")
        if self.max_wait_ms < 0 or self.poll_seconds <= 0:
            raise ModisteError("max_wait_ms must not be negative, and poll_seconds must be positive.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Create the settings from a configuration, in which further keys are ignored.

        Raises:
            ModisteError: No index is given, its folder does not exist, or see `Settings`.
        """
        if not values["index"]:
            raise ModisteError("No index given: modiste serve index=shop.index (build one with modiste index).")
        given = {part.name: values[part.name] for part in fields(cls)}
        given |= {name: tuple(map(str, given[name])) for name in ("hosts", "allow_image_hosts")}
        given["token"] = None if given["token"] is None else str(given["token"])
        settings = cls(**given)
        for path in settings.paths.values():
            if not path.is_dir():
                command = f"modiste index run=RUN data=… out={shlex.quote(str(path))}"
                raise ModisteError(f"There is no index {path}: build it with {command}.")
        return settings

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Accepted values of the Host header; ``*`` if the server has a token."""
        if self.token:
            return ("*",)
        return ("localhost", "127.0.0.1", "::1", self.host, *self.hosts)

    @property
    def paths(self) -> dict[str, Path]:
        """Folders of the indexes by name: ``main`` and, if given, ``compare``."""
        given = {"main": self.index, "compare": self.compare}
        return {name: Path(path).expanduser() for name, path in given.items() if path}


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reachable from this machine only.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("shop.example")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
