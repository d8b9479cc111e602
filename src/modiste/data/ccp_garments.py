"""Single garments cut out of CCP's street photos along its pixel labels, each on white as a catalogue shows it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from modiste.data import ccp
from modiste.data.catalogue import Catalogue
from modiste.data.masks import UNREADABLE_MASK, part_of
from modiste.errors import ModisteError

CARD = replace(ccp.CARD, name="ccp_garments", title="Garments of Clothing Co-Parsing", expected={})
SEPARATOR = "#"  # between the annotation and the part in a reference


@dataclass(frozen=True)
class GarmentImages:
    """Garments on white; a reference is the annotation's path in the repository, ``#`` and the part.

    Attributes:
        photos: The photos and their masks.
    """

    photos: ccp.CcpImages

    def read(self, ref: str) -> Image.Image:
        """The garment in its bounding box, RGB. Raises OSError or ValueError as `CcpImages`."""
        annotation, _, part = ref.rpartition(SEPARATOR)
        photo, mask = self.photos.read(photo_of(annotation)), self.photos.read_mask(annotation, part)
        if photo.size != mask.size:
            raise ValueError(f"{annotation} is of another size than its photo")
        white = Image.new("RGB", photo.size, "white")
        return Image.composite(photo, white, mask).crop(mask.getbbox())

    def identity(self, refs: list[str]) -> str:
        """See `modiste.data.sources.ImageSource`."""
        files = sorted({path for ref in refs for path in (annotation_of(ref), photo_of(annotation_of(ref)))})
        parts = json.dumps(self.photos.numbers, sort_keys=True)
        return hashlib.sha256(f"{self.photos.identity(files)}|{parts}".encode()).hexdigest()


@dataclass(frozen=True)
class CcpGarments:
    """Reads the garments of CCP: one row a part that a photo shows large enough.

    product_id = the photo's number and the part, text = attribute ``garment`` = the part.

    Attributes:
        path: A checkout of the repository, or a zip file of it.
        parts: Part → the labels that it joins; labels that are in none are left out.
        least: Smallest share of the photo that a part must cover.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: There is nothing of the kind at ``path``, a label does not exist or is in two parts, ``least`` is
            outside [0, 1], or no photo shows a part so large.
    """

    path: str
    parts: Mapping[str, Sequence[str]]
    least: float = 0.01
    max_bad: int | float | None = None

    def __call__(self) -> Catalogue:
        if not 0 <= self.least <= 1:
            raise ModisteError(f"data.catalogue.least={self.least:g} must lie between 0 and 1.")
        files, annotations = ccp.open_files(Path(self.path))
        labels = ccp.read_label_list(files.read_bytes(ccp.LABELS), self.path)
        part_of(self.parts, labels)
        numbers = {part: [labels.index(name) for name in names] for part, names in self.parts.items()}
        photos = ccp.CcpImages(files, numbers, len(labels))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            looks = list(pool.map(lambda annotation: self._garments(photos, annotation), annotations))
        return self._build(photos, (row for rows in looks for row in rows))

    def _garments(self, photos: ccp.CcpImages, annotation: str) -> list[tuple[str, str, str | None]]:
        """Annotation, part and what is wrong with it, of each garment of a photo."""
        try:
            pixels = photos.pixel_labels(annotation)
        except (OSError, ValueError):
            return [(annotation, "", UNREADABLE_MASK)]
        counts = np.bincount(pixels.ravel(order="K"), minlength=photos.labels)
        large = [part for part, numbers in photos.numbers.items() if counts[numbers].sum() >= self.least * pixels.size]
        return [(annotation, part, None) for part in photos.present(pixels) if part in large]

    def _build(self, photos: ccp.CcpImages, found: Iterable[tuple[str, str, str | None]]) -> Catalogue:
        rows = list(found)
        if not rows:
            raise ModisteError(f"No photo shows a garment on {self.least:g} of its area: lower data.catalogue.least.")
        parts = [part for _, part, _ in rows]
        columns = {
            "product_id": [f"{PurePosixPath(name).stem} {part}".strip() for name, part, _ in rows],
            "image": [f"{name}{SEPARATOR}{part}" for name, part, _ in rows],
            "text": [part or "unknown" for part in parts],  # a row without is left out for its mask
            "garment": parts,
        }
        return Catalogue.build(CARD, columns, GarmentImages(photos), self.max_bad, [problem for *_, problem in rows])


def annotation_of(ref: str) -> str:
    """The annotation of a reference."""
    return ref.rpartition(SEPARATOR)[0]


def photo_of(annotation: str) -> str:
    """The photo that an annotation belongs to.

    >>> photo_of("annotations/pixel-level/0001.mat")
    'photos/0001.jpg'
    """
    return f"{ccp.PHOTOS}{PurePosixPath(annotation).stem}.jpg"
