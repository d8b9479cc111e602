"""Garments cropped from CCP's street photos, cut out on white or with their surroundings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from modiste.data.catalogue import Catalogue
from modiste.data.datasets import ccp
from modiste.data.masks import UNREADABLE_MASK, part_of
from modiste.data.sources import WHOLE
from modiste.data.splits import assign
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.ranges import BadRows

CARD = replace(ccp.CARD, name="ccp_garments", title="Garments of Clothing Co-Parsing", expected={})
WHITE, PHOTO = "white", "photo"
HALVES = {"val": 0.5, "test": 0.5}  # and seed 0: conf/data/ccp.yaml
SEPARATOR = "#"  # between annotation and part in a reference


@dataclass(frozen=True)
class GarmentImages:
    """Garments; a reference is the annotation's path in the repository, ``#`` and the part.

    Attributes:
        photos: The photos and their masks.
        background: See `CcpGarments`.
    """

    photos: ccp.CcpImages
    background: str = WHITE

    def read(self, ref: str) -> Image.Image:
        """Read a garment, cropped to its bounding box, RGB. Raises OSError or ValueError as `CcpImages` does."""
        annotation, _, part = ref.partition(SEPARATOR)
        photo, mask = self.photos.read(ccp.photo_of(annotation)), self.photos.read_mask(annotation, part)
        if self.background == PHOTO:
            return photo.crop(mask.getbbox())
        return Image.composite(photo, Image.new("RGB", photo.size, "white"), mask).crop(mask.getbbox())

    def identity(self, refs: list[str]) -> str:
        """See `modiste.data.sources.ImageSource`."""
        annotations = sorted({ref.partition(SEPARATOR)[0] for ref in refs})
        files = self.photos.identity([*annotations, *map(ccp.photo_of, annotations)])
        parts = json.dumps(self.photos.numbers, sort_keys=True)
        background = f"|{self.background}" if self.background != WHITE else ""
        return hashlib.sha256(f"{files}|{parts}{background}".encode()).hexdigest()


@dataclass(frozen=True)
class CcpGarments:
    """Read the garments of CCP: one row per garment that is large enough in a photo.

    product_id = photo number and part, text = attribute ``garment`` = part, split = that of the photo in ``data=ccp``:
    a recipe chosen on the val split of one has seen no test photo of the other.

    Attributes:
        path: A checkout of the repository, or a zip file of it.
        parts: Part → labels that it merges; other labels are ignored.
        least: Minimum fraction of the photo that a garment covers.
        background: ``white``: cut out by the mask, on white; ``photo``: the unmasked bounding box. The latter is a
            separate data set, ``ccp_garments_photo``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: ``path`` has no such data; a label does not exist or is in two parts; a part has no label or is
            called ``whole``; ``background`` is unknown; ``least`` is outside [0, 1], or no garment is that large.
    """

    path: str
    parts: Mapping[str, Sequence[str]]
    least: float = 0.01
    background: str = WHITE
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        if self.background not in (WHITE, PHOTO):
            hint = did_you_mean(self.background, (WHITE, PHOTO))
            raise ModisteError(f"data.catalogue.background={self.background} is unknown. {hint}")
        if not 0 <= self.least <= 1:
            raise ModisteError(f"data.catalogue.least={self.least:g} must lie between 0 and 1.")
        if not self.parts or not all(self.parts.values()) or WHOLE in self.parts:
            raise ModisteError(
                f"data.catalogue.parts needs at least one part, each with labels, none called '{WHOLE}': "
                "{coat: [coat], bag: [bag, purse]}."
            )
        files, annotations = ccp.open_files(Path(self.path))
        labels = ccp.read_label_list(files.read_bytes(ccp.LABELS), self.path)
        part_of(self.parts, labels)
        numbers = {part: [labels.index(name) for name in names] for part, names in self.parts.items()}
        photos = ccp.CcpImages(files, numbers, len(labels))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            looks = list(pool.map(lambda annotation: self._garments(photos, annotation), annotations))
        return self._build(photos, [row for rows in looks for row in rows])

    def _garments(self, photos: ccp.CcpImages, annotation: str) -> list[tuple[str, str, str | None]]:
        """Annotation, part and problem (or None) of each garment of a photo."""
        try:
            pixels = photos.pixel_labels(annotation)
        except (OSError, ValueError):
            return [(annotation, "", UNREADABLE_MASK)]
        problem = ccp.size_problem(photos, annotation, pixels)
        counts = np.bincount(pixels.ravel(order="K"), minlength=photos.labels)
        shares = {part: counts[numbers].sum() / pixels.size for part, numbers in photos.numbers.items()}
        return [(annotation, part, problem) for part, share in shares.items() if 0 < share >= self.least]

    def _build(self, photos: ccp.CcpImages, rows: list[tuple[str, str, str | None]]) -> Catalogue:
        if not rows:
            raise ModisteError(f"No photo shows a garment on {self.least:g} of its area: lower data.catalogue.least.")
        parts = [part for _, part, _ in rows]
        stems = [PurePosixPath(annotation).stem for annotation, *_ in rows]
        splits = assign(stems, HALVES, seed=0)
        columns = {
            "product_id": [f"{stem} {part}".strip() for stem, part in zip(stems, parts, strict=True)],
            "image": [f"{annotation}{SEPARATOR}{part}" for annotation, part, _ in rows],
            "text": [part or "unknown" for part in parts],  # rows without a part have an unreadable mask
            "garment": parts,
            "split": [splits[stem] for stem in stems],
        }
        card = CARD if self.background == WHITE else replace(CARD, name=f"{CARD.name}_{self.background}")
        images = GarmentImages(photos, self.background)
        return Catalogue.build(card, columns, images, self.max_bad, [problem for *_, problem in rows])
