"""Mutated tables and pictures: read, or refused in a sentence; never another error, a wait, or an empty catalogue."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SECONDS = 20
ROWS = 12
WORDS = [
    "red dress", "NA", "", " ", "null", "=1+1", "a\nb", 'say "hi"', "été", "赤いドレス", "\0", "x" * 5000, "1e400",
    "[1]", "{}", "../0.png", "/etc/passwd", "C:\\x.png", "http://127.0.0.1:9/x.png", "pipe:id", "🧥", "\ufeff",
    "a;b\tc",
]  # fmt: skip


class SlowError(Exception):
    """It took longer than `SECONDS`."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise `SlowError` where the block takes too long."""

    def expire(*_: Any) -> None:
        raise SlowError

    previous = signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def records(draw: random.Random) -> list[dict[str, Any]]:
    """Rows of a small shop, some cells of them odd."""
    rows: list[dict[str, Any]] = [
        {"image": f"{i % 6}.png", "text": f"garment {i}", "product_id": str(i), "split": ["train", "test"][i % 2]}
        for i in range(ROWS)
    ]
    for _ in range(draw.randint(0, 4)):
        row = draw.choice(rows)
        key = draw.choice([*row, "more"])
        row[key] = draw.choice(
            [*WORDS, None, 1, 1.5, True, ["a", "b"], {"path": "/etc/passwd", "bytes": None}, b"\xff"]
        )
    return rows


def written(rows: list[dict[str, Any]], kind: str, draw: random.Random) -> bytes:
    """The rows as a file of a kind."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind in (".csv", ".tsv", ".zip"):
        text = io.StringIO()
        out = csv.DictWriter(text, names, delimiter="\t" if kind == ".tsv" else draw.choice(",;|"))
        out.writeheader()
        out.writerows(rows)
        encoded = text.getvalue().encode(draw.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252"]), errors="replace")
        if kind != ".zip":
            return encoded
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("table.csv", encoded)
        return archive.getvalue()
    if kind in (".json", ".jsonl"):
        lines = [json.dumps(row, default=str) for row in rows]
        return ("\n".join(lines) if kind == ".jsonl" else f"[{','.join(lines)}]").encode()
    if kind == ".xml":
        items = "".join(
            "<item>"
            + "".join(f"<{name}>{str(value).replace('<', '')}</{name}>" for name, value in row.items())
            + "</item>"
            for row in rows
        )
        return f"<rss><channel>{items}</channel></rss>".encode("utf-8", errors="replace")
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    columns = {name: [None if row.get(name) is None else str(row.get(name)) for row in rows] for name in names}
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Cut, flipped, doubled or filled somewhere; now and then as it was."""
    changed = bytearray(data)
    for _ in range(draw.choice([0, 1, 1, 2, 5, 20])):
        if not changed:
            break
        place = draw.randrange(len(changed))
        action = draw.randrange(6)
        if action == 0:
            del changed[place : place + draw.randint(1, 50)]
        elif action == 1:
            changed[place] ^= 1 << draw.randrange(8)
        elif action == 2:
            changed[place:place] = draw.randbytes(draw.randint(1, 20))
        elif action == 3:
            changed[place:place] = changed[place : place + draw.randint(1, 100)]
        elif action == 4:
            del changed[place:]
        else:
            changed[place:place] = draw.choice(
                [b'"', b"\n", b"\r", b"\0", b",", b"[" * 1000, b"]", b"}", b"<", b"\xff\xfe"]
            )
    return bytes(changed)


KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xml", ".zip")


def catalogues(number: int, seed: int = 0) -> list[str]:
    """Read ``number`` mutated tables; what is wrong, an entry per fault."""
    from modiste.data.datasets.table import Table
    from modiste.errors import ModisteError

    faults = []
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        for attempt in range(number):
            kind = draw.choice(KINDS)
            path = folder / f"{attempt}{kind}"
            path.write_bytes(mutated(written(records(draw), kind, draw), draw))
            fault = reading(lambda path=path: len(Table(str(path), str(folder))()), (ModisteError,), empty=True)
            if fault:
                faults.append(f"table {attempt}{kind} of seed {seed}: {fault}")
            path.unlink()
    return faults


FORMATS = (
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "1"),
    ("WEBP", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("PPM", "RGB"),
)  # fmt: skip


def pictures() -> list[bytes]:
    """A small picture in every format and mode."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    files = []
    for name, mode in FORMATS:
        image = Image.fromarray(pixels)
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, name)
        files.append(buffer.getvalue())
    return files


def images(number: int, seed: int = 0) -> list[str]:
    """Decode ``number`` mutated pictures by every decoder; what is wrong, an entry per fault."""
    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.decode import Decoder
    from modiste.data.sources import BytesImages, decode
    from modiste.models.preprocess import Preprocess

    faults, files, draw = [], pictures(), random.Random(seed)
    transform, fast = Preprocess(size=16), Decoder("scaled")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = [mutated(draw.choice(files), draw) for _ in range(number)]
        names = list(map(str, range(number)))
        catalogue = Catalogue.unchecked(
            Card("changed"), {"image": names, "text": names, "product_id": names}, BytesImages(changed)
        )
        for i, data in enumerate(changed):
            for read in (lambda data=data: transform(decode(data)), lambda i=i: fast.pixels(catalogue, i, transform)):
                fault = reading(read, (OSError, ValueError))
                if fault:
                    faults.append(f"picture {i} of seed {seed}: {fault}")
    return faults


def reading(read: Callable[[], Any], expected: tuple[type[Exception], ...], empty: bool = False) -> str:
    """What is wrong with a reader: an unexpected error, too long, or, with ``empty``, nothing read and nothing said."""
    try:
        with limited():
            result = read()
    except expected as error:
        return "" if str(error).strip() else f"{type(error).__name__} says nothing"
    except SlowError:
        return f"it takes more than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "an empty catalogue" if empty and not result else ""
