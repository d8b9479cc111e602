"""Image sources of a catalogue: a folder, a zip file, an array, encoded bytes or a `datasets` table."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from modiste.models.preprocess import Preprocess

MAX_PIXELS = 64_000_000
"""Images that declare more pixels are rejected before they are decoded."""
MAX_BYTES = 256 * 2**20
"""Larger files and archive members are rejected before they are read."""
TILE = 2**20
"""Pixels that are converted from 16 bits or floats at a time, since each takes 30 bytes meanwhile."""
# Excludes formats that run another program (EPS) or can refer to other files.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


WHOLE = "whole"
"""Name of the mask of everything but the background."""


class ImageSource(Protocol):
    """Protocol of an image source, which is picklable, fork-safe and thread-safe.

    A source may also have ``identity(refs: list[str]) -> str``, a string that changes whenever the images behind these
    references may have changed. The scan of a source without it is not cached.
    """

    def read(self, ref: str) -> Image.Image:
        """Read an RGB image. Raises OSError or ValueError if it is missing, corrupt or too large."""
        ...


@runtime_checkable
class EncodedSource(ImageSource, Protocol):
    """An image source that gives access to encoded images, for decoders other than Pillow."""

    def read_bytes(self, ref: str) -> bytes:
        """Return the encoded image. Raises OSError or ValueError as `read` does."""
        ...


@runtime_checkable
class PixelSource(ImageSource, Protocol):
    """An image source that holds only preprocessed images, of one image transform."""

    def preprocessed_pixels(self, ref: str, preprocess: Preprocess) -> Tensor:
        """Pixels (3, size, size), uint8. Raises ModisteError as `check` does."""
        ...

    def check(self, preprocess: Preprocess) -> None:
        """Raise ModisteError if the pixels were made by a transform other than ``preprocess``."""
        ...

    def identity(self, refs: list[str]) -> str:
        """String that changes whenever the pixels may have changed."""
        ...


@runtime_checkable
class MaskSource(ImageSource, Protocol):
    """An image source with segmentation masks; the column ``mask`` holds the references of the masks."""

    def parts(self, ref: str) -> list[str]:
        """Parts of the image that have a mask, without `WHOLE`."""
        ...

    def read_mask(self, ref: str, part: str = WHOLE) -> Image.Image:
        """Mask in mode L, of the image's size, 255 inside ``part``. Raises ModisteError if there is none."""
        ...


class UnsafeImageError(ValueError):
    """The reference leads out of the data set's folder, or to something other than a regular file."""


class ImageTooLargeError(ValueError):
    """The image has more pixels, or the file more bytes, than the limit."""


def decode(data: bytes, smallest: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright (EXIF), with transparency on white, after a check of its size.

    Args:
        data: Content of the file.
        smallest: Decode a JPEG at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many pixels; None: at
            full size.

    Raises:
        ImageTooLargeError: The image declares more than `MAX_PIXELS` pixels.
        OSError, ValueError: The image is in none of `FORMATS`, truncated, or otherwise corrupt.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGBA", (4, 2), (0, 0, 0, 0)).save(buffer, "PNG")
    >>> decode(buffer.getvalue()).getpixel((0, 0))
    (255, 255, 255)
    >>> photo = io.BytesIO()
    >>> Image.new("RGB", (600, 800)).save(photo, "JPEG")
    >>> decode(photo.getvalue(), smallest=256).size
    (300, 400)
    """
    try:
        image = opened(data)
        if image.width * image.height > MAX_PIXELS:
            raise ImageTooLargeError(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS:,}")
        if smallest is not None:
            image.draft(None, (smallest, smallest))
        return _as_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLargeError(str(error)) from error
    except (OSError, ValueError):
        raise
    except Exception as error:  # a corrupt file makes the decoders raise nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


def opened(data: bytes) -> Image.Image:
    """Open an encoded image without decoding it. Raises OSError if it is in none of `FORMATS`."""
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def image_format(data: bytes) -> str:
    """Format of an encoded image, one of `FORMATS`. Raises OSError if it is in none of them."""
    return str(opened(data).format)


def _as_rgb(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):  # 16-bit grey: Pillow would clip, not scale
        image = _eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert a 16-bit or float grey image to mode L, its transparent grey level to white."""
    level = image.info.pop("transparency", None)
    largest = max(np.max([values.max() for _, values in _tiles(image)]), 255)
    eight = Image.new("L", image.size)
    for place, values in _tiles(image):
        grey = (values / largest * 255).clip(0, 255).astype(np.uint8)
        if isinstance(level, (int, float)):
            grey[values == level] = 255
        eight.paste(Image.fromarray(grey), place)
    return eight


def _tiles(image: Image.Image) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield parts of a grey image, of at most `TILE` pixels: upper left corner and values as float64."""
    columns = min(image.width, TILE)
    rows = TILE // columns
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            part = image.crop((left, top, min(left + columns, image.width), min(top + rows, image.height)))
            yield (left, top), np.asarray(part, dtype=np.float64)


def check_inside(path: Path, root: Path) -> None:
    """Raise UnsafeImageError for a path that leads out of ``root``, directly or through links."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UnsafeImageError(f"{path} lies outside {root}")


def read_regular(path: Path, root: Path) -> bytes:
    """Return the content of a regular file below ``root``, of at most `MAX_BYTES`.

    Args:
        path: The file.
        root: The folder; links within it are followed.

    Raises:
        UnsafeImageError: ``path`` leads out of ``root``, or to a folder, a pipe or a device.
        ImageTooLargeError: The file is larger than `MAX_BYTES`.
        OSError: The file is missing or cannot be read.
    """
    check_inside(path, root)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
        raise UnsafeImageError(f"{path} is not a regular file")
    if status.st_size > MAX_BYTES:
        raise ImageTooLargeError(f"{path} is larger than {MAX_BYTES:,} bytes")
    return path.read_bytes()


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"


class FolderImages:
    """Images in files below ``root``; a reference is the file's path relative to it."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def path(self, ref: str) -> Path:
        """Path of ``ref``. Raises ValueError for a reference that leads out of the folder."""
        path = Path(os.path.normpath(self.root / ref))
        if not path.is_relative_to(os.path.normpath(self.root)):
            raise UnsafeImageError(f"{ref} lies outside {self.root}")
        return path

    def read(self, ref: str) -> Image.Image:
        return decode(self.read_bytes(ref))

    def read_bytes(self, ref: str) -> bytes:
        """Return the content of a file. Raises OSError or ValueError as `read` does."""
        return read_regular(self.path(ref), self.root)

    def identity(self, refs: list[str]) -> str:
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for ref in refs:
            try:
                status = self.path(ref).stat()
                digest.update(f"{ref}|{status.st_size}|{status.st_mtime_ns}\n".encode())
            except (OSError, ValueError):
                digest.update(f"{ref}|missing\n".encode())
        return digest.hexdigest()


class ZipImages:
    """Images in a zip file, read member by member; a reference is the member's name after ``prefix``."""

    def __init__(self, path: str | Path, prefix: str = ""):
        self.path = Path(path)
        self.prefix = prefix
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    @property
    def archive(self) -> zipfile.ZipFile:
        """The archive, opened once per process: processes that share a file handle share its position."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            return self._opened[1]

    def read(self, ref: str) -> Image.Image:
        return decode(self.read_bytes(ref))

    def read_bytes(self, ref: str) -> bytes:
        """Return the content of a member. Raises OSError or ValueError as `read` does."""
        try:
            member = self.archive.getinfo(self.prefix + ref)
        except KeyError:
            raise FileNotFoundError(f"{self.prefix + ref} is not in {self.path}") from None
        if member.file_size > MAX_BYTES:
            raise ImageTooLargeError(f"{member.filename} is larger than {MAX_BYTES:,} bytes")
        try:
            return self.archive.read(member)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            # Damaged, encrypted, or an unknown compression method.
            raise ValueError(str(error)) from error

    def identity(self, refs: list[str]) -> str:
        return f"{_stamp(self.path)}|{self.prefix}"

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "prefix": self.prefix}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class ArrayImages:
    """Images in a uint8 array (N, H, W) or (N, H, W, 3); a reference is the index as text.

    >>> ArrayImages(np.zeros((2, 28, 28), np.uint8)).read("1").size
    (28, 28)
    """

    def __init__(self, array: np.ndarray):
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3):
            raise ValueError(f"images must be uint8 (N, H, W) or (N, H, W, 3), not {array.dtype} {array.shape}")
        self.array = array

    def read(self, ref: str) -> Image.Image:
        return Image.fromarray(self.array[_index(ref, len(self.array))]).convert("RGB")

    def identity(self, refs: list[str]) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.array).data).hexdigest()


class BytesImages:
    """Encoded images in memory, None for a missing one; a reference is the index as text."""

    def __init__(self, images: Sequence[bytes | None]):
        self.images = images

    def read(self, ref: str) -> Image.Image:
        return decode(self.read_bytes(ref))

    def read_bytes(self, ref: str) -> bytes:
        """Return the encoded image. Raises OSError or ValueError as `read` does."""
        data = self.images[_index(ref, len(self.images))]
        if data is None:
            raise FileNotFoundError(f"image {ref} is missing")
        if len(data) > MAX_BYTES:
            raise ImageTooLargeError(f"image {ref} is larger than {MAX_BYTES:,} bytes")
        return data


class ArrowImages:
    """Images in a column of a `datasets.Dataset`, as bytes or paths; a reference is the row as text.

    Args:
        dataset: A `datasets.Dataset`.
        column: Its column of images.
        folder: Paths are relative to this folder and must stay inside it; None: paths are rejected.
    """

    def __init__(self, dataset: Dataset, column: str, folder: Path | None = None):
        # In Arrow format `datasets` does not open the paths and URLs of images, audio and video, which it would decode
        # without a size limit.
        self.dataset = dataset.select_columns([column]).with_format("arrow")
        self.column, self.folder = column, folder

    def read(self, ref: str) -> Image.Image:
        return decode(self.read_bytes(ref))

    def read_bytes(self, ref: str) -> bytes:
        """Return the encoded image of a row. Raises OSError or ValueError as `read` does."""
        value = self.dataset[_index(ref, len(self.dataset))].column(self.column)[0].as_py()
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        if isinstance(data, str):
            data, path = None, data
        if data is None and isinstance(path, str) and path:
            if self.folder is None:
                raise UnsafeImageError(f"row {ref} names the file {path}, but the data set has no folder of images")
            return FolderImages(self.folder).read_bytes(path)
        if data is None:
            raise FileNotFoundError(f"row {ref} has no image")
        if not isinstance(data, bytes):
            raise ValueError(f"row {ref} holds a {type(data).__name__} instead of an image")
        if len(data) > MAX_BYTES:
            raise ImageTooLargeError(f"row {ref} is larger than {MAX_BYTES:,} bytes")
        return data

    def identity(self, refs: list[str]) -> str:
        files = sorted(_stamp(Path(entry["filename"])) for entry in self.dataset.cache_files)
        return "|".join([self.dataset._fingerprint, self.column, *files])


def _index(ref: str, length: int) -> int:
    index = int(ref)
    if not 0 <= index < length:
        raise FileNotFoundError(f"image {ref} does not exist: there are {length} images")
    return index
