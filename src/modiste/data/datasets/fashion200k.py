"""Fashion200k: about 200,000 captioned product images from Lyst, women's clothing in five categories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import cut_short, note_partial, read_lines, require
from modiste.data.sources import FolderImages
from modiste.utils.ranges import BadRows

CARD = Card(
    name="fashion200k",
    title="Fashion200k",
    licence="none stated; research use, the photographs are their shops'",
    citation="X. Han, Z. Wu, P. X. Huang, X. Zhang, M. Zhu, Y. Li, Y. Zhao, L. S. Davis, Automatic Spatially-aware "
    "Fashion Concept Discovery, ICCV 2017",
    homepage="https://github.com/xthan/fashion-200k",
    expected={"images": 201824},  # different paths in the ten label files
    download="Download labels and women.tar.gz from the drive that github.com/xthan/fashion-200k names, and unpack "
    "both into one folder: labels/*_detect_all.txt, women/….",
)
CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Fashion200k:
    """Read the label files (``path <tab> detection score <tab> caption``) and the crops below ``women``.

    product_id = the folder of the image; ``category`` and ``subcategory`` are the folders above it. The splits are the
    official train and test.

    Attributes:
        path: Folder with ``labels`` and ``women``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or truncated.
    """

    path: str
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root = Path(self.path)
        files = {f"labels/{word}_{split}_detect_all.txt": split for split in SPLITS for word in CATEGORIES}
        require(CARD, root, ["women", *files])
        columns: dict[str, list[str]] = {
            name: [] for name in ("image", "text", "split", "category", "subcategory", "product_id")
        }
        for file, split in files.items():
            for line in read_lines(root / file):
                cells, parts = line.split("\t", 2), line.split("\t")[0].split("/")
                if len(cells) != 3 or len(parts) != 5:
                    raise cut_short(CARD, root / file, f"not a path, score and caption: {line[:100]}")
                row = (cells[0], cells[2], split, *parts[1:4])
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
        return note_partial(Catalogue.build(CARD, columns, FolderImages(root), self.max_bad))
