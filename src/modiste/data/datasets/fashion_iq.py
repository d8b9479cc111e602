"""FashionIQ: images of three categories, and captions of the difference of two (task ``composed``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import chosen, note_partial, read_json, require
from modiste.data.sources import FolderImages
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

CARD = Card(
    name="fashion_iq",
    title="FashionIQ",
    licence="CDLA-Permissive-1.0 for captions and lists; the photographs are Amazon's and their sellers'",
    citation="H. Wu, Y. Gao, X. Guo, Z. Al-Halah, S. Rennie, K. Grauman, R. Feris, Fashion IQ: A New Dataset Towards "
    "Retrieving Images by Natural Language Feedback, CVPR 2021",
    homepage="https://github.com/XiaoxiaoGuo/fashion-iq",
    expected={"rows": 15536},  # of the validation lists: dress 3,817, shirt 6,346, toptee 5,373
    download="Put captions and image_splits of github.com/XiaoxiaoGuo/fashion-iq, and the images of its asin2url "
    "lists, into one folder: image_splits/split.dress.val.json, …, images/<ASIN>.jpg.",
)
CATEGORIES = {"dress": "dress", "shirt": "shirt", "toptee": "top"}
SPLITS = ("val", "train", "test")
SUFFIXES = (".jpg", ".png", ".jpeg")


@dataclass(frozen=True)
class FashionIQ:
    """Read the image lists: one row per (category, image).

    product_id = ASIN; text = "a dress", "a shirt" or "a top".

    121 validation images are in the lists of both shirt and toptee; each gives two rows of one product. Images with
    dead links are missing; their rows are skipped and counted.

    Attributes:
        path: Folder with ``image_splits`` and ``images`` (``<ASIN>.jpg`` or ``.png``, also in one folder per category).
        splits: Lists to read. With ``test``, data/split=given excludes the val images that are also in test.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A split is unknown, or a list or every image is missing.
    """

    path: str
    splits: Sequence[str] = ("val",)
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root = Path(self.path)
        splits = chosen("splits", self.splits, SPLITS)
        files = {(c, s): f"image_splits/split.{c}.{s}.json" for s in splits for c in CATEGORIES}
        require(CARD, root, list(files.values()), remedy="Or read fewer: data.catalogue.splits=[val].")
        if not (root / "images").is_dir():
            raise ModisteError(f"{root} has the lists but no folder 'images'. {CARD.download}")
        lists = {key: read_json(CARD, root / file, list) for key, file in files.items()}
        rows = [(category, split, asin) for (category, split), asins in lists.items() for asin in asins]
        columns = {
            "product_id": [asin for _, _, asin in rows],
            "image": [f"{category}/{asin}" for category, _, asin in rows],
            "text": [f"a {CATEGORIES[category]}" for category, _, _ in rows],
            "split": [split for _, split, _ in rows],
            "category": [category for category, _, _ in rows],
        }
        return note_partial(Catalogue.build(CARD, columns, AsinImages(root / "images"), self.max_bad))


class AsinImages(FolderImages):
    """Images named by ASIN, in one folder or one per category; a reference is ``<category>/<ASIN>``.

    The category distinguishes the rows of an image that is in the lists of two categories.
    """

    def path(self, ref: str) -> Path:
        asin = ref.rpartition("/")[2]
        candidates = (stem + suffix for stem in (ref, asin) for suffix in SUFFIXES)
        name = next((name for name in candidates if name in self._present), asin + SUFFIXES[0])
        return super().path(name)

    @cached_property
    def _present(self) -> frozenset[str]:
        """Files present, listed once instead of one lookup per image, since many images may be missing."""
        folders = (self.root, *(self.root / category for category in CATEGORIES))
        files = (file for folder in folders if folder.is_dir() for file in folder.iterdir())
        return frozenset(file.relative_to(self.root).as_posix() for file in files)
