"""Images given as URLs: downloaded once into the cache, with limits, by Python's own client."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from modiste.utils.atomic import atomic
from modiste.utils.run_dir import cache_dir

log = logging.getLogger(__name__)

MAX_BYTES = 32 * 2**20
"""Of one image; what is larger is excluded."""
SECONDS = 30.0
"""For one image, from the first byte asked for to the last."""
THREADS = 8
Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]


def download(
    urls: Iterable[str], folder: Path | None = None, private: bool = False, progress: Progress | None = None
) -> Path:
    """Download images that are missing; return their folder. What fails is excluded, and tried again next time.

    Args:
        urls: http and https addresses.
        folder: Where to; None: the cache. A file is named by `file_name`.
        private: Whether addresses of this machine and its network may be asked.
        progress: `modiste.utils.progress.progress_bar`, or None.
    """
    folder = folder or cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [url for url in dict.fromkeys(urls) if not (folder / file_name(url)).is_file()]
    failed: list[tuple[str, str]] = []
    opener = build_opener(_Redirects(private))
    with ThreadPoolExecutor(THREADS) as pool:
        results: Iterable[str] = pool.map(lambda url: _fetch(url, folder / file_name(url), private, opener), missing)
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


class _Redirects(HTTPRedirectHandler):
    """Follow redirects only to where the first URL may lead."""

    def __init__(self, private: bool) -> None:
        self.private = private

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check(newurl, self.private)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, path: Path, private: bool, opener: OpenerDirector) -> str:
    """Download one image; return why it could not be, or ""."""
    try:
        _check(url, private)
        until = time.monotonic() + SECONDS
        request = Request(url, headers={"User-Agent": "modiste", "Accept": "image/*"})
        with opener.open(request, timeout=SECONDS) as response, atomic(path) as unfinished:
            size = 0
            with unfinished.open("wb") as file:
                while block := response.read(2**16):
                    size += len(block)
                    if size > MAX_BYTES:
                        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
                    if time.monotonic() > until:
                        raise ValueError(f"slower than {SECONDS:g} s")
                    file.write(block)
    except (URLError, OSError, ValueError) as error:
        return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
    return ""


def _check(url: str, private: bool) -> None:
    """Raise ValueError for anything but a public http URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not an http URL")
    if private:
        return
    for *_, address in socket.getaddrinfo(parts.hostname, parts.port or 443):
        if not ipaddress.ip_address(address[0]).is_global:
            raise ValueError("its host is in a private network")
