"""Damaged caches, checkpoints, journals, manifests and results: noticed, and made again or refused in a sentence."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from reliability import forks
from reliability.kills import TINY

FROZEN = ["tune.image.train=last_n", "tune.image.layers=1", "tune.text.train=last_n", "tune.text.layers=1"]
DATA = ["data=synthetic_hard", "data.catalogue.products=80", "data.catalogue.size=24"]
EVALUATE = ["evaluate", "run=run", "task=[retrieval]", "overwrite=true"]


def cut(path: Path) -> None:
    """What a full disk leaves."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def emptied(path: Path) -> None:
    """What a power cut leaves."""
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    """What a bad disk leaves: one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def zeros(path: Path) -> None:
    """What a power cut leaves of a file that was being written."""
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


WAYS: tuple[Callable[[Path], None], ...] = (cut, emptied, flipped, zeros)


@dataclass(frozen=True)
class Kind:
    """A file that is damaged, and a command that meets it.

    Attributes:
        name: Of the kind.
        files: Pattern below the folder.
        command: Of `modiste`.
        mends: Whether the command has to succeed; else a sentence will do.
    """

    name: str
    files: str
    command: tuple[str, ...]
    mends: bool


TRAIN = ("train", *TINY, "trainer.max_epochs=1", "hydra.run.dir=again")
PREPARE = ("prepare", *DATA, "size=32", "resize=shortest", "shard_rows=64", "out=ready")
EMBED = ("embed", "run=run", *DATA, "shard_rows=64", "out=vectors")
SWEEP = ("sweep", "sweep=heads", *TINY, *FROZEN, "trainer.max_epochs=1", "sweep.trials=1", "sweep.processes=shared",
         "hydra.run.dir=sweep")  # fmt: skip
SHOP = ("data", "data=table", "data.catalogue.path=shop/shop.csv", "data.catalogue.images=shop/photos.zip")
KINDS = (
    Kind("cache: scan", "cache/scans/**/*.parquet", SHOP, True),
    Kind("cache: looks", "cache/looks/*.parquet", tuple(EVALUATE), True),
    Kind("cache: embeddings", "cache/embeddings/**/*.npy", tuple(EVALUATE), True),
    Kind("cache: features", "cache/features/*.npy", (*TRAIN, *FROZEN, "features.cache=true"), True),
    Kind("checkpoint: last", "run/checkpoints/last.ckpt", ("train", "continue=run"), True),
    Kind("checkpoint: recent", "run/checkpoints/recent.ckpt", ("train", "continue=run"), True),
    Kind("checkpoint: best", "run/checkpoints/best.ckpt", tuple(EVALUATE), False),
    Kind("journal of a sweep", "sweep/study.journal", ("sweep", "continue=sweep", "sweep.trials=2"), False),
    Kind("manifest: prepared", "ready/manifest.json", (*TRAIN, "data.preprocessed=ready"), False),
    Kind("shard: prepared, train", "ready/pixels-*.npy", (*TRAIN, "data.preprocessed=ready"), False),
    Kind("shard: prepared, again", "ready/pixels-*.npy", PREPARE, True),
    Kind("shard: embeddings, again", "vectors/image-*.npy", EMBED, True),
    Kind("manifest: embeddings", "vectors/manifest.json", EMBED, False),
    Kind("result", "run/results/*.json", ("evaluate", "run=run", "task=[retrieval]"), True),
    Kind("result in a table", "run/results/*.json", ("table", "run"), False),
    Kind("config.yaml", "run/config.yaml", tuple(EVALUATE), False),
    Kind("selection.json", "run/selection.json", tuple(EVALUATE), False),
)


def prepare(folder: Path) -> None:
    """Everything that can be damaged."""
    train = ["train", *TINY, *FROZEN, "features.cache=true", "trainer.max_epochs=2", "hydra.run.dir=run"]
    forks.apart(draw_shop, folder / "shop")
    for command in (train, EVALUATE, PREPARE, EMBED, SWEEP, SHOP):
        if forks.run(command, folder, folder / "log", cached(folder)):
            raise RuntimeError((folder / "log").read_text()[-2000:])


def draw_shop(folder: Path) -> None:
    """A table whose pictures are in a zip."""
    import io
    import zipfile

    from PIL import Image

    folder.mkdir()
    with zipfile.ZipFile(folder / "photos.zip", "w") as photos:
        for number in range(12):
            file = io.BytesIO()
            Image.new("RGB", (32, 32), (20 * number, 90, 10)).save(file, "PNG")
            photos.writestr(f"{number}.png", file.getvalue())
    rows = "".join(f"{number}.png,hat {number}\n" for number in range(12))
    (folder / "shop.csv").write_text(f"image,text\n{rows}")


def cached(folder: Path) -> Callable[[], None]:
    """Has a command keep its cache in ``folder``."""
    import os

    return lambda: os.environ.__setitem__("MODISTE_CACHE", str(folder / "cache"))


def faults(every: int = 1) -> Iterator[tuple[str, str]]:
    """(case, what is wrong) of every kind in every way; an empty text where nothing is."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        prepare(whole)
        cases = [(kind, way) for kind in KINDS for way in WAYS]
        for kind, way in cases[::every]:
            folder = Path(temporary) / "case"
            shutil.copytree(whole, folder)
            yield f"{kind.name}, {way.__name__}", fault(kind, way, folder)
            shutil.rmtree(folder)


def fault(kind: Kind, way: Callable[[Path], None], folder: Path) -> str:
    """What is wrong after a damage."""
    files = [file for file in folder.glob(kind.files) if file.is_file()]
    if not files:
        return f"no file {kind.files}"
    for file in files:
        way(file)
    log = folder / "case.log"
    code = forks.run(list(kind.command), folder, log, cached(folder))
    printed = log.read_text(errors="replace")
    if "Traceback (most recent" in printed:
        return f"a traceback: {printed.strip().splitlines()[-1][:150]}"
    if code and kind.mends:
        return f"exit code {code}: {printed.strip().splitlines()[-1][:200]}"
    if code and "Error:" not in printed:
        return f"exit code {code} without a sentence"
    return ""


def measure(every: int = 1) -> tuple[int, list[str]]:
    """How many cases, and the faults."""
    found = list(faults(every))
    return len(found), [f"{name}: {wrong}" for name, wrong in found if wrong]
