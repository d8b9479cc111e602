"""Scenes composed of another data set's products, with exact masks for grounding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from modiste.config import instantiate, literal_config
from modiste.data.build import load
from modiste.data.catalogue import Card, Catalogue
from modiste.data.masks import as_image, no_such_part
from modiste.data.scenes.composer import Composer, Scene, Scenes
from modiste.data.sources import WHOLE
from modiste.errors import ModisteError
from modiste.utils.seeds import mix


class ComposedImages:
    """Scenes and their masks; a reference is ``<split>/<number>``.

    Args:
        scenes: Split → its scenes.
    """

    def __init__(self, scenes: Mapping[str, Scenes]) -> None:
        self.scenes = dict(scenes)
        self._last: tuple[str, Scene] | None = None  # the masks of a scene are read in succession

    def read(self, ref: str) -> Image.Image:
        """Render the RGB scene."""
        return self._scene(ref)[1].image

    def parts(self, ref: str) -> list[str]:
        """Visible types of products, in alphabetical order."""
        of, scene = self._scene(ref)
        seen = np.unique(scene.labels)
        return sorted({of.kinds[scene.products[k - 1]] for k in seen[seen > 0]})

    def read_mask(self, ref: str, part: str = WHOLE) -> Image.Image:
        """Mask of a type, or of everything but the background: mode L, 255 inside and 0 outside.

        Raises:
            ModisteError: The scene does not show the type.
        """
        of, scene = self._scene(ref)
        if part == WHOLE:
            return as_image(scene.labels != 0)
        numbers = [k + 1 for k, row in enumerate(scene.products) if of.kinds[row] == part]
        inside = np.isin(scene.labels, numbers)
        if not inside.any():
            raise no_such_part(ref, part, [WHOLE, *self.parts(ref)])
        return as_image(inside)

    def _scene(self, ref: str) -> tuple[Scenes, Scene]:
        split, _, number = ref.rpartition("/")
        of = self.scenes[split]
        if self._last is None or self._last[0] != ref:
            self._last = ref, of[int(number)]
        return of, self._last[1]


@dataclass(frozen=True)
class Composed:
    """Compose scenes from the products of each split of a data set; text = the types that a scene shows.

    Attributes:
        of: The ``data`` node of the products.
        scenes: Node of a `modiste.data.scenes.composer.Composer`; empty: its defaults.
        count: Split of the products → number of scenes.
        seed: Seed of the scenes, with the split's name: splits share no background and no layout.

    Raises:
        ModisteError: ``of`` is not a data node, a split has no products, a number of scenes is below 1, or see
            `modiste.data.scenes.composer.Composer.bind`.
    """

    of: Mapping[str, Any]
    scenes: Mapping[str, Any] = field(default_factory=dict)
    count: Mapping[str, int] = field(default_factory=lambda: {"val": 200, "test": 400})
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.count or min(self.count.values()) < 1:
            raise ModisteError("data.catalogue.count must give each split at least 1 scene.")
        if not isinstance(self.of.get("catalogue"), Mapping):
            raise ModisteError("data.catalogue.of must be the data node of a catalogue: see conf/data/scenes.yaml.")

    def __call__(self) -> Catalogue:
        products = load(literal_config(self.of))
        composer: Composer = instantiate(self.scenes) if self.scenes else Composer()
        # A split's own seed: with one seed, its scenes would share backgrounds and layout with term=regions' scenes.
        bound = {
            split: composer.bind(products.select(split=split), mix(self.seed, split), number)
            for split, number in self.count.items()
        }
        images = ComposedImages(bound)
        refs = [f"{split}/{number}" for split, scenes in bound.items() for number in range(len(scenes))]
        shown = [", ".join(images.parts(ref)) for ref in refs]
        splits = [ref.partition("/")[0] for ref in refs]
        of_products = products.fingerprint()
        identities = [f"{bound[split]}|{of_products}|{ref}" for split, ref in zip(splits, refs, strict=True)]
        columns: dict[str, Sequence[str]] = {
            "product_id": refs,
            "image": refs,
            "text": shown,
            "split": splits,
            "pixels": [hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for text in identities],
            "mask": refs,
        }
        name = f"{products.card.name}_scenes"
        return Catalogue.build(
            Card(name, title=f"Scenes of {products.card.title or products.card.name}"), columns, images
        )
