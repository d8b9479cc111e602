"""H&M: articles of Kaggle's *H&M Personalized Fashion Recommendations*, from a zip file or folder."""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue
from modiste.data.datasets.table import map_columns, read_delimited, read_table
from modiste.data.download import cut_short, note_partial, require
from modiste.data.sources import FolderImages, ImageSource, ZipImages
from modiste.data.text_tables import Columns, read_member
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

CARD = Card(
    name="hm",
    title="H&M Personalized Fashion Recommendations",
    licence="Kaggle competition rules: non-commercial use, no redistribution",
    citation="H&M Group, H&M Personalized Fashion Recommendations, Kaggle, 2022",
    homepage="https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations",
    expected={"rows": 105_542, "images": 105_100},
    download="Get it with: kaggle competitions download h-and-m-personalized-fashion-recommendations "
    "(articles.csv and images/ are needed, nothing else).",
)
TABLE = "articles.csv"
ATTRIBUTES = (
    "product_code",
    "product_type_name",
    "product_group_name",
    "graphical_appearance_name",
    "colour_group_name",
    "perceived_colour_value_name",
    "perceived_colour_master_name",
    "department_name",
    "index_name",
    "index_group_name",
    "section_name",
    "garment_group_name",
)
ID_DIGITS, FOLDER_DIGITS = 10, 3


@dataclass(frozen=True)
class HM:
    """Read the articles: product_id = article_id (ten digits), text = "prod_name. detail_desc", no splits.

    An article is one colour of a product; all colours of a product share the attribute ``product_code``. About 440
    articles have no photo; they are skipped and counted as "missing image".

    Attributes:
        path: The zip file as downloaded, or a folder with ``articles.csv`` and ``images/0XX/0XXXXXXXXX.jpg``.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: The table or the images are missing, or the table is damaged or lacks a column.
    """

    path: str
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        path = Path(self.path).expanduser()
        raw, images = _from_zip(path) if path.is_file() else _from_folder(path)
        return note_partial(Catalogue.build(CARD, articles(raw), images, self.max_bad))


def articles(raw: Columns) -> Columns:
    """Convert the columns of ``articles.csv`` to those of a catalogue.

    Leading zeros of ids, which spreadsheets remove, are restored. The text of an article without a description is its
    name.

    Raises:
        ModisteError: A column is missing.

    >>> raw = {name: ["x"] for name in ATTRIBUTES} | {"article_id": ["108775015"], "prod_name": ["Strap top"]}
    >>> columns = articles(raw | {"detail_desc": ["Jersey top."]})
    >>> columns["product_id"], columns["image"], columns["text"]
    (['0108775015'], ['010/0108775015.jpg'], ['Strap top. Jersey top.'])
    """
    names = {"product_id": "article_id", "image": "article_id", "text": "prod_name", "description": "detail_desc"}
    columns = map_columns(raw, names | {name: name for name in ATTRIBUTES}, attributes=[], name=CARD.name)
    ids = [str(article).strip().zfill(ID_DIGITS) for article in columns["product_id"]]
    descriptions = columns.pop("description")
    return columns | {
        "product_id": ids,
        "image": [f"{article[:FOLDER_DIGITS]}/{article}.jpg" for article in ids],
        "text": [
            ". ".join(filter(None, (name.strip().rstrip("."), text.strip())))
            for name, text in zip(columns["text"], descriptions, strict=True)
        ],
    }


def _from_folder(path: Path) -> tuple[Columns, ImageSource]:
    require(CARD, path, (TABLE, "images"))
    return read_table(path / TABLE), FolderImages(path / "images")


def _from_zip(path: Path) -> tuple[Columns, ImageSource]:
    try:
        images = ZipImages(path)
        members = images.archive.namelist()
        tables = [name for name in members if name == TABLE or name.endswith(f"/{TABLE}")]
        table = min(tables, key=len, default=TABLE)
        images.prefix = table.removesuffix(TABLE) + "images/"
        missing = [] if tables else [TABLE]
        missing += [] if any(name.startswith(images.prefix) for name in members) else ["images/"]
        if missing:
            raise ModisteError(f"{path} holds no {' and no '.join(missing)}. {CARD.download}")
        text = io.BytesIO(read_member(images.archive, table))
        return read_delimited(io.TextIOWrapper(text, encoding="utf-8-sig", newline="")), images
    except zipfile.BadZipFile as error:
        raise cut_short(CARD, path, str(error)) from None
    except (ValueError, csv.Error) as error:
        raise ModisteError(f"{path}:{TABLE} cannot be read as its file type: {error}.") from error
