"""Download images from URLs into the cache, with limits on size, time and hosts."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from modiste.utils.atomic import atomic, make_folder
from modiste.utils.run_dir import cache_dir

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
"""Maximum size of an image; larger ones are skipped."""
SECONDS = 30.0
"""Maximum time for an image, from the request to the last byte."""
THREADS = 8
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]

NAT64 = ipaddress.ip_network("64:ff9b::/96")
UNICAST = ipaddress.ip_network("2000::/3")
"""Global unicast IPv6 addresses; others are local, reserved, or embed an IPv4 address that a gateway may reach."""
TRANSITION = [ipaddress.ip_network(block) for block in ("2001::/23", "2002::/16")]
"""Blocks within `UNICAST` that embed IPv4 addresses (Teredo, 6to4) or have special purposes."""


def download(
    urls: Iterable[str], folder: Path | None = None, private: bool = False, progress: Progress | None = None
) -> Path:
    """Download missing images and return their folder; the next call retries failed downloads.

    Args:
        urls: http and https URLs.
        folder: Target folder; None: the cache. Files are named by `file_name`.
        private: Whether to allow hosts on this machine and in private networks.
        progress: `modiste.utils.progress.progress_bar`, or None.
    """
    folder = folder or cache_dir() / "images"
    make_folder(folder)
    missing = [url for url in dict.fromkeys(urls) if not (folder / file_name(url)).is_file()]
    failed: list[tuple[str, str]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        results: Iterable[str] = pool.map(lambda url: _fetch(url, folder / file_name(url), private), missing)
        if progress is not None:
            results = progress(results, len(missing), f"Downloading {len(missing):,} images once")
        failed = [(url, problem) for url, problem in zip(missing, results, strict=True) if problem]
    if failed:
        url, problem = failed[0]
        log.warning(
            "%d of %d images could not be downloaded, for example %s: %s", len(failed), len(missing), url, problem
        )
    return folder


def file_name(url: str) -> str:
    """Return the file name of a URL in the cache.

    >>> file_name("https://example.org/a.jpg")[:8], len(file_name("https://example.org/a.jpg"))
    ('700caca5', 64)
    """
    return hashlib.sha256(url.encode()).hexdigest()


def read(url: str, private: bool = False) -> bytes:
    """Download an image of at most `MAX_BYTES` within `SECONDS`.

    Args:
        url: An http or https URL.
        private: As in `download`.

    Raises:
        OSError, ValueError: The URL is not http or https, or leads to a private network; the request fails; the image
            is too large or too slow.
    """
    _check(url, private)
    until = time.monotonic() + SECONDS
    opener = build_opener(_Redirects(private), *(() if private else (_Http(), _Https())))
    request = Request(url, headers={"User-Agent": "modiste", "Accept": "image/*"})
    blocks, size = [], 0
    try:
        with opener.open(request, timeout=SECONDS) as response:
            while block := response.read(2**16):
                blocks.append(block)
                size += len(block)
                if size > MAX_BYTES:
                    raise ValueError(f"larger than {MAX_BYTES:,} bytes")
                if time.monotonic() > until:
                    raise ValueError(f"slower than {SECONDS:g} s")
    except HTTPException as error:
        raise ValueError(f"the host's answer is not HTTP: {error or type(error).__name__}") from error
    return b"".join(blocks)


def _fetch(url: str, path: Path, private: bool) -> str:
    """Download one image to ``path``; return the problem, or ""."""
    try:
        content = read(url, private)
        with atomic(path) as unfinished:
            unfinished.write_bytes(content)
    except (OSError, ValueError) as error:
        return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    return ""


def _check(url: str, private: bool) -> None:
    """Raise ValueError for anything but a public http URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not an http URL")
    if not private:
        _public(parts.hostname, parts.port or 443)


def _public(host: str, port: int) -> list[Any]:
    """Result of `socket.getaddrinfo` for a host. Raises ValueError if an address is in a private network."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, address in found:
        if not is_public(str(address[0])):
            raise ValueError("its host is in a private network")
    return found


def is_public(address: str) -> bool:
    """Whether an IP address is public, excluding multicast and private IPv4 embedded in IPv6.

    Python's ``is_global`` includes these.

    >>> is_public("93.184.216.34"), is_public("64:ff9b::10.0.0.1"), is_public("64:ff9b::93.184.216.34")
    (True, False, True)
    """
    number: Any = ipaddress.ip_address(address)
    number = getattr(number, "ipv4_mapped", None) or number
    if number in NAT64:  # networks without IPv4 reach IPv4 hosts by these addresses
        number = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    if not number.is_global or number.is_multicast or number.is_reserved:
        return False
    return number.version == 4 or (number in UNICAST and not any(number in block for block in TRANSITION))


def _connect(address: tuple[str, int], timeout: float, source: object = None) -> socket.socket:
    """Connect to a checked address: a name may resolve to another address the next time."""
    failed = OSError(f"{address[0]} has no address")
    for family, kind, protocol, _, place in _public(*address):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(timeout)
            made.connect(place)
            return made
        except OSError as error:
            made.close()
            failed = error
    raise failed


class _Redirects(HTTPRedirectHandler):
    """Follow redirects only to URLs that pass the checks of the first."""

    def __init__(self, private: bool) -> None:
        self.private = private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check(newurl, self.private)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(HTTPHandler):
    """Connect to checked addresses only; a configured proxy resolves names itself."""

    def http_open(self, req: Request) -> Any:
        return self.do_open(HTTPConnection if req.has_proxy() else _checked(HTTPConnection), req)


class _Https(HTTPSHandler):
    """Connect to checked addresses only; certificates are still verified against the host name."""

    def https_open(self, req: Request) -> Any:
        proxied = getattr(req, "_tunnel_host", None)
        return self.do_open(HTTPSConnection if proxied else _checked(HTTPSConnection), req)


def _checked(kind: type[HTTPConnection]) -> Callable[..., HTTPConnection]:
    def make(host: str, **options: Any) -> HTTPConnection:
        connection: Any = kind(host, **options)
        connection._create_connection = _connect
        return connection

    return make
