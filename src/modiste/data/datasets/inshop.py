"""DeepFashion In-shop Clothes Retrieval: 52,712 images of 7,982 items, with query and gallery."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import chosen, cut_short, note_partial, read_counted, read_json, require
from modiste.data.sources import FolderImages
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

CARD = Card(
    name="inshop",
    title="DeepFashion: In-shop Clothes Retrieval Benchmark",
    licence="non-commercial research and education only; by agreement with MMLab, The Chinese University of Hong Kong",
    citation="Z. Liu, P. Luo, S. Qiu, X. Wang, X. Tang, DeepFashion: Powering Robust Clothes Recognition and Retrieval "
    "with Rich Annotations, CVPR 2016",
    homepage="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    expected={"images": 52712, "products": 7982},
    download="Download the folder 'In-shop Clothes Retrieval Benchmark' from DeepFashion's page and unpack Img/img.zip "
    "(or img_highres.zip) in its folder: Eval/list_eval_partition.txt, Img/img/WOMEN/….",
)
PARTITION = "Eval/list_eval_partition.txt"
DESCRIPTIONS = "Anno/list_description_inshop.json"
IMAGES = ("img", "img_highres")
SPLITS = ("train", "query", "gallery")
PATH = re.compile(r"img/(?P<gender>[^/]+)/(?P<category>[^/]+)/[^/]+/[^/]+")


@dataclass(frozen=True)
class InShop:
    """Read the benchmark, with splits train, query and gallery.

    product_id = item id; the path gives gender and category.

    text = the item's description if ``Anno/list_description_inshop.json`` has one, otherwise gender and category
    ("women blouses shirts"). Optional attributes, if their files exist (in ``Anno/attributes``, or in ``Anno`` in early
    releases): ``color`` of the image, and ``attributes`` of the item, those labelled 1, joined by ", ".

    Attributes:
        path: Folder with ``Eval``, ``Img`` and optionally ``Anno``.
        images: Folder in ``Img``: ``img`` (256×256) or ``img_highres``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: The partition or the images are missing, a list is truncated or malformed, or ``images`` is
            unknown.
    """

    path: str
    images: str = "img"
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root = Path(self.path)
        chosen("images", [self.images], IMAGES)
        require(CARD, root, [PARTITION, f"Img/{self.images}"])
        names, items, splits = self._partition(root)
        paths = [PATH.fullmatch(name) for name in names]
        if not all(paths):
            raise cut_short(CARD, root / PARTITION, f"not an image path: {names[paths.index(None)]}")
        genders, categories = ([path[part] for path in paths if path] for part in ("gender", "category"))
        described = _descriptions(root)
        fallback = [f"{g} {c.replace('_', ' ')}".lower() for g, c in zip(genders, categories, strict=True)]
        columns = {
            "product_id": items,
            "image": [self.images + name.removeprefix("img") for name in names],
            "text": [described.get(item) or words for item, words in zip(items, fallback, strict=True)],
            "split": splits,
            "gender": genders,
            "category": categories,
        }
        colors, attributes = _colors(root), _attributes(root)
        if colors:
            columns["color"] = [colors.get(name, "") for name in names]
        if attributes:
            columns["attributes"] = [attributes.get(item, "") for item in items]
        return note_partial(Catalogue.build(CARD, columns, FolderImages(root / "Img"), self.max_bad))

    def _partition(self, root: Path) -> tuple[list[str], list[str], list[str]]:
        rows = [line.split() for line in read_counted(CARD, root / PARTITION)]
        wrong = next((row for row in rows if len(row) != 3 or row[2] not in SPLITS), None)
        if wrong or not rows:
            raise cut_short(CARD, root / PARTITION, f"not a row of image, item and status: {' '.join(wrong or [])}")
        names, items, splits = zip(*rows, strict=True)
        return list(names), list(items), list(splits)


def _descriptions(root: Path) -> dict[str, str]:
    """Item → description, with its paragraphs joined; the first entry of an item counts."""
    if not (root / DESCRIPTIONS).is_file():
        return {}
    described: dict[str, str] = {}
    for entry in read_json(CARD, root / DESCRIPTIONS, list):
        paragraphs = entry.get("description") or []
        text = paragraphs if isinstance(paragraphs, str) else " ".join(paragraphs)
        described.setdefault(str(entry.get("item")), " ".join(text.split()))
    return described


def _annotation(root: Path, name: str) -> Path | None:
    return next((path for folder in ("attributes", "") if (path := root / "Anno" / folder / name).is_file()), None)


def _colors(root: Path) -> dict[str, str]:
    """Image → colour."""
    path = _annotation(root, "list_color_cloth.txt")
    pairs = [line.split(maxsplit=1) for line in read_counted(CARD, path)] if path else []
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _attributes(root: Path) -> dict[str, str]:
    """Item → its positive attributes, joined by ", "."""
    names_file, items_file = _annotation(root, "list_attr_cloth.txt"), _annotation(root, "list_attr_items.txt")
    if names_file is None or items_file is None:
        return {}
    names = [line.strip() for line in read_counted(CARD, names_file)]
    found: dict[str, str] = {}
    for item, *labels in (line.split() for line in read_counted(CARD, items_file)):
        if len(labels) != len(names):
            raise ModisteError(
                f"{items_file}: {item} has {len(labels)} labels, but {names_file.name} has {len(names)} names."
            )
        found[item] = ", ".join(name for name, label in zip(names, labels, strict=True) if label == "1")
    return found
