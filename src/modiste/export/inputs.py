"""Images and texts on which an export is compared with its model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from modiste.config import load_run_config
from modiste.data.build import bind_captions, load
from modiste.data.catalogue import Catalogue
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
SAMPLES = 32


@dataclass(frozen=True)
class Inputs:
    """Images and texts with their source.

    Attributes:
        images: PIL images of any size.
        texts: Captions.
        source: Description of the source for the card.
        licence: Licence of the data; "" if unknown.
    """

    images: Sequence[Image.Image]
    texts: Sequence[str]
    source: str
    licence: str = ""


def synthetic(count: int = SAMPLES) -> Inputs:
    """Create inputs of synthetic garments, some of them cropped to portrait and landscape."""
    catalogue = Synthetic(products=count, views=1, size=128)()
    images = [_shaped(catalogue.read_image(row), row) for row in range(count)]
    return Inputs(images, catalogue.column("text")[:count], f"{count} synthetic garments", "Apache-2.0")


def _shaped(image: Image.Image, row: int) -> Image.Image:
    width, height = image.size
    cut = [(0, 0, width, height), (width // 8, 0, width - width // 8, height), (0, height // 6, width, height - 1)]
    return image.crop(cut[row % 3])


def of_run(run: RunDir, count: int = SAMPLES) -> Inputs:
    """Take inputs from the run's data, see `of_catalogue`; synthetic garments if the data cannot be read."""
    cfg = load_run_config(run.config)
    try:
        catalogue = load(cfg.data)
    except ModisteError as error:
        log.warning("The run's data cannot be read, so the export is checked on synthetic garments: %s", error)
        return synthetic(count)
    return of_catalogue(catalogue, cfg.data, count)


def of_catalogue(catalogue: Catalogue, data: DictConfig, count: int = SAMPLES) -> Inputs:
    """Take the first ``count`` products and their captions.

    They are of the test split, else the validation split, else all.
    """
    split = next((name for name in ("test", "val") if catalogue.splits.get(name)), None)
    part = catalogue.select(split=split) if split else catalogue
    part = part.select(rows=range(min(count, len(part))))
    images = [part.read_image(row) for row in range(len(part))]
    texts = bind_captions(data, part).texts()
    return Inputs(images, texts, f"{len(part)} products of {data.name}, {split or 'all'} split", part.card.licence)
