"""CCP: *Clothing Co-Parsing*, 1,004 street photos with pixel labels, from a checkout or zip file."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import cut_short, note_partial, require
from modiste.data.masks import NO_ANNOTATION, OTHER_SIZE, UNREADABLE_MASK, as_image, no_such_part, part_of, wearing
from modiste.data.sources import MAX_PIXELS, WHOLE, FolderImages, ZipImages
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

CARD = Card(
    name="ccp",
    title="Clothing Co-Parsing",
    licence="Apache-2.0 (as its repository states; the photographs are their photographers')",
    citation="W. Yang, P. Luo and L. Lin, Clothing Co-Parsing by Joint Image Segmentation and Labeling, CVPR 2014",
    homepage="https://github.com/bearpaw/clothing-co-parsing",
    expected={"rows": 1004},  # photos with pixel labels
    download="Clone github.com/bearpaw/clothing-co-parsing, or download it as a zip file.",
)
LABELS = "label_list.mat"
PHOTOS = "photos/"
ANNOTATIONS = "annotations/pixel-level/"
BACKGROUND = "null"

Files = FolderImages | ZipImages


class CcpImages:
    """Photos and their masks; a reference is a file's path in the repository.

    Args:
        files: Source of the files.
        parts: Part → numbers of its labels.
        labels: Number of labels.
    """

    def __init__(self, files: Files, parts: Mapping[str, Sequence[int]], labels: int) -> None:
        self.files, self.numbers, self.labels = files, {name: list(numbers) for name, numbers in parts.items()}, labels
        self._last: tuple[str, npt.NDArray[np.uint8]] | None = None  # the parts of a photo are read in succession

    def read(self, ref: str) -> Image.Image:
        """Read the RGB photo."""
        return self.files.read(ref)

    def parts(self, ref: str) -> list[str]:
        """Parts visible on the photo of the annotation ``ref``, in the order of the argument ``parts``."""
        return self.present(self.pixel_labels(ref))

    def read_mask(self, ref: str, part: str = WHOLE) -> Image.Image:
        """Mask of a part, or of the ``whole`` person with hair and skin: mode L, 255 inside and 0 outside.

        Raises:
            ModisteError: The photo does not show the part.
            OSError, ValueError: The annotation is missing or damaged.
        """
        pixels = self.pixel_labels(ref)
        if part == WHOLE:
            return as_image(pixels != 0)
        present = self.present(pixels)
        if part not in present:
            raise no_such_part(ref, part, [WHOLE, *present])
        return as_image(np.isin(pixels, self.numbers[part]))

    def identity(self, refs: list[str]) -> str:
        """See `modiste.data.sources.ImageSource`."""
        return self.files.identity(refs)

    def pixel_labels(self, ref: str) -> npt.NDArray[np.uint8]:
        """Label numbers (h, w) of an annotation. Raises OSError or ValueError if it is missing or damaged."""
        last = self._last
        if last is None or last[0] != ref:
            last = self._last = ref, read_pixel_labels(self.files.read_bytes(ref), self.labels)
        return last[1]

    def present(self, pixels: npt.NDArray[np.uint8]) -> list[str]:
        """Parts that occur in ``pixels`` (h, w)."""
        counts = np.bincount(pixels.ravel(order="K"), minlength=self.labels)  # MATLAB is column-major
        return [name for name, numbers in self.numbers.items() if counts[numbers].any()]


@dataclass(frozen=True)
class Ccp:
    """Read CCP: one row per photo with pixel labels (the repository has 1,094 photos without).

    In photo 0536 every pixel is background; it is excluded as "no annotation". text = what the person wears, from the
    visible parts; attribute ``parts`` = these parts, joined by ", "; ``mask`` = the annotation that `CcpImages` reads.

    Attributes:
        path: A checkout of the repository, or a zip file of it.
        parts: Part → labels that it merges.
        ignore: Labels that belong to no part. All but "null" belong to ``whole``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: ``path`` has no such data, ``label_list.mat`` is damaged, or a label is unknown, in no part or in
            two.
    """

    path: str
    parts: Mapping[str, Sequence[str]]
    ignore: Sequence[str] = (BACKGROUND,)
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        files, annotations = open_files(Path(self.path))
        labels = read_label_list(files.read_bytes(LABELS), self.path)
        images = CcpImages(files, self._numbers(labels), len(labels))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            looks = list(pool.map(lambda annotation: _look(images, annotation), annotations))
        columns = {
            "product_id": [PurePosixPath(name).stem for name in annotations],
            "image": [photo_of(name) for name in annotations],
            "text": [wearing(parts) for parts, _ in looks],
            "mask": annotations,
            "parts": [", ".join(parts) for parts, _ in looks],
        }
        problems = [problem for _, problem in looks]
        return note_partial(Catalogue.build(CARD, columns, images, self.max_bad, problems))

    def _numbers(self, labels: Sequence[str]) -> dict[str, list[int]]:
        """Part → numbers of its labels."""
        found = part_of({**self.parts, "ignore": self.ignore}, labels)
        missing = [label for label in labels if label not in found]
        if missing:
            raise ModisteError(
                f"data.catalogue.parts lacks the label '{missing[0]}' ({len(missing)} in total): add it to a part, "
                "or to data.catalogue.ignore."
            )
        return {part: [labels.index(name) for name in names] for part, names in self.parts.items()}


def open_files(path: Path) -> tuple[Files, list[str]]:
    """Open CCP's files; return them and the paths of the annotations."""
    files, names = _open_zip(path) if path.is_file() else _open_folder(path)
    annotations = sorted(name for name in names if name.startswith(ANNOTATIONS) and name.endswith(".mat"))
    if not annotations:
        raise cut_short(CARD, path, f"it holds no {ANNOTATIONS}*.mat")
    return files, annotations


def _open_folder(path: Path) -> tuple[Files, list[str]]:
    require(CARD, path, [LABELS, PHOTOS, ANNOTATIONS])
    return FolderImages(path), [ANNOTATIONS + file.name for file in (path / ANNOTATIONS).iterdir()]


def _open_zip(path: Path) -> tuple[Files, list[str]]:
    files = ZipImages(path)
    try:
        members = files.archive.namelist()
    except zipfile.BadZipFile as error:
        raise cut_short(CARD, path, str(error)) from None
    found = [name for name in members if name == LABELS or name.endswith(f"/{LABELS}")]
    if not found:
        raise ModisteError(f"{path} holds no {LABELS}. {CARD.download}")
    # A zip file of the repository has a top-level folder.
    files.prefix = min(found, key=len).removesuffix(LABELS)
    return files, [name.removeprefix(files.prefix) for name in members if name.startswith(files.prefix)]


def photo_of(annotation: str) -> str:
    """Path of the photo that an annotation belongs to.

    >>> photo_of("annotations/pixel-level/0001.mat")
    'photos/0001.jpg'
    """
    return f"{PHOTOS}{PurePosixPath(annotation).stem}.jpg"


def _look(images: CcpImages, annotation: str) -> tuple[list[str], str | None]:
    """The parts on a photo, and the problem with its annotation or None."""
    try:
        pixels = images.pixel_labels(annotation)
    except (OSError, ValueError):
        return [], UNREADABLE_MASK
    parts = images.present(pixels)
    return (parts, size_problem(images, annotation, pixels)) if parts else ([], NO_ANNOTATION)


def size_problem(images: CcpImages, annotation: str, pixels: npt.NDArray[np.uint8]) -> str | None:
    """Return `OTHER_SIZE` if ``pixels`` (h, w) differ from the photo in size.

    The scan reports damaged photos.
    """
    try:
        photo = images.files.read_bytes(photo_of(annotation))
        size = Image.open(io.BytesIO(photo), formats=["JPEG", "MPO"]).size
    except (OSError, ValueError):
        return None
    return None if size == pixels.shape[::-1] else OTHER_SIZE


def read_label_list(data: bytes, name: str) -> list[str]:
    """Read the labels, ordered by number, from ``label_list.mat``. Raises ModisteError if it is damaged."""
    from scipy.io import loadmat

    try:
        cells = loadmat(io.BytesIO(data), variable_names=["label_list"])["label_list"].ravel()
        labels = [str(np.asarray(cell).ravel()[0]) for cell in cells]
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise ModisteError(f"{LABELS} of {name} cannot be read ({error}). {CARD.download}") from error
    if not labels or labels[0] != BACKGROUND:
        raise ModisteError(f"{LABELS} of {name} does not begin with '{BACKGROUND}'. {CARD.download}")
    return labels


def read_pixel_labels(data: bytes, labels: int) -> npt.NDArray[np.uint8]:
    """Read label numbers (h, w), uint8, below ``labels``, from a MATLAB file's matrix ``groundtruth``.

    The size is checked before the matrix is decompressed.

    Raises:
        ValueError: The file is damaged, or has no such matrix.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        shape = shapes.get("groundtruth", ())
        if len(shape) != 2 or not 0 < prod(shape) <= MAX_PIXELS:
            raise ValueError(f"no matrix 'groundtruth' of matching size among {shapes}")
        pixels = loadmat(io.BytesIO(data), variable_names=["groundtruth"])["groundtruth"]
        if pixels.dtype.kind not in "ui" or not 0 <= pixels.min() <= pixels.max() < labels:
            raise ValueError(f"'groundtruth' has values outside 0 to {labels - 1}")
        return pixels.astype(np.uint8, copy=False)
    except ValueError:
        raise
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
