"""Images with instance masks: COCO JSON (Fashionpedia, ModaNet), or run lengths (iMaterialist)."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import cut_short, note_partial, require
from modiste.data.masks import (
    COSTLY_MASKS,
    MAX_COST,
    NO_ANNOTATION,
    UNREADABLE_MASK,
    Mask,
    Shape,
    as_image,
    fit,
    no_such_part,
    part_of,
    wearing,
)
from modiste.data.sources import MAX_PIXELS, WHOLE, FolderImages, ImageSource, ZipImages
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

Shapes = Sequence[tuple[str, Shape]]
ELSEWHERE = "If the images are elsewhere, set data.catalogue.images to their folder or zip file."
ONE_SPLIT = "To skip a split, set data.catalogue.annotations.SPLIT=null."


@dataclass
class Photo:
    """An image with its annotations.

    Attributes:
        ref: ``<split>/<file name>``.
        size: Width and height in the annotations.
        parts: Part → whether it is worn, not a detail of a garment.
        shapes: (part, segmentation) of each instance.
        boxes: ``{"part": …, "box": [x, y, width, height]}`` of each instance with a box.
        attributes: Distinct names, as keys.
        problem: Reason for excluding the row, or None.
    """

    ref: str
    size: tuple[int, int]
    parts: dict[str, bool] = field(default_factory=dict)
    shapes: list[tuple[str, Shape]] = field(default_factory=list)
    boxes: list[dict[str, Any]] = field(default_factory=list)
    attributes: dict[str, None] = field(default_factory=dict)
    problem: str | None = None

    @property
    def split(self) -> str:
        return self.ref.partition("/")[0]

    def text(self) -> str:
        """Caption of the worn parts, or of the details if nothing else is annotated."""
        return wearing([part for part, worn in self.parts.items() if worn] or list(self.parts))


class MaskedImages:
    """Images and the masks of their instances; a reference is ``<split>/<file name>``.

    Args:
        sources: Split → source of its images.
        shapes: Reference → (part, segmentation) of each instance.
        sizes: Reference → width and height in the annotations.
    """

    def __init__(
        self,
        sources: Mapping[str, ImageSource],
        shapes: Mapping[str, Shapes],
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        self.sources, self.shapes, self.sizes = dict(sources), dict(shapes), dict(sizes)

    def read(self, ref: str) -> Image.Image:
        """Read the RGB image."""
        split, _, name = ref.partition("/")
        return self.sources[split].read(name)

    def parts(self, ref: str) -> list[str]:
        """Parts that have a mask on the image."""
        return list(dict.fromkeys(part for part, _ in self.shapes[ref]))

    def read_mask(self, ref: str, part: str = WHOLE) -> Image.Image:
        """Union of the masks of ``part``, or of all parts (``whole``): mode L, 255 inside and 0 outside.

        Raises:
            ModisteError: The image has no such part, or its proportions differ from the annotation's.
        """
        shapes = [shape for name, shape in self.shapes[ref] if part in (name, WHOLE)]
        if not shapes:
            raise no_such_part(ref, part, [WHOLE, *self.parts(ref)])
        width, height = self.sizes[ref]
        mask: Mask = np.zeros((height, width), dtype=bool)
        for shape in shapes:
            mask |= shape.fill(height, width)
        return fit(as_image(mask), self.read(ref).size, ref)

    def identity(self, refs: list[str]) -> str:
        """See `modiste.data.sources.ImageSource`."""
        names: dict[str, list[str]] = {}
        for split, _, name in (ref.partition("/") for ref in refs):
            names.setdefault(split, []).append(name)
        return "|".join(f"{split}:{self.sources[split].identity(found)}" for split, found in names.items())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Names:
    """Names of categories and attributes.

    Attributes:
        parts: Category id → (part, whether it is worn).
        attributes: Attribute id → name.
    """

    parts: Mapping[int, tuple[str, bool]]
    attributes: Mapping[int, str]

    @classmethod
    def read(cls, content: Mapping[str, Any], parts: Mapping[str, Sequence[str]], unworn: Collection[str]) -> Names:
        """Read the ``categories`` and ``attributes`` of a file.

        Args:
            content: The content of the JSON file.
            parts: See `Coco`.
            unworn: See `Coco`.

        Raises:
            ModisteError: A category of ``parts`` is unknown or in two parts.
        """
        categories = content["categories"]
        joined = part_of(parts, [category["name"] for category in categories])
        found = {
            category["id"]: (
                joined.get(category["name"]) or plain(category["name"]),
                category.get("supercategory") not in unworn,
            )
            for category in categories
        }
        return cls(found, {entry["id"]: plain(entry["name"]) for entry in content.get("attributes", [])})

    def add(self, photo: Photo, category: int, attributes: Sequence[int]) -> str:
        """Add the category and attributes of an instance to ``photo``; return the part."""
        part, worn = self.parts[category]
        photo.parts.setdefault(part, worn)
        photo.attributes |= dict.fromkeys(self.attributes[attribute] for attribute in attributes)
        return part


def plain(name: str) -> str:
    """Replace the commas of a name by "or", so that it can be part of a list.

    >>> plain("top, t-shirt, sweatshirt")
    'top or t-shirt or sweatshirt'
    """
    return " or ".join(part.strip() for part in name.split(","))


@dataclass(frozen=True)
class Coco:
    """Read instance annotations in COCO's JSON format, with Fashionpedia's ``attribute_ids`` if present.

    One row per image: text = what is worn, from the annotated parts; attributes ``categories`` (the parts) and
    ``attributes``, joined by ", "; ``boxes`` = JSON ``[{"part", "box": [x, y, width, height]}]`` in pixels of the
    annotated size. The mask of a part is the union of its instances, ``whole`` the union of all.

    Attributes:
        path: Folder that the other paths are relative to.
        annotations: Split → JSON file; null skips the split.
        images: Split → folder or zip file of its images.
        card: Fields of `Card`; ``expected`` counts the images of each split.
        parts: Part → categories that it merges; each other category is a part under its own name.
        unworn: Supercategories of details such as zippers, which the text does not mention as worn.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or damaged, or a category of ``parts`` is unknown or in two parts.
    """

    path: str
    annotations: Mapping[str, str | None]
    images: Mapping[str, str]
    card: Mapping[str, Any]
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unworn: Sequence[str] = ()
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root, card = Path(self.path), Card(**self.card)
        files = {split: file for split, file in self.annotations.items() if file}
        absent = [split for split in files if split not in self.images]
        if absent or not files:
            where = f"images.{absent[0]}" if absent else "annotations"
            raise ModisteError(f"data.catalogue.{where} is empty: set it to a file or folder.")
        folders = {split: self.images[split] for split in files}
        require(card, root, [*files.values(), *folders.values()], f"{ELSEWHERE} {ONE_SPLIT}")
        photos = {split: self._photos(root / file, split, card) for split, file in files.items()}
        sources = {split: _images(root / folders[split], photos[split], card) for split in files}
        published = {name: n for name, n in card.expected.items() if name in files or name not in self.annotations}
        everything = [photo for part in photos.values() for photo in part]
        return build(replace(card, expected=published), everything, sources, self.max_bad)

    def _photos(self, file: Path, split: str, card: Card) -> list[Photo]:
        content = _read_json(file, card)
        _check_keys(content, ("images", "annotations", "categories"), file)
        names = Names.read(content, self.parts, self.unworn)
        photos = {
            image["id"]: Photo(f"{split}/{image['file_name']}", (int(image["width"]), int(image["height"])))
            for image in content["images"]
        }
        try:
            for annotation in content["annotations"]:
                _add_instance(photos[annotation["image_id"]], annotation, names)
        except KeyError as error:
            problem = f"an annotation refers to an unlisted image, category or attribute: {error}"
            raise cut_short(card, file, problem) from None
        return list(photos.values())


def _add_instance(photo: Photo, annotation: Mapping[str, Any], names: Names) -> None:
    part = names.add(photo, annotation["category_id"], annotation.get("attribute_ids") or [])
    shape = annotation.get("segmentation")
    if isinstance(shape, str):
        photo.problem = shape
    elif shape is not None:
        photo.shapes.append((part, shape))
    if annotation.get("bbox"):
        photo.boxes.append({"part": part, "box": annotation["bbox"]})


def _read_json(file: Path, card: Card) -> Any:
    """Read a file, with every segmentation converted to a `Shape`, None (no mask) or a problem as text.

    The conversion happens while parsing, since lists of numbers take ten times the memory.
    """
    try:
        return json.loads(file.read_bytes(), object_hook=_pack)
    except (ValueError, RecursionError) as error:
        raise cut_short(card, file, str(error)) from None


def _pack(record: dict[str, Any]) -> dict[str, Any]:
    if isinstance(record.get("counts"), list):
        with suppress(ValueError, TypeError, OverflowError):  # an array of text would take its longest cell per number
            record["counts"] = np.asarray(record["counts"], dtype=np.int64)
    if record.get("segmentation") is not None:
        try:
            record["segmentation"] = Shape.from_coco(record["segmentation"])
        except (ValueError, TypeError, OverflowError):
            record["segmentation"] = UNREADABLE_MASK
    return record


@dataclass(frozen=True)
class RunLengths:
    """Read iMaterialist (Fashion), 2019 at FGVC6 or 2020 at FGVC7, whose table has one row per instance.

    The table has ``ImageId, EncodedPixels, Height, Width, ClassId``; attribute ids follow the class (2019: ``ClassId``
    = 6_100_200) or are in ``AttributesIds`` (2020: 115,136). The catalogue is as in `Coco`, without boxes, and all rows
    are in split "train".

    Attributes:
        path: Folder of the competition's files.
        card: Fields of `Card`.
        table: Name of the table.
        labels: Name of the JSON file with ``categories`` and ``attributes``.
        images: Folder or zip file of the images.
        parts: As in `Coco`.
        unworn: As in `Coco`.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or damaged, or a category of ``parts`` is unknown or in two parts.
    """

    path: str
    card: Mapping[str, Any]
    table: str = "train.csv"
    labels: str = "label_descriptions.json"
    images: str = "train"
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unworn: Sequence[str] = ()
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root, card = Path(self.path), Card(**self.card)
        require(card, root, [self.table, self.labels, self.images], ELSEWHERE)
        labels = _read_json(root / self.labels, card)
        _check_keys(labels, ("categories",), root / self.labels)
        photos = _read_runs(root / self.table, Names.read(labels, self.parts, self.unworn), card)
        return build(card, photos, {"train": _images(root / self.images, photos, card)}, self.max_bad)


def _read_runs(file: Path, names: Names, card: Card) -> list[Photo]:
    photos: dict[str, Photo] = {}
    csv.field_size_limit(sys.maxsize)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        missing = {"ImageId", "EncodedPixels", "Height", "Width", "ClassId"} - set(rows.fieldnames or [])
        if missing:
            raise ModisteError(f"{file} has no column {min(missing)}: it is not the iMaterialist (Fashion) table.")
        try:
            for row in rows:
                _add_run(photos, row, names)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problem = f"line {rows.line_num} has no size, or an unlisted class or attribute: {error}"
            raise cut_short(card, file, problem) from None
    return list(photos.values())


def _add_run(photos: dict[str, Photo], row: Mapping[str, str], names: Names) -> None:
    name = row["ImageId"]
    if name not in photos:
        file = name if PurePosixPath(name).suffix else f"{name}.jpg"
        photos[name] = Photo(f"train/{file}", (int(float(row["Width"])), int(float(row["Height"]))))
    photo = photos[name]
    category, *attributes = (int(number) for number in row["ClassId"].split("_"))
    attributes += [int(number) for number in (row.get("AttributesIds") or "").split(",") if number]
    part = names.add(photo, category, attributes)
    width, height = photo.size
    try:
        photo.shapes.append((part, Shape.from_kaggle(row["EncodedPixels"] or "", height, width)))
    except (ValueError, OverflowError):
        photo.problem = UNREADABLE_MASK


def _size_problem(photo: Photo) -> str | None:
    """Reason not to draw a photo's masks, which have the size of its annotations; or None."""
    width, height = photo.size
    if min(photo.size) <= 0 or width * height > MAX_PIXELS:
        return "impossible size in the annotations"
    return COSTLY_MASKS if sum(shape.cost(height, width) for _, shape in photo.shapes) > MAX_COST else None


def build(
    card: Card, photos: Sequence[Photo], sources: Mapping[str, ImageSource], max_bad: BadRows | None
) -> Catalogue:
    """Build the catalogue of ``photos`` (see `Coco`); warn if there are fewer than ``card`` expects."""
    refs = [photo.ref for photo in photos]
    columns: dict[str, list[str]] = {
        "product_id": [PurePosixPath(ref).stem for ref in refs],
        "image": refs,
        "text": [photo.text() for photo in photos],
        "split": [photo.split for photo in photos],
        "mask": refs,
        "categories": [", ".join(photo.parts) for photo in photos],
    }
    if any(photo.attributes for photo in photos):
        columns["attributes"] = [", ".join(photo.attributes) for photo in photos]
    if any(photo.boxes for photo in photos):
        columns["boxes"] = [json.dumps(photo.boxes) for photo in photos]
    images = MaskedImages(
        sources, {photo.ref: photo.shapes for photo in photos}, {photo.ref: photo.size for photo in photos}
    )
    problems = [photo.problem or _size_problem(photo) or (None if photo.parts else NO_ANNOTATION) for photo in photos]
    return note_partial(Catalogue.build(card, columns, images, max_bad, problems))


def _images(path: Path, photos: Sequence[Photo], card: Card) -> ImageSource:
    """Open the folder or zip file of the images, which may lie in a subfolder of the zip file."""
    if path.is_dir():
        return FolderImages(path)
    source = ZipImages(path)
    try:
        members = source.archive.namelist()
    except zipfile.BadZipFile as error:
        raise cut_short(card, path, str(error)) from None
    names = {PurePosixPath(photo.ref).name: photo.ref.partition("/")[2] for photo in photos}
    for member in members:
        name = names.get(PurePosixPath(member).name)
        if name and member.endswith(name):
            source.prefix = member.removesuffix(name)
            break
    return source


def _check_keys(content: Any, keys: Sequence[str], file: Path) -> None:
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ModisteError(
                f"{file} has no list '{key}': it is not a labelled annotation file in COCO format; remove it."
            )
