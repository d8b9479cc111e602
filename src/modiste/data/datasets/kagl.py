"""KAGL: Kaggle's *Fashion Product Images*, from its zip file or folder, or Marqo/KAGL's Parquet files."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from modiste.data.catalogue import Card, Catalogue, as_text
from modiste.data.datasets.table import find_parquet, from_dataset, read_parquet
from modiste.data.sources import FolderImages, ImageSource, ZipImages
from modiste.data.text_tables import Columns, read_member
from modiste.errors import ModisteError, did_you_mean
from modiste.utils.ranges import BadRows

CARD = Card(
    name="kagl",
    title="Fashion Product Images (Small)",
    licence="MIT (as stated on Kaggle; the photographs are Myntra's)",
    citation="P. Aggarwal, Fashion Product Images Dataset, Kaggle, 2019",
    homepage="https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small",
    expected={"rows": 44446, "images": 44441},
    download="Download 'Fashion Product Images (Small)' by paramaggarwal from Kaggle (one zip file).",
)
ATTRIBUTES = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage")
HEADER = ("id", *ATTRIBUTES, "productDisplayName")
HUB_COLUMNS = {
    "product_id": "item_ID",
    "image": "image",
    "text": "text",
    "gender": "gender",
    "masterCategory": "category1",
    "subCategory": "category2",
    "articleType": "category3",
    "baseColour": "baseColour",
    "season": "season",
    "year": "year",
    "usage": "usage",
}


@dataclass(frozen=True)
class Subset:
    """A subset like the one FashionCLIP was evaluated on (9,990 products of 62 categories).

    FashionCLIP's products are not published, so this is not the paper's KAGL but one of its size: the products with the
    lowest hash among those with the most frequent values of a column (ties by name).

    Attributes:
        products: Number of products.
        classes: Number of values.
        column: Column of the values.
        seed: Seed of the hash.
    """

    products: int
    classes: int
    column: str = "articleType"
    seed: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Subset:
        """Create it from the config. Raises ModisteError for a missing or unknown key."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise ModisteError(f"data.catalogue.subset has no '{name}'. {did_you_mean(name, names)}")
        try:
            return cls(**given)  # type: ignore[arg-type]
        except TypeError:
            raise ModisteError(
                "data.catalogue.subset needs products and classes, for example {products: 9990, classes: 62}."
            ) from None

    def __call__(self, catalogue: Catalogue) -> Catalogue:
        """Return the subset of a catalogue, as a separate data set ``kagl_<products>``.

        Raises:
            ModisteError: The column has too few values, or the values too few products.
        """
        values, ids = catalogue.column(self.column), catalogue.column("product_id")
        counts = Counter(value for value in values if value)
        frequent = sorted(counts, key=lambda value: (-counts[value], value))[: self.classes]
        wanted = set(frequent)
        usable = sorted({i for i, value in zip(ids, values, strict=True) if value in wanted}, key=self._hash)
        if len(frequent) < self.classes or len(usable) < self.products:
            raise ModisteError(
                f"data.catalogue.subset asks for {self.products:,} products of {self.classes} values of "
                f"{self.column}; only {len(usable):,} of {len(frequent)} exist. Ask for fewer."
            )
        keep = set(usable[: self.products])
        table = catalogue.select(rows=[row for row, i in enumerate(ids) if i in keep]).table
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        card = replace(catalogue.card, name=f"{catalogue.card.name}_{self.products}", expected={})
        # With the column `pixels`, no image is read again.
        return Catalogue.build(card, columns, catalogue.images)

    def _hash(self, product: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{product}".encode()).digest()


@dataclass(frozen=True)
class Kagl:
    """Read KAGL: text = productDisplayName, product_id = id, attributes as on Kaggle; "NA" is a value.

    Attributes:
        path: The zip file as downloaded, its unpacked folder, or a folder with the hub's ``data/*.parquet``.
        max_bad: See `Catalogue.build`.
        subset: Arguments of `Subset`; None: all products.
        brand: Add the attribute ``brand`` (see `brands`), which KAGL lacks; this changes the catalogue's fingerprint.

    Raises:
        ModisteError: ``path`` has no such data, or too little for the subset.
    """

    path: str
    max_bad: BadRows | None = None
    subset: Mapping[str, object] | None = None
    brand: bool = False

    def __call__(self) -> Catalogue:
        path = Path(self.path)
        if path.is_file():
            return self._build(*_from_zip(path))
        if (path / "styles.csv").is_file():
            columns = read_styles((path / "styles.csv").read_bytes(), str(path / "styles.csv"))
            return self._build(columns, FolderImages(path / "images"))
        files = find_parquet(path, CARD)
        if files:
            dataset = read_parquet(files)
            return self._build(*from_dataset(dataset, HUB_COLUMNS, attributes=[], name=CARD.name))
        what = "holds neither styles.csv nor parquet files" if path.is_dir() else "does not exist"
        raise ModisteError(f"{path} {what}. {CARD.download} Then set data.catalogue.path to it.")

    def _build(self, columns: Columns, images: ImageSource) -> Catalogue:
        subset = Subset.parse(self.subset) if self.subset else None
        own = {"brand": brands([as_text(title) for title in columns["text"]])} if self.brand else {}
        catalogue = Catalogue.build(CARD, {**columns, **own}, images, self.max_bad)
        return subset(catalogue) if subset else catalogue


GENDER = re.compile(r"(?:wo)?m[ae]ns?|boys?|girls?|kids?|infants?|lady|ladies|unisex")


def brands(titles: Sequence[str]) -> list[str]:
    """Extract the brand of each title, in lower case; "" if the rule finds none.

    Myntra's titles are "<brand> <gender> <product>": the brand is the text before the first gender word that is not the
    first word of the title. Titles without one get the longest brand of the other titles that they begin with.

    >>> titles = ["Lino Perros Women's Red Bag", "Lino Perros Blue Bag", "Kids Ville Girls Top", "LINO PERROS Men Tie"]
    >>> brands([*titles, "Red Bag"])
    ['lino perros', 'lino perros', 'kids ville', 'lino perros', '']
    """
    words = [title.casefold().split() for title in titles]
    named = [_before_gender(title) for title in words]
    known = {brand for brand in named if brand}
    return [brand or _longest_start(title, known) for brand, title in zip(named, words, strict=True)]


def _before_gender(words: Sequence[str]) -> str:
    places = (i for i, word in enumerate(words) if i and GENDER.fullmatch(word.replace("'", "").replace("’", "")))
    return " ".join(words[: next(places, 0)])


def _longest_start(words: Sequence[str], known: Collection[str]) -> str:
    starts = (" ".join(words[:length]) for length in range(len(words), 0, -1))
    return next((start for start in starts if start in known), "")


def _from_zip(path: Path) -> tuple[Columns, ImageSource]:
    try:
        images = ZipImages(path)
        names = [name for name in images.archive.namelist() if name == "styles.csv" or name.endswith("/styles.csv")]
        if not names:
            raise ModisteError(f"{path} holds no styles.csv. {CARD.download}")
        # Kaggle's zip repeats the whole data set in an inner folder.
        name = min(names, key=len)
        columns = read_styles(read_member(images.archive, name), f"{path}:{name}")
    except zipfile.BadZipFile as error:
        raise ModisteError(f"{path} is not a complete zip file ({error}): download it again. {CARD.download}") from None
    except ValueError as error:
        raise ModisteError(f"styles.csv of {path} cannot be read: {error}.") from None
    images.prefix = name.removesuffix("styles.csv") + "images/"
    return columns, images


def read_styles(data: bytes, name: str = "styles.csv") -> Columns:
    """Convert ``styles.csv`` to the columns of a catalogue.

    Titles contain unquoted commas and literal quotation marks, so the title is everything after the ninth comma.

    Raises:
        ModisteError: The header is another one.

    >>> header = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
    >>> line = "7,Men,Apparel,Topwear,Shirts,NA,Fall,2011,Casual,Blue, checked shirt"
    >>> columns = read_styles(f"{header}\\n{line}\\n".encode())
    >>> columns["text"], columns["image"], columns["baseColour"]
    (['Blue, checked shirt'], ['7.jpg'], ['NA'])
    """
    lines = [line.rstrip("\r") for line in data.decode("utf-8-sig", errors="replace").split("\n")]
    header = tuple(lines[0].split(","))
    if header != HEADER:
        raise ModisteError(f"{name} begins with '{lines[0][:100]}', not with '{','.join(HEADER)}'. {CARD.download}")
    rows = [line.split(",", len(HEADER) - 1) for line in lines[1:] if line]
    # A truncated line lacks a title, and is reported as an empty caption.
    cells = [row + [""] * (len(HEADER) - len(row)) for row in rows]
    columns: Columns = {column: [row[i] for row in cells] for i, column in enumerate(HEADER)}
    ids = columns.pop("id")
    return {"product_id": ids, "image": [f"{i}.jpg" for i in ids], "text": columns.pop("productDisplayName"), **columns}
