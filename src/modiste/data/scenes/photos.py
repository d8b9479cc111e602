"""Padded photos as in the grounding task, for training with their tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from modiste.data.catalogue import Catalogue
from modiste.data.scenes.composer import GREY, UNKNOWN_ROW, Rows


@dataclass(frozen=True)
class Photo:
    """A photo centred on a grey square.

    Attributes:
        image: The square, RGB.
        row: Row of the photo in the catalogue.
        box: Left, top, right and bottom of the photo in the square, in pixels.
    """

    image: Image.Image
    row: int
    box: tuple[int, int, int, int]

    def rows(self, grid: int) -> Rows:
        """Rows (grid, grid), int32: ``row`` for cells whose centre lies in the photo, else -1."""
        centres = (np.arange(grid) + 0.5) * self.image.width / grid
        left, top, right, bottom = self.box
        across, down = (centres > left) & (centres < right), (centres > top) & (centres < bottom)
        return np.where(down[:, None] & across, self.row, UNKNOWN_ROW).astype(np.int32)


class Photos(Dataset[Photo]):
    """Photos of a catalogue, each scaled to fit a square of ``size`` pixels; the same in every epoch.

    >>> from modiste.data.synthetic import Synthetic
    >>> photo = Photos(Synthetic(products=2, views=1)(), size=64)[1]
    >>> photo.image.size, photo.rows(2).tolist()
    ((64, 64), [[1, 1], [1, 1]])
    """

    def __init__(self, catalogue: Catalogue, size: int) -> None:
        self.catalogue, self.size = catalogue, size

    def __len__(self) -> int:
        return len(self.catalogue)

    def __repr__(self) -> str:
        return f"Photos(size={self.size})"

    def __getitem__(self, key: tuple[int, int] | int) -> Photo:
        index = key[1] if isinstance(key, tuple) else key
        image = self.catalogue.read_image(index).convert("RGB")
        scale = self.size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        left, top = (self.size - width) // 2, (self.size - height) // 2
        square = Image.new("RGB", (self.size, self.size), GREY)
        square.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, top))
        return Photo(square, index, (left, top, left + width, top + height))
