"""KAGL: Kaggle's *Fashion Product Images*, as its zip, its folder, or the parquet files of the hub's Marqo/KAGL."""

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
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError, did_you_mean

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
    """The kind of subset that FashionCLIP was evaluated on: 9,990 products of 62 categories.

    Which products these were has not been published, so this is not the paper's KAGL but one of its size: the most
    frequent values of a column (equally frequent ones by name), and of their products those whose hash is the lowest.

    Attributes:
        products: How many.
        classes: How many values.
        column: Whose values.
        seed: Another seed, other products.
    """

    products: int
    classes: int
    column: str = "articleType"
    seed: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Subset:
        """From the config. Raises ModisteError for a key that is missing or unknown."""
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
        """The subset of ``catalogue``, as a separate data set, ``kagl_<products>``.

        Raises:
            ModisteError: The column has fewer classes, or the classes fewer products.
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
        # Its pixels are known: no image is read again.
        return Catalogue.build(card, columns, catalogue.images)

    def _hash(self, product: str) -> bytes:
        return hashlib.sha256(f"{self.seed}:{product}".encode()).digest()


@dataclass(frozen=True)
class Kagl:
    """Read KAGL: text = productDisplayName, product_id = id, attributes under Kaggle's names; "NA" is a value.

    Attributes:
        path: The zip file as downloaded, the folder it unpacks to, or a folder with the hub's ``data/*.parquet``.
        max_bad: See `Catalogue.build`.
        subset: None for all products, or the attributes of `Subset`.
        brand: Adds the attribute ``brand`` (`brands`), which KAGL does not have; the catalogue is then another one.

    Raises:
        ModisteError: ``path`` has no such data, or not enough for the subset.
    """

    path: str
    max_bad: int | float | None = None
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
    """The brand of each title in lower case, by a rule; "" where it gives none.

    Myntra writes "<brand> <gender> <product>": the brand is what stands before the first gender word that is not the
    title's first word. A title without one has the longest brand of the other titles that it begins with.

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
        columns = read_styles(images.archive.read(name), f"{path}:{name}")
    except zipfile.BadZipFile as error:
        raise ModisteError(f"{path} is not a complete zip file ({error}): download it again. {CARD.download}") from None
    images.prefix = name.removesuffix("styles.csv") + "images/"
    return columns, images


def read_styles(data: bytes, name: str = "styles.csv") -> Columns:
    """The columns of a catalogue from the bytes of ``styles.csv``.

    Its titles hold commas that are not quoted (and quotation marks that are titles' own): what follows the ninth comma
    is the title.

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
    # A truncated line has no title, and is reported as such.
    cells = [row + [""] * (len(HEADER) - len(row)) for row in rows]
    columns: Columns = {column: [row[i] for row in cells] for i, column in enumerate(HEADER)}
    ids = columns.pop("id")
    return {"product_id": ids, "image": [f"{i}.jpg" for i in ids], "text": columns.pop("productDisplayName"), **columns}
