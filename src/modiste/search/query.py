"""Queries of several parts, such as "like this, but red": the normalised weighted sum of embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from modiste.errors import ModisteError, did_you_mean
from modiste.utils.texts import check_texts

if TYPE_CHECKING:
    from PIL import Image

Words = str | Sequence[str] | None
Picture: TypeAlias = "Image.Image | bytes | str | Path"
Pictures: TypeAlias = "Picture | Sequence[Picture] | None"
PARTS = ("text", "image", "like", "minus")


@dataclass(frozen=True)
class Query:
    """A search query.

    Attributes:
        texts: Texts to search for.
        images: PIL images to search for.
        like: Ids of products to search for.
        minus: Texts to avoid.
        weights: Weight of each part by name; by default 1, and 0.5 for ``minus``.
    """

    texts: tuple[str, ...] = ()
    images: tuple[Any, ...] = ()
    like: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    weights: Mapping[str, float] | None = None

    @classmethod
    def of(cls, text: Words, image: Pictures, like: Words, minus: Words, weights: Mapping[str, float] | None) -> Query:
        """Build a query from a user's arguments, each a value or a list.

        Raises:
            ModisteError: The query is empty, a text is none, an image cannot be read, or a weight names no part or is
                negative, infinite or not a number.

        >>> Query.of("shoes", None, None, ["blue", "red"], None).minus
        ('blue', 'red')
        """
        weights = dict(weights or {})
        for name, value in weights.items():
            if name not in PARTS:
                raise ModisteError(f"weights: a query has no part '{name}'. {did_you_mean(name, PARTS)}")
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise ModisteError(f"weights.{name}={value} must be at least 0: write minus= for what to avoid.")
        images = tuple(picture(one) for one in several(image))
        check_texts([*several(text), *several(minus)])
        query = cls(tuple(several(text)), images, tuple(map(str, several(like))), tuple(several(minus)), weights)
        if not (query.texts or query.images or query.like):
            raise ModisteError('The query is empty: give words, image= or like=, for instance "red running shoes".')
        return query

    @property
    def kind(self) -> str:
        """``text``, ``image``, ``like`` (also with photos) or ``mixed``: their scores have different scales."""
        if self.minus or (self.texts and (self.images or self.like)):
            return "mixed"
        return "text" if self.texts else "like" if self.like else "image"

    def vector(self, parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
        """The unit-norm vector (D,) of the parts' embeddings.

        Args:
            parts: Name of each part and its unit-norm embeddings (n, D).

        Raises:
            ModisteError: The parts cancel each other out.
        """
        weights = [self._weight(name) for name, _ in parts]
        largest = max(map(abs, weights)) or 1.0  # only ratios matter; float32 would overflow
        total = np.sum([w / largest * vectors.mean(0) for w, (_, vectors) in zip(weights, parts, strict=True)], axis=0)
        length = float(np.linalg.norm(total))
        if not length > 1e-6:
            raise ModisteError("The parts of the query cancel each other out: change weights, or leave one out.")
        return (total / length).astype(np.float32)

    def _weight(self, name: str) -> float:
        given = (self.weights or {}).get(name)
        if name == "minus":
            return -(0.5 if given is None else given)
        return 1.0 if given is None else given


def several(value: object) -> Iterator[Any]:
    """The values of an argument that takes a value or a list, without None and blank texts.

    >>> list(several("a")), list(several(["a", "b"])), list(several(None))
    (['a'], ['a', 'b'], [])
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    return (one for one in values if one is not None and not (isinstance(one, str) and not one.strip()))


def picture(image: Picture) -> Image.Image:
    """A PIL image from an image, encoded bytes or a file's path.

    Raises:
        ModisteError: The file does not exist, or is not an image that can be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    from modiste.data.sources import FolderImages, decode

    if isinstance(image, Image.Image):
        return image
    shown = "image" if isinstance(image, bytes) else f"image={image}"
    try:
        if isinstance(image, bytes):
            return decode(image)
        path = Path(image).expanduser()
        return FolderImages(path.parent).read(path.name)
    except FileNotFoundError:
        raise ModisteError(f"{shown}: no such file.") from None
    except UnidentifiedImageError as error:  # its message names a buffer
        raise ModisteError(f"{shown} is not an image: give a JPEG, PNG or WebP file.") from error
    except (OSError, ValueError) as error:
        raise ModisteError(f"{shown} cannot be read as an image: {error}.") from error
