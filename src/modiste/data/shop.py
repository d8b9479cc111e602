"""A shop's export as a catalogue: roles of columns, additional rows and images of a product, HTML."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from modiste.data.text_tables import Columns

ROLES = {
    "text": (
        "text caption title name producttitle productname productdisplayname itemname articlename titel bezeichnung "
        "artikelname produktname titre nom titulo nombre nome 商品名 description bodyhtml"
    ),
    "image": (
        "image images imagelink imagesrc imageurl imagepath imagefile imagefilename filename file path picture photo "
        "img imgurl photourl pictureurl bild foto immagine imagen"
    ),
    "product_id": (
        "productid itemid articleid productcode sku articlenumber articleno articlenr itemnumber itemno itemnr "
        "itemcode productnumber productno productnr artikelnummer artikelnr artikelno artikelid artikelcode artnr "
        "artno artnummer produktnummer produktnr produktid bestellnummer bestellnr stylenumber styleno "
        "referenceproduit refproduit numeroarticle idarticle codearticle codeproduit idproduit "
        "codicearticolo codiceprodotto idprodotto "
        "idarticolo codigoarticulo codigoproducto codigoproduto idproducto idproduto productnummer varenummer "
        "artikelnum handle id"
    ),
    "split": "split fold partition subset",
}
"""Role → usual column names, likeliest first, compared without case, accents, spaces and punctuation."""
CODES = "reference ref referencia riferimento codice codigo code referenz nummer nr number no"
"""Ambiguous names of product ids: used only if every row has a value and most values are unique."""
ID = re.compile(r"(?=.*\d)(?!\d{1,4}[-/]\d{1,2}[-/]\d{1,4}$)[A-Za-z0-9][\w/-]{3,39}", re.ASCII)
MORE_IMAGES = re.compile(r"(additional|further|other)?images?(links?|src|urls?|paths?|files?)?\d*")
SPLITS = {
    "train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val",
    "eval": "val", "test": "test", "testing": "test",
}  # fmt: skip
"""Name of a split → the catalogue's name, compared without case."""
IMAGE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|ppm)(\?|$)", re.IGNORECASE)
URL = re.compile(r"https?://", re.IGNORECASE)
# Not HTMLParser, which takes quadratic time on unclosed tags. Quoted attributes may contain brackets.
MARKUP = re.compile(
    r"""<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*>.*?(?:</\1[^<>]*>|\Z)|<[!?][^<>]*>
    |</?(?P<name>[A-Za-z][\w:-]*)(?![\w:-])(?:(?:[^<>"']|"[^"]*"|'[^']*')*|[^<>]*)>""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
BLOCKS = ("p", "br", "li", "div", "td", "tr", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6")
"""Elements that separate words."""
TAG = re.compile(r"</?[A-Za-z][^<>]*>|<!--|&(#\d+|#x[0-9a-fA-F]+|[A-Za-z]+);")
LONG = 60
"""Maximum mean length of classes in characters; longer texts are descriptions."""


Cell = TypeVar("Cell")


def split_word(value: Cell) -> Cell | str:
    """Return the catalogue's name of a split, ignoring case; other values are returned unchanged.

    >>> split_word("Validation"), split_word("fold3")
    ('val', 'fold3')
    """
    return SPLITS.get(str(value).strip().lower(), value)


@dataclass(frozen=True)
class Roles:
    """Roles of a table's columns.

    Attributes:
        text: Column of captions; None: not recognised.
        images: Columns of images; several columns, or a list in a cell, give a product several rows.
        product_id: Column of product ids; None: each row is a product.
        split: Column of splits; None: rows have no split.
    """

    text: str | None
    images: tuple[str, ...]
    product_id: str | None
    split: str | None

    def __str__(self) -> str:
        """Summarise the roles in one line.

        >>> print(Roles("title", ("file",), None, None))
        text = title, image = file, each row is a product
        """
        images = " + ".join(self.images) or "?"
        parts = [f"text = {self.text or '?'}", f"image = {images}"]
        parts.append(f"product_id = {self.product_id}" if self.product_id else "each row is a product")
        return ", ".join(parts + ([f"split = {self.split}"] if self.split else []))


def recognise(raw: Mapping[str, Sequence[Any]], given: Mapping[str, Any] | None = None) -> Roles:
    """Return the roles of columns: those ``given``, the others recognised by names and contents.

    Args:
        raw: The table.
        given: Role → column, or a list of columns for ``image``; roles with None are recognised.

    >>> recognise({"SKU": ["a1"], "Product title": ["hat"], "Image Src": ["1.jpg"], "Image 2": ["2.jpg"]})
    Roles(text='Product title', images=('Image Src', 'Image 2'), product_id='SKU', split=None)
    """
    given = {name: column for name, column in (given or {}).items() if column is not None}
    images = given.get("image")
    if images is None:
        images = _image_columns(raw)
    taken = {images} if isinstance(images, str) else set(images)
    taken |= {str(column) for column in given.values() if isinstance(column, str)}
    found = {}
    for role in ("text", "product_id", "split"):
        found[role] = given[role] if role in given else _named(raw, role, taken)
    if "product_id" not in given and found["product_id"] is None:
        found["product_id"] = _code_column(raw, taken)
    if "split" not in given and found["split"] and not _are_splits(raw[str(found["split"])]):
        found["split"] = None
    return Roles(found["text"], (images,) if isinstance(images, str) else tuple(images), *list(found.values())[1:])


def _plain(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.strip().lower())
    return re.sub(r"^g:|[\W_]+", "", "".join(letter for letter in letters if not unicodedata.combining(letter)))


def _named(raw: Mapping[str, Sequence[Any]], role: str, taken: Iterable[str] = ()) -> str | None:
    """The column whose name fits a role, if it has any values."""
    present = {_plain(name): name for name in reversed(list(raw)) if name not in taken and any(map(_filled, raw[name]))}
    return next((present[name] for name in ROLES[role].split() if name in present), None)


def _code_column(raw: Mapping[str, Sequence[Any]], taken: Iterable[str]) -> str | None:
    """The column named like one of `CODES`, if its values can be product ids."""
    present = {_plain(name): name for name in reversed(list(raw)) if name not in taken}
    for name in (present[code] for code in CODES.split() if code in present):
        cells = raw[name]
        if all(map(_filled, cells)) and len(cells) < 2 * len(set(map(str, cells))):
            return name
    return None


def like_ids(raw: Mapping[str, Sequence[Any]], roles: Roles) -> str | None:
    """Return the first column without a role whose values look like product ids: unique short codes.

    >>> like_ids({"title": ["hat", "cap"], "Ware": ["A-1001", "A-1002"]}, Roles("title", (), None, None))
    'Ware'
    """
    taken = {roles.text, roles.product_id, roles.split, *roles.images}
    for name, cells in raw.items():
        if name in taken or not len(set(map(str, cells))) == len(cells) > 1:
            continue
        if all(isinstance(cell, (str, int)) and ID.fullmatch(str(cell).strip()) for cell in cells):
            return name
    return None


def _image_columns(raw: Mapping[str, Sequence[Any]]) -> list[str]:
    first = _named(raw, "image")
    if first is None:
        first = next((name for name, cells in raw.items() if _are_images(cells)), None)
    if first is None:
        return []
    more = [name for name in raw if name != first and MORE_IMAGES.fullmatch(_plain(name)) and _are_images(raw[name])]
    return [first, *more]


def _are_images(cells: Sequence[Any]) -> bool:
    """Whether a column holds file names of images, or lists of them."""
    filled = [cell for cell in cells if _filled(cell)][:1000]
    return bool(filled) and all(
        isinstance(reference, str) and IMAGE_NAME.search(reference) for cell in filled for reference in references(cell)
    )


def _are_splits(cells: Sequence[Any]) -> bool:
    return all(str(cell).strip().lower() in SPLITS for cell in cells if _filled(cell))


def _filled(cell: Any) -> bool:
    return cell is not None and cell == cell and cell != "" and cell != []


def references(cell: object) -> list[Any]:
    """Return the images listed in a cell: a list, or text with commas, semicolons, pipes or line breaks.

    >>> references("a.jpg, b.jpg"), references("Hat, red.jpg"), references(["a.jpg", None])
    (['a.jpg', 'b.jpg'], ['Hat, red.jpg'], ['a.jpg'])
    """
    if isinstance(cell, (list, tuple)):
        return [item for item in cell if _filled(item)]
    if not isinstance(cell, str):
        return [cell] if _filled(cell) else []
    for separator in (r"[|\n]", ";", ",", r"(?<=\s)(?=https?://)"):
        parts = [part.strip() for part in re.split(separator, cell) if part.strip()]
        if len(parts) > 1 and all(IMAGE_NAME.search(part) or URL.match(part) for part in parts):
            return parts
    return [cell.strip()] if cell.strip() else []


def one_row_per_image(raw: Mapping[str, Sequence[Any]], roles: Roles) -> Columns:
    """Return the table with one row per image, in the first image column; "" for rows without an image.

    >>> roles = Roles("t", ("i",), None, None)
    >>> one_row_per_image({"t": ["hat", "cap"], "i": ["1.jpg|2.jpg", ""]}, roles)
    {'t': ['hat', 'hat', 'cap'], 'i': ['1.jpg', '2.jpg', '']}
    """
    first = roles.images[0]
    cells = [raw[name] for name in roles.images]
    found = [
        _distinct([reference for column in cells for reference in references(column[row])]) or [""]
        for row in range(len(raw[first]))
    ]
    rows = [row for row, images in enumerate(found) for _ in images]
    exploded = {name: [column[row] for row in rows] for name, column in raw.items() if name not in roles.images[1:]}
    return {**exploded, first: [image for images in found for image in images]}


def _distinct(found: list[Any]) -> list[Any]:
    return list(dict.fromkeys(found)) if all(isinstance(reference, str) for reference in found) else found


def fill_further_rows(raw: Columns, roles: Roles) -> Columns:
    """Fill the empty cells of rows without a text from the first row of their product that has one.

    Exports such as Shopify's list the additional images of a product in rows with only the product and the image.
    """
    if roles.product_id is None or roles.text is None:
        return raw
    products, texts = [str(product) if _filled(product) else None for product in raw[roles.product_id]], raw[roles.text]
    first: dict[str | None, int] = {}
    for row, (product, text) in enumerate(zip(products, texts, strict=True)):
        if product is not None and _filled(text):
            first.setdefault(product, row)
    further = [
        (row, first[product])
        for row, (product, text) in enumerate(zip(products, texts, strict=True))
        if not _filled(text) and product in first
    ]
    filled = {name: list(cells) for name, cells in raw.items()}
    for name, cells in filled.items():
        if name not in roles.images:
            for row, source in further:
                if not _filled(cells[row]):
                    cells[row] = cells[source]
    return filled


def without_html(cell: Cell) -> Cell | str:
    """Strip tags, scripts, styles and comments from HTML and resolve its entities.

    Other cells, and "<" as a plain character, stay unchanged.

    >>> without_html("<p>Soft &amp; warm</p><script>x()</script><ul><li>wool"), without_html("size < 38")
    ('Soft & warm wool', 'size < 38')
    """
    if not isinstance(cell, str) or not TAG.search(cell):
        return cell
    text = MARKUP.sub(lambda tag: " " if (tag["name"] or "").lower() in BLOCKS else "", cell)
    text = html.unescape(re.sub(r"&#\d{9,};?", "\ufffd", text))  # int() rejects thousands of digits
    return " ".join(text.split()) if "<" in cell else text


def may_be_classes(values: Sequence[str]) -> bool:
    """Whether the values of a text column can serve as classes: they repeat and are short.

    >>> may_be_classes(["red", "blue"] * 5), may_be_classes([f"no. {i}" for i in range(50)])
    (True, False)
    """
    filled = [value for value in values if value]
    distinct = set(filled)
    if len(distinct) < 2:
        return bool(distinct)
    repeated = len(distinct) <= 0.5 * len(filled) or len(filled) < 20
    return repeated and sum(map(len, distinct)) / len(distinct) <= LONG
