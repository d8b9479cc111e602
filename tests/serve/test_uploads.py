"""Images of clients: what is taken, and what is refused before it costs anything."""

import base64
import io
import itertools
import struct
import time
import zlib

import pytest
from PIL import Image

from modiste.serve.settings import Settings
from modiste.serve.uploads import Refused, read_image

SETTINGS = Settings("shop.index", max_pixels=10_000)


def encoded(size=(40, 30), form="PNG", colour=(200, 10, 10)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, form)
    return base64.b64encode(content.getvalue()).decode()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("prefix", ["", "data:image/x;base64,"])
def test_a_data_url_or_base64_becomes_an_rgb_image(form, prefix):
    image = read_image(prefix + encoded(form=form), SETTINGS)
    assert (image.mode, image.size) == ("RGB", (40, 30))


def bomb():
    """A PNG of a few bytes that declares 60,000 × 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        (encoded((200, 200)), 413, "200×200"),
        (bomb(), 413, "pixels"),
        (base64.b64encode(b"no image at all").decode(), 415, "cannot be read"),
        (encoded()[:60], 415, "cannot be read"),
        (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode(), 415, "cannot be read"),
        ("data:image/png,abc", 422, "not base64"),
        ("/etc/passwd", 422, "paths and URLs"),
        ("../photo.jpg", 422, "paths and URLs"),
        ("file:///etc/passwd", 403, "allow_image_hosts"),
        ("http://169.254.169.254/latest", 403, "allow_image_hosts"),
        ("https://shop.example/photo.jpg", 403, "allow_image_hosts"),
    ],
)
def test_what_is_too_large_or_no_image_or_elsewhere_is_refused(given, status, says):
    with pytest.raises(Refused, match=says) as refused:
        read_image(given, SETTINGS)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "address", ["http://shop.example/a.jpg", "https://other.example/a", "https://shop.example@evil.example/a"]
)
def test_only_https_of_a_listed_host_is_fetched(address, monkeypatch):
    opened = []
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, **_: opened.append(url))
    with pytest.raises(Refused) as refused:
        read_image(address, Settings("shop.index", allow_image_hosts=("shop.example",)))
    assert refused.value.status == 403
    assert not opened


def test_an_image_of_a_listed_host_is_fetched_up_to_the_size_limit(monkeypatch):
    content = base64.b64decode(encoded())
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, **_: io.BytesIO(content))
    settings = Settings("shop.index", allow_image_hosts=("shop.example",))
    assert read_image("https://shop.example/a.png", settings).size == (40, 30)
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, **_: io.BytesIO(b"x" * 2_000_000))
    with pytest.raises(Refused, match="more than 1 MiB"):
        read_image("https://shop.example/a.png", Settings("i", allow_image_hosts=("shop.example",), max_upload_mb=1))


def test_a_host_that_answers_a_byte_at_a_time_is_given_up(monkeypatch):
    class Trickle(io.BytesIO):
        def read1(self, size=-1):
            time.sleep(0.02)
            return b"x"

    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda self, url, **_: Trickle())
    monkeypatch.setattr("modiste.serve.uploads.FETCH_SECONDS", 0.1)
    with pytest.raises(Refused, match=r"could not be fetched from shop\.example: it took more than 0\.1 s"):
        read_image("https://shop.example/a.png", Settings("i", allow_image_hosts=("shop.example",)))


def test_the_images_of_one_request_are_decoded_one_by_one_and_within_a_budget():
    """A hundred images of two kilobytes and 50 megapixels each took all memory."""
    from modiste.serve import embeddings

    settings = Settings("i", max_pixels=10_000)
    photos = embeddings.within_budget(itertools.repeat(encoded((100, 100))), settings)
    taken = [next(photos).size for _ in range(embeddings.PHOTOS)]
    assert taken == embeddings.PHOTOS * [(100, 100)]
    with pytest.raises(Refused, match="more than 200,000 pixels: send fewer at a time"):
        next(photos)
