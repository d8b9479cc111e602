"""Heat maps that grounding compares: those of each method, its controls and the baselines.

Maps of different photos are combined in the padded square, the model's input frame: each photo's map is centred in it
at its own proportions, and no map is resampled.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from modiste.data.sources import WHOLE
from modiste.errors import ModisteError
from modiste.metrics.localisation import Floats, Heat, Mask
from modiste.models.heatmaps import HeatMap, input_pixels, on_image, scaled

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.models.dual_encoder import DualEncoder
    from modiste.utils.progress import Progress

log = logging.getLogger(__name__)

SPREAD = 0.25
STEPS = 2**24
"""Fixed-point steps of a map's values in [0, 1]: with integer sums, one map can be subtracted exactly."""
BASELINES = {
    "prior": "the position prior: mean mask of the phrase on the threshold split (over the other photos when that is "
    "the evaluated split), which sees no photo",
    "centre": "exp(-d² / 2) with d the distance to the centre of the image in quarters of its width and height",
    "foreground": "the image's true foreground (its mask 'whole'): 1 inside, 0 outside",
}
CONTROLS = {
    "own_mean": "the method's mean map of the phrase over the other photos of the split that have it (leave one out)",
    "wrong_phrase": "the method's map of another phrase that the photo has elsewhere: a seeded choice, of the phrases "
    "that it does not have where it has no other",
    "absent_phrase": "the method's map of a phrase that the photo does not have: a seeded choice, of its other phrases "
    "where it has all",
    "other_photo": "the method's map of the phrase on another photo: a seeded choice of those of the split that have "
    "it",
}
MINUS_MEAN = "minus_mean"


@dataclass(frozen=True)
class Photo:
    """Masks and maps of a photo with K parts.

    Attributes:
        position: Position in the sample of its split.
        size: Width and height in pixels.
        parts: Names of its parts.
        masks: (K, h, w), True inside.
        foreground: (h, w), True inside.
        maps: Method → (3K, …) maps of the parts' own phrases, then of wrong and of absent phrases; see `compact`.
    """

    position: int
    size: tuple[int, int]
    parts: list[str]
    masks: Mask
    foreground: Mask
    maps: dict[str, Tensor]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width at which the photo is evaluated."""
        return self.masks.shape[1:]

    def heat(self, method: str, rows: slice = slice(None)) -> Tensor:
        """Maps (3K, h, w) in [0, 1], or those in ``rows``."""
        maps = self.maps[method][rows]
        return maps if maps.shape[1:] == self.shape else on_image(maps, self.size, self.shape)


def compact(maps: Tensor, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Maps over the padded square, or resized to the photo (`on_image`), whichever is smaller; on the CPU."""
    return maps.float().cpu() if maps[0].numel() < shape[0] * shape[1] else on_image(maps, size, shape)


class MeanMaps:
    """Mean maps by phrase, summed in the padded square in which photos of any proportions are centred.

    Args:
        side: Side of the square in pixels: the longer side of every map.

    >>> maps = MeanMaps(2)
    >>> maps.add("hat", np.array([[1.0, 0.0]]))
    >>> maps.add("hat", np.array([[0.5, 0.5]]))
    >>> maps.mean("hat", (1, 2)), maps.mean("hat", (1, 2), without=np.array([[1.0, 0.0]]))
    (array([[0.75, 0.25]]), array([[0.5, 0.5]]))
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.sums: dict[str, npt.NDArray[np.int64]] = {}
        self.counts: dict[str, npt.NDArray[np.int64]] = {}

    def add(self, phrase: str, heat: npt.NDArray[Any]) -> None:
        """Add a map (h, w) in [0, 1]."""
        for table, values in ((self.sums, _steps(heat)), (self.counts, 1)):
            table.setdefault(phrase, np.zeros((self.side, self.side), np.int64))[self.window(heat.shape)] += values

    def mean(self, phrase: str, shape: tuple[int, ...], without: npt.NDArray[Any] | None = None) -> Floats:
        """Mean map (h, w) of a phrase, each pixel over the photos that cover it; 0 where none does.

        Args:
            phrase: The phrase; one without maps has a mean of 0 everywhere.
            shape: Height and width of the target photo.
            without: Map of the target photo that was added, to be excluded from the mean.
        """
        if phrase not in self.sums:
            return np.zeros(shape)
        window = self.window(shape)
        total, count = self.sums[phrase][window], self.counts[phrase][window]
        if without is not None:
            total, count = total - _steps(without), count - 1
        return total / np.maximum(count, 1) / STEPS

    def window(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Slices of the square that a photo of this shape covers."""
        top, left = ((self.side - length) // 2 for length in shape)
        return slice(top, top + shape[0]), slice(left, left + shape[1])

    def moved(self, heat: Heat, shape: tuple[int, ...]) -> Heat:
        """Transfer a map (h', w') to a photo of another shape (h, w); 0 where the map does not cover it."""
        square = np.zeros((self.side, self.side), np.float32)
        square[self.window(heat.shape)] = heat
        return square[self.window(shape)]


def _steps(heat: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return np.rint(heat.astype(np.float64) * STEPS).astype(np.int64)


class Scan:
    """Maps of all photos of the splits of an evaluation.

    Args:
        model: Model with the input size of the maps.
        methods: Name → method; one that the model does not support is skipped.
        vectors: Part → the phrase's unit-norm vector (D,).
        samples: Split → its photos.
        resolution: Longer side, in pixels, of masks and maps.
        min_area: Masks that cover a smaller fraction of the image are skipped and counted.
        mean_weight: Weight of the mean map that `MINUS_MEAN` subtracts.
        seed: Seed of the choice of other phrases and other photos.
        bf16: Whether the model runs in bf16 autocast.
        progress: Progress display.

    Attributes:
        methods: Methods that the model supports.
        skipped: The other methods, each with the reason.
        counts: Numbers of images, queries and masks below ``min_area``, per split.

    Raises:
        ModisteError: The model supports no method.
    """

    def __init__(
        self,
        model: DualEncoder,
        methods: Mapping[str, HeatMap],
        vectors: Mapping[str, Tensor],
        samples: Mapping[str, Catalogue],
        resolution: int,
        min_area: float,
        mean_weight: float,
        seed: int,
        bf16: bool,
        progress: Progress,
    ) -> None:
        self.model, self.vectors, self.samples, self.progress = remembering(model), vectors, samples, progress
        self.resolution, self.min_area, self.mean_weight = resolution, min_area, mean_weight
        self.seed, self.bf16 = seed, bf16
        self.device = next(model.parameters()).device
        self.counts: dict[str, int] = {}
        self._photos: dict[str, list[Photo]] = {}
        self._means: dict[tuple[str, str], MeanMaps] = {}
        self.methods, self.skipped = self._usable(methods)

    @property
    def names(self) -> list[str]:
        """All map names: the methods, the baselines, then each method's `MINUS_MEAN` variant and controls."""
        kinds = [f"{method}/{kind}" for method in self.methods for kind in (MINUS_MEAN, *CONTROLS)]
        return [*self.methods, *BASELINES, *kinds]

    def _usable(self, wanted: Mapping[str, HeatMap]) -> tuple[dict[str, HeatMap], dict[str, str]]:
        """Try each method on one image, so that an unsupported one does not stop the others."""
        image = next(iter(self.samples.values())).read_image(0)
        methods: dict[str, HeatMap] = {}
        skipped: dict[str, str] = {}
        for name, method in wanted.items():
            try:
                self._run(method, image, [next(iter(self.vectors))])
            except (ModisteError, NotImplementedError) as error:
                log.warning("grounding: %s is skipped: %s", name, error)
                skipped[name] = str(error)
            else:
                methods[name] = method
        if not methods:
            raise ModisteError(f"No grounding method supports this model: {' '.join(skipped.values())}")
        return methods, skipped

    def _run(self, method: HeatMap, image: Image.Image, parts: Sequence[str]) -> Tensor:
        pixels = input_pixels(self.model, image).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return method(self.model, pixels, torch.stack([self.vectors[part] for part in parts]))

    def photos(self, split: str) -> list[Photo]:
        """Photos of a split that have a large enough mask, with their maps; computed once.

        Raises:
            ModisteError: No photo has a large enough mask, or a map is not finite.
        """
        if split in self._photos:
            return self._photos[split]
        rows, small, found = self.samples[split], 0, []
        means = {name: MeanMaps(self.resolution) for name in (*self.methods, "prior")}
        for i in self.progress(range(len(rows)), len(rows), f"Grounding in {len(rows)} images of {split}"):
            present = rows.parts(i)
            photo = self._photo(rows, i, present)
            small += len(present) - len(photo.parts if photo else [])
            if photo is None:
                continue
            found.append(photo)
            for name in self.methods:
                for part, heat in zip(photo.parts, photo.heat(name).numpy(), strict=False):
                    means[name].add(part, heat)
            for part, mask in zip(photo.parts, photo.masks, strict=True):
                means["prior"].add(part, mask)
        if not found:
            raise ModisteError(
                f"No mask of split '{split}' covers {self.min_area:.2%} of its image: lower task.grounding.min_area."
            )
        queries = sum(len(photo.parts) for photo in found)
        self.counts |= {f"{split}/images": len(found), f"{split}/queries": queries, f"{split}/small_masks": small}
        self._photos[split] = found
        self._means |= {(split, name): maps for name, maps in means.items()}
        return found

    def _photo(self, rows: Catalogue, i: int, present: Sequence[str]) -> Photo | None:
        image = rows.read_image(i)
        scale = self.resolution / max(image.size)
        shape = max(1, round(image.height * scale)), max(1, round(image.width * scale))
        masks = {part: read_mask(rows, i, part, shape) for part in present}
        large = [part for part, mask in masks.items() if mask.any() and mask.mean() >= self.min_area]
        if not large:
            return None
        phrases = [*large, *self._other_phrases(i, large, present)]
        maps: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            made = self._run(method, image, phrases)
            if not bool(made.isfinite().all()):
                raise ModisteError(
                    f"A heat map of {name} is not finite: the model has diverged or its input is invalid."
                )
            maps[name] = compact(made, image.size, shape)
        foreground = read_mask(rows, i, WHOLE, shape)
        return Photo(i, image.size, large, np.stack([masks[part] for part in large]), foreground, maps)

    def _other_phrases(self, i: int, parts: Sequence[str], present: Sequence[str]) -> list[str]:
        """A wrong phrase for each part, then an absent one for each; its own where the data set has no other."""
        absent = [part for part in self.vectors if part not in present]
        elsewhere = [[other for other in present if other != part] for part in parts]
        draw = np.random.default_rng([self.seed, i])
        wrong = [others or absent or [part] for part, others in zip(parts, elsewhere, strict=True)]
        missing = [absent or others or [part] for part, others in zip(parts, elsewhere, strict=True)]
        return [str(draw.choice(among)) for among in (*wrong, *missing)]

    def maps(self, split: str, prior_split: str) -> Iterator[tuple[Photo, dict[str, Heat]]]:
        """Yield each photo of a split and its maps: each of `names` → (K, h, w) in [0, 1].

        Args:
            split: Split of the photos.
            prior_split: Split whose mean masks are the position prior.
        """
        photos = self.photos(split)
        self.photos(prior_split)
        holders: dict[str, list[tuple[Photo, int]]] = {}
        for photo in photos:
            for k, part in enumerate(photo.parts):
                holders.setdefault(part, []).append((photo, k))
        for photo in self.progress(photos, len(photos), f"Comparing {len(photos)} images of {split}"):
            found: dict[str, Heat] = {}
            others = self._others(photo, holders)
            for name in self.methods:
                found |= self._controlled(split, name, photo, others)
            number, shape = len(photo.parts), photo.shape
            found["centre"] = np.broadcast_to(centred_blob(shape), (number, *shape))
            found["foreground"] = np.broadcast_to(photo.foreground, (number, *shape)).astype(np.float32)
            masks = photo.masks if prior_split == split else [None] * number
            prior = self._means[prior_split, "prior"]
            found["prior"] = rescaled(
                [prior.mean(part, shape, mask) for part, mask in zip(photo.parts, masks, strict=True)]
            )
            yield photo, {name: found[name] for name in self.names}

    def _others(self, photo: Photo, holders: Mapping[str, list[tuple[Photo, int]]]) -> list[tuple[Photo, int] | None]:
        """Another photo for each part that has it, and the part's index there; None if no other has it."""
        draw = np.random.default_rng([self.seed, photo.position, 1])
        chosen: list[tuple[Photo, int] | None] = []
        for part in photo.parts:
            among = [holder for holder in holders[part] if holder[0] is not photo]
            chosen.append(among[int(draw.integers(len(among)))] if among else None)
        return chosen

    def _controlled(
        self, split: str, name: str, photo: Photo, others: Sequence[tuple[Photo, int] | None]
    ) -> dict[str, Heat]:
        """A method's maps on a photo, its `MINUS_MEAN` variant and its controls, each (K, h, w)."""
        means, number, shape = self._means[split, name], len(photo.parts), photo.shape
        heat = photo.heat(name).numpy()
        own, wrong, absent = heat.reshape(3, number, *shape)
        mean = np.stack([means.mean(part, shape, one) for part, one in zip(photo.parts, own, strict=True)])
        moved = [
            means.moved(one[0].heat(name, slice(one[1], one[1] + 1))[0].numpy(), shape) if one else np.zeros(shape)
            for one in others
        ]
        return {
            name: own,
            f"{name}/{MINUS_MEAN}": rescaled(own - self.mean_weight * mean),
            f"{name}/own_mean": rescaled(mean),
            f"{name}/wrong_phrase": wrong,
            f"{name}/absent_phrase": absent,
            f"{name}/other_photo": rescaled(moved),
        }


def remembering(model: DualEncoder) -> DualEncoder:
    """Copy of the model that caches the patch features of its last input, for methods on the same photo."""
    other: Any = copy.copy(model)
    inner = model.patch_features
    last: list[Tensor] = []

    def patch_features(pixels: Tensor) -> Tensor:
        if not (last and last[0].shape == pixels.shape and torch.equal(last[0], pixels)):
            last[:] = pixels, inner(pixels)
        return last[1]

    other.patch_features = patch_features
    return other


def rescaled(maps: npt.ArrayLike) -> Heat:
    """Min-max scale each of the maps (K, h, w) to [0, 1]; a constant map becomes 0."""
    return scaled(torch.as_tensor(np.asarray(maps, np.float32))).numpy()


def read_mask(rows: Catalogue, i: int, part: str, shape: tuple[int, int]) -> Mask:
    """Mask (h, w), True where ``part`` is in the i-th image, sampled at the pixel centres of ``shape``."""
    mask = rows.read_mask(i, part).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(mask) >= 128


def centred_blob(shape: tuple[int, int]) -> Heat:
    """The baseline ``centre``, (h, w) in [0, 1].

    >>> centred_blob((1, 3))
    array([[0.41111228, 1.        , 0.41111228]], dtype=float32)
    """
    rows, columns = (((np.arange(n) + 0.5) / n - 0.5) / SPREAD for n in shape)
    return np.exp(-(rows[:, None] ** 2 + columns**2) / 2).astype(np.float32)
