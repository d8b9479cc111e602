"""DeepFashion-MultiModal: 44,096 captioned photos of people, labelled with shape, fabric and pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue
from modiste.data.download import cut_short, note_partial, read_json, read_lines, require
from modiste.data.sources import FolderImages
from modiste.utils.ranges import BadRows

CARD = Card(
    name="multimodal",
    title="DeepFashion-MultiModal",
    licence="non-commercial research only; no redistribution (LICENSE of its repository)",
    citation="Y. Jiang, S. Yang, H. Qiu, W. Wu, C. C. Loy, Z. Liu, Text2Human: Text-Driven Controllable Human Image "
    "Generation, ACM Transactions on Graphics 41(4):162, 2022",
    homepage="https://github.com/yumingj/DeepFashion-MultiModal",
    expected={"rows": 44096},
    download="Download image, labels and textual descriptions from github.com/yumingj/DeepFashion-MultiModal and "
    "unpack them into one folder: images/*.jpg, labels/shape, labels/texture, captions.json.",
)
SHAPE = {  # attribute → its classes, in the order of the columns of shape_anno_all.txt; NA: the part is not visible
    "sleeve_length": ("sleeveless", "short-sleeve", "medium-sleeve", "long-sleeve", "not long-sleeve", "NA"),
    "lower_length": ("three-point", "medium short", "three-quarter", "long", "NA"),
    "socks": ("no", "socks", "leggings", "NA"),
    "hat": ("no", "yes", "NA"),
    "glasses": ("no", "eyeglasses", "sunglasses", "in hand or on clothes", "NA"),
    "neckwear": ("no", "yes", "NA"),
    "wrist_wearing": ("no", "yes", "NA"),
    "ring": ("no", "yes", "NA"),
    "waist_accessories": ("no", "belt", "clothing", "hidden", "NA"),
    "neckline": ("V-shape", "square", "round", "standing", "lapel", "suspenders", "NA"),
    "cardigan": ("yes", "no", "NA"),
    "covers_navel": ("no", "yes", "NA"),
}
# Two versions of the data set's README number the necklines differently; only this one has a class 7.
NECKLINE_WITH_7 = ("V-shape", "square", "round", "", "standing", "lapel", "suspenders", "NA")
FABRICS = ("denim", "cotton", "leather", "furry", "knitted", "chiffon", "other", "NA")
PATTERNS = ("floral", "graphic", "striped", "pure color", "lattice", "other", "color block", "NA")
FILES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "labels/shape/shape_anno_all.txt": SHAPE,
    "labels/texture/fabric_ann.txt": {f"{part}_fabric": FABRICS for part in ("upper", "lower", "outer")},
    "labels/texture/pattern_ann.txt": {f"{part}_pattern": PATTERNS for part in ("upper", "lower", "outer")},
}
NAME = re.compile(r"(?P<gender>[^-]+)-(?P<category>[^-]+)-(?P<product_id>id_\d+)-.+")


@dataclass(frozen=True)
class MultiModal:
    """Read captions and 18 labels; product_id, gender and category come from the file name.

    Every image with a caption or a label is a row; rows without a caption are skipped and counted. The label of an
    invisible part is "NA"; an image without labels has "".

    Attributes:
        path: Folder with ``captions.json``, ``images`` and ``labels``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: A file is missing or truncated, has an undefined class, or a file name has another form.
    """

    path: str
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        root = Path(self.path)
        require(CARD, root, ["captions.json", "images", *FILES])
        captions = read_json(CARD, root / "captions.json", dict)
        labels = {file: read_labels(root / file, classes) for file, classes in FILES.items()}
        names = list(dict.fromkeys([*captions, *(name for found in labels.values() for name in found)]))
        parsed = [NAME.fullmatch(name) for name in names]
        if not all(parsed):
            raise cut_short(CARD, root, f"{names[parsed.index(None)]} is not of the form WOMEN-Dresses-id_…")
        columns = {part: [match[part] for match in parsed if match] for part in NAME.groupindex}
        columns |= {"image": names, "text": [captions.get(name, "") for name in names]}
        for file, classes in FILES.items():
            nothing = [""] * len(classes)
            cells = [labels[file].get(name, nothing) for name in names]
            columns |= {attribute: [row[i] for row in cells] for i, attribute in enumerate(classes)}
        return note_partial(Catalogue.build(CARD, columns, FolderImages(root / "images"), self.max_bad))


def read_labels(path: Path, classes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Read image → names of its classes, from lines ``<image> <class> <class> …``.

    Args:
        path: The label file.
        classes: Attribute → names of its classes, in the order of the columns.

    Raises:
        ModisteError: A line has the wrong number of classes, or an undefined class.
    """
    rows = [line.split() for line in read_lines(path)]
    definitions = dict(classes)
    if "neckline" in definitions:
        column = 1 + list(definitions).index("neckline")
        if any(row[column : column + 1] == ["7"] for row in rows):
            definitions["neckline"] = NECKLINE_WITH_7
    found = {}
    for name, *codes in rows:
        if len(codes) != len(definitions):
            raise cut_short(CARD, path, f"{name} has {len(codes)} labels, not {len(definitions)}")
        found[name] = [
            _class_name(path, name, attribute, names, code)
            for (attribute, names), code in zip(definitions.items(), codes, strict=True)
        ]
    return found


def _class_name(path: Path, image: str, attribute: str, names: Sequence[str], code: str) -> str:
    name = names[int(code)] if code.isdigit() and int(code) < len(names) else ""
    if not name:
        raise cut_short(CARD, path, f"{image}: {attribute} has no class {code}")
    return name
