"""Images sent by clients, within limits, and never from paths or URLs that are not allowed."""

from __future__ import annotations

import base64
import binascii
import io
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from modiste.data.sources import FORMATS, ImageTooLargeError, decode
from modiste.serve.settings import Settings

FETCH_SECONDS = 10
CHUNK = 2**16


class Refused(ValueError):  # noqa: N818 (an answer to a client, not a defect)
    """A refused request.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def read_image(given: str, settings: Settings) -> Image.Image:
    """Read an RGB image from a data URL, bare base64, or an https URL at one of ``allow_image_hosts``.

    Raises:
        Refused: The image is too large or invalid, or the URL is not allowed or cannot be fetched.
    """
    if given.startswith("data:"):
        header, comma, data = given.partition(",")
        if not comma or not header.endswith(";base64"):
            raise Refused("The data URL is not base64: send data:image/jpeg;base64,….")
        return open_image(_base64(data), settings)
    if "://" in given:
        return open_image(_fetch(given, settings), settings)
    return open_image(_base64(given), settings)


def open_image(data: bytes, settings: Settings) -> Image.Image:
    """Decode an RGB image from the content of a file. Raises Refused if it is too large or not an image."""
    limit = f"more than {settings.max_pixels:,} pixels are refused: send a smaller image"
    try:
        Image.init()
        with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as header:
            if header.width * header.height > settings.max_pixels:
                raise Refused(f"{header.width}×{header.height}: {limit}.", 413)
        return decode(data)
    except (ImageTooLargeError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"{error}: {limit}.", 413) from error
    except Refused:
        raise
    except Exception as error:  # decoders raise nearly anything for corrupt files
        raise Refused("The image cannot be read: send a JPEG, PNG or WebP.", 415) from error


def _within(seconds: float, answer: Any, size: int) -> bytes:
    """Read at most ``size`` bytes. Raises OSError after ``seconds``, however slowly they arrive."""
    data, end = bytearray(), time.monotonic() + seconds
    while len(data) < size and (chunk := answer.read1(min(CHUNK, size - len(data)))):
        data += chunk
        if time.monotonic() > end:
            raise TimeoutError(f"it took more than {seconds:g} s")
    return bytes(data)


def _base64(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(
            "The image is neither a data URL nor base64, and paths and URLs are not opened: send the file as base64."
        ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects, which could lead to a host that is not allowed."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(address: str, settings: Settings) -> bytes:
    parts = urlsplit(address)
    if parts.scheme != "https" or parts.hostname not in settings.allow_image_hosts:
        raise Refused("The URL's host is not allowed: add it to allow_image_hosts, and use https.", 403)
    limit = int(settings.max_upload_mb * 2**20)
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(address, timeout=FETCH_SECONDS) as answer:
            data = _within(FETCH_SECONDS, answer, limit + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Refused(f"The image could not be fetched from {parts.hostname}: {error}.", 424) from error
    if len(data) > limit:
        raise Refused(f"The image has more than {settings.max_upload_mb:g} MiB: send a smaller one.", 413)
    return data
