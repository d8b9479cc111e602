"""Grounding: where on an image a phrase is, as heat maps that are measured against the masks of parts.

FashionCLIP (Sci Rep 12:18958) shows such heat maps, made by occlusion, without a measure; here each method is measured
by the pointing game (Zhang et al., ECCV 2016), IoU, average precision and boxes, with two baselines that see no text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modiste.data.sources import WHOLE
from modiste.embedding.embedder import silent
from modiste.errors import ModisteError
from modiste.metrics.direction import directions
from modiste.metrics.intervals import bootstrap, describe_bootstrap
from modiste.metrics.localisation import (
    DEFINITIONS,
    THRESHOLDS,
    Floats,
    Heat,
    Mask,
    best_threshold,
    box,
    box_iou,
    iou_curve,
    pixel_ap,
    pointing,
)
from modiste.tasks.heatmaps import GradCam, HeatMap, Occlusion, PatchText, input_pixels, on_image
from modiste.tasks.result import Embedder, Result
from modiste.tasks.zeroshot import ZeroShot

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.models.dual_encoder import DualEncoder

log = logging.getLogger(__name__)

PROMPTS = ("a photo of {}",)
BASELINES = {
    "centre": "exp(-d² / 2) with d the distance to the centre of the image in quarters of its width and height",
    "foreground": "the image's true foreground (its mask 'whole'): 1 inside, 0 outside",
}
SPREAD = 0.25


@dataclass(frozen=True)
class Photo:
    """What an image's pairs are measured on.

    Attributes:
        position: In the sample of its split.
        parts: Names of its K parts.
        masks: (K, h, w).
        heat: Method or baseline → (K, h, w) in [0, 1].
    """

    position: int
    parts: list[str]
    masks: Mask
    heat: dict[str, Heat]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a split: positions in its sample, parts, and ``<method>/<metric>`` to one value per pair."""

    positions: list[int]
    parts: list[str]
    values: dict[str, Floats]


class Grounding:
    """Evaluate heat maps of phrases against masks; a query is an (image, phrase) pair.

    Args:
        methods: Name (the metrics' prefix) to method; null disables it.
        prompts: Templates of a phrase, with one ``{}`` each: its vector is the normalised mean of theirs.
        words: Part to the word that stands for it in a prompt.
        threshold_split: Where the threshold of each method is chosen, by the mean IoU of all pairs.
        resolution: The longer side, in pixels, of masks and maps when they are compared.
        min_area: Masks with a smaller share of the image are skipped and counted.
        limit: Number of images of each split, a seeded sample; null: all.
        resamples: Of the bootstrap.
        seed: Of the sample, the bootstrap and the examples.
        examples: Rows of each sheet of heat maps.

    Raises:
        ModisteError: There is no method, a name is taken, or a template has no ``{}``, or several.
    """

    name = "grounding"

    def __init__(
        self,
        methods: Mapping[str, HeatMap | None] | None = None,
        prompts: Sequence[str] | None = None,
        words: Mapping[str, str] | None = None,
        threshold_split: str = "val",
        resolution: int = 112,
        min_area: float = 0.002,
        limit: int | None = None,
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 8,
    ) -> None:
        chosen: Mapping[str, HeatMap | None] = (
            {"occlusion": Occlusion(), "patches": PatchText(), "gradcam": GradCam()} if methods is None else methods
        )
        self.methods = {str(name): method for name, method in chosen.items() if method is not None}
        self.prompts = list(PROMPTS if prompts is None else prompts)
        self.words = dict(words or {})
        self.threshold_split, self.resolution, self.min_area = threshold_split, resolution, min_area
        self.limit, self.resamples, self.seed, self.examples = limit, resamples, seed, examples
        if not self.methods or self.methods.keys() & BASELINES.keys():
            raise ModisteError(
                f"Grounding needs at least one method, and none named {' or '.join(BASELINES)}: "
                "set task.grounding.methods."
            )
        if not self.prompts or any(template.count("{}") != 1 for template in self.prompts):
            raise ModisteError(f"Every prompt of the grounding task needs one {{}} for the phrase, not {self.prompts}.")

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run, whose validation has embeddings only."""
        if "trainer" in cfg:
            raise ModisteError(
                "Grounding needs patch embeddings, which validation does not compute: evaluate the "
                "run with task=[grounding] after training."
            )

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: The embedder has no model, the data set no masks, a split is empty or has no mask that is
                large enough, no method runs with the model, or a map is not finite.
        """
        if getattr(embedder, "model", None) is None:
            raise ModisteError("Grounding needs a model, not embeddings from files: give run=DIR or model=NAME.")
        samples = {name: self._sample(catalogue.select(split=name)) for name in (self.threshold_split, split)}
        scan = Scan(self, embedder, samples)
        thresholds = scan.thresholds(self.threshold_split)
        pairs = scan.score(split, thresholds)
        metrics = bootstrap(pairs.values, resamples=self.resamples, seed=self.seed)
        first = next(iter(scan.methods))
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            metrics=metrics,
            higher_is_better=directions(metrics),
            protocol=self.describe(scan) | {"thresholds": thresholds},
            counts=scan.counts,
            primary=f"{first}/pointing",
            per_query=dict(pairs.values),
            tables={"phrases": self._table(pairs)},
            summary=list(DEFINITIONS),
            pictures=self._pictures(scan, split, pairs, first),
        )

    def describe(self, scan: Scan) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "methods": {name: method.describe() for name, method in scan.methods.items()},
            "skipped": scan.skipped,
            "baselines": BASELINES,
            "input": "the image on a grey (128) square, scaled to the model's input without a crop",
            "map": "over the image without the padding, minimum to maximum; 0 where it is the same everywhere",
            "resolution": self.resolution,
            "sampling": "maps bilinear and masks nearest, both at the centres of the pixels of the resolution",
            "prompts": self.prompts,
            "phrases": {part: self.words.get(part, part) for part in scan.vectors},
            "phrase_vector": "normalised mean of the normalised embeddings of the prompts; cosine",
            "queries": "pairs of an image and a part that it has a mask of",
            "min_area": self.min_area,
            "limit": self.limit,
            "metrics": DEFINITIONS,
            "threshold": "one a method, of 0, 0.01, …, 1: the best mean IoU over all pairs, the lowest of several",
            "threshold_split": self.threshold_split,
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def _sample(self, rows: Catalogue) -> Catalogue:
        if self.limit is None or self.limit >= len(rows):
            return rows
        chosen = np.random.default_rng(self.seed).choice(len(rows), self.limit, replace=False)
        return rows.select(rows=np.sort(chosen))

    def _table(self, pairs: Pairs) -> dict[str, list[Any]]:
        """One row per part, the frequent ones first: number of pairs, and the means of all metrics."""
        parts = np.array(pairs.parts)
        names, counts = np.unique(parts, return_counts=True)
        rows = [
            [self.words.get(name, name), int(count), *(float(v[parts == name].mean()) for v in pairs.values.values())]
            for name, count in sorted(zip(names.tolist(), counts, strict=True), key=lambda row: (-row[1], row[0]))
        ]
        return {"columns": ["phrase", "pairs", *pairs.values], "rows": rows}

    def _pictures(self, scan: Scan, split: str, pairs: Pairs, first: str) -> dict[str, Image.Image]:
        """Sheets of a seeded choice of pairs, and of the best and the worst of the first method."""
        from modiste.tasks.heat_sheet import heat_sheet

        number = min(self.examples, len(pairs.parts))
        if not number:
            return {}
        chosen = np.sort(np.random.default_rng(self.seed).choice(len(pairs.parts), number, replace=False))
        order = np.argsort(-pairs.values[f"{first}/pixel_ap"], kind="stable")
        sheets = {"heat-maps": chosen, f"best of {first}": order[:number], f"worst of {first}": order[::-1][:number]}
        return {title: heat_sheet([scan.example(split, pairs, i) for i in rows]) for title, rows in sheets.items()}


class Scan:
    """One evaluation, image by image, so that the maps of one image are in memory.

    Attributes:
        methods: Those that run with the model.
        skipped: The others, each with the reason.
        vectors: Part → the phrase's unit-norm vector (D,), on the model's device.
        counts: Images, queries and masks that are too small, of each split; maps that are flat, of each method.
    """

    def __init__(self, task: Grounding, embedder: Any, samples: Mapping[str, Catalogue]) -> None:
        self.task, self.samples = task, samples
        self.model: DualEncoder = embedder.model
        self.device = next(self.model.parameters()).device
        self.bf16 = getattr(embedder, "precision", "fp32") == "bf16"
        self.progress = getattr(embedder, "progress", silent)
        self.counts: dict[str, int] = {}
        self.parts = {split: [rows.parts(i) for i in range(len(rows))] for split, rows in samples.items()}
        names = list(dict.fromkeys(name for parts in self.parts.values() for image in parts for name in image))
        if not names:
            raise ModisteError(f"No image of the split {' or '.join(samples)} has a mask of a known part.")
        phrases = [task.words.get(name, name) for name in names]
        vectors = ZeroShot.class_vectors(embedder, phrases, task.prompts).to(self.device)
        self.vectors: dict[str, Tensor] = dict(zip(names, vectors, strict=True))
        self.methods, self.skipped = self._usable(names[:1])

    def _usable(self, parts: Sequence[str]) -> tuple[dict[str, HeatMap], dict[str, str]]:
        """Try each method on one image, so that an unsupported one does not stop the others."""
        image = next(iter(self.samples.values())).read_image(0)
        methods: dict[str, HeatMap] = {}
        skipped: dict[str, str] = {}
        for name, method in self.task.methods.items():
            try:
                self._run(method, image, parts)
            except (ModisteError, NotImplementedError) as error:
                log.warning("grounding: %s is skipped: %s", name, error)
                skipped[name] = str(error)
            else:
                methods[name] = method
        if not methods:
            raise ModisteError(f"No grounding method supports this model: {' '.join(skipped.values())}")
        return methods, skipped

    def thresholds(self, split: str) -> dict[str, float]:
        """Method or baseline → the threshold that is best on ``split``."""
        curves: dict[str, Floats] = {name: np.zeros(len(THRESHOLDS)) for name in (*self.methods, *BASELINES)}
        for photo in self._photos(split):
            for name, curve in curves.items():
                for heat, mask in zip(photo.heat[name], photo.masks, strict=True):
                    curve += iou_curve(heat, mask)
        return {name: best_threshold(curve) for name, curve in curves.items()}

    def score(self, split: str, thresholds: Mapping[str, float]) -> Pairs:
        """The metrics of every pair of ``split``."""
        positions: list[int] = []
        parts: list[str] = []
        values: dict[str, list[float]] = {f"{name}/{metric}": [] for name in thresholds for metric in DEFINITIONS}
        self.counts |= {f"{name}/flat_maps": 0 for name in self.methods}
        for photo in self._photos(split):
            positions += [photo.position] * len(photo.parts)
            parts += photo.parts
            for name, threshold in thresholds.items():
                for heat, mask in zip(photo.heat[name], photo.masks, strict=True):
                    for metric, value in measure(heat, mask, threshold).items():
                        values[f"{name}/{metric}"].append(value)
            for name in self.methods:
                self.counts[f"{name}/flat_maps"] += int((photo.heat[name].max(axis=(1, 2)) == 0).sum())
        return Pairs(positions, parts, {name: np.array(of_pairs) for name, of_pairs in values.items()})

    def _photos(self, split: str) -> Iterator[Photo]:
        """Raise ModisteError when no mask of the split is large enough."""
        rows, small, images, queries = self.samples[split], 0, 0, 0
        for i in self.progress(range(len(rows)), len(rows), f"Grounding in {len(rows)} images of {split}"):
            image = rows.read_image(i)
            shape = self._shape(image)
            masks = {part: read_mask(rows, i, part, shape) for part in self.parts[split][i]}
            large = [part for part, mask in masks.items() if mask.any() and mask.mean() >= self.task.min_area]
            small += len(masks) - len(large)
            if not large:
                continue
            images, queries = images + 1, queries + len(large)
            heat = self.heat(image, large, shape) | {
                "centre": np.broadcast_to(centred_blob(shape), (len(large), *shape)),
                "foreground": np.broadcast_to(read_mask(rows, i, WHOLE, shape), (len(large), *shape)).astype(
                    np.float32
                ),
            }
            yield Photo(i, large, np.stack([masks[part] for part in large]), heat)
        if not queries:
            raise ModisteError(
                f"No mask of split '{split}' covers {self.task.min_area:.2%} of its image: lower "
                "task.grounding.min_area."
            )
        self.counts |= {f"{split}/images": images, f"{split}/queries": queries, f"{split}/small_masks": small}

    def _shape(self, image: Image.Image) -> tuple[int, int]:
        """Height and width at which an image is evaluated."""
        scale = self.task.resolution / max(image.size)
        return max(1, round(image.height * scale)), max(1, round(image.width * scale))

    def heat(self, image: Image.Image, parts: Sequence[str], shape: tuple[int, int]) -> dict[str, Heat]:
        """Method → maps `(K, *shape)` of the parts' phrases."""
        found: dict[str, Heat] = {}
        for name, method in self.methods.items():
            maps = self._run(method, image, parts)
            if not bool(maps.isfinite().all()):
                raise ModisteError(
                    f"A heat map of {name} is not finite: the model has diverged or its input is invalid."
                )
            found[name] = on_image(maps, image.size, shape).numpy()
        return found

    def _run(self, method: HeatMap, image: Image.Image, parts: Sequence[str]) -> Tensor:
        pixels = input_pixels(self.model, image).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return method(self.model, pixels, torch.stack([self.vectors[part] for part in parts]))

    def example(self, split: str, pairs: Pairs, i: int) -> dict[str, Any]:
        """A row of `modiste.tasks.heat_sheet.heat_sheet` for the i-th pair."""
        position, part = pairs.positions[i], pairs.parts[i]
        image = self.samples[split].read_image(position)
        shape = self._shape(image)
        maps = {name: maps[0] for name, maps in self.heat(image, [part], shape).items()}
        value = {name: (pairs.values[f"{name}/pixel_ap"][i], pairs.values[f"{name}/iou"][i]) for name in maps}
        return {
            "title": self.task.words.get(part, part),
            "image": image,
            "mask": read_mask(self.samples[split], position, part, shape),
            "maps": maps,
            "words": {name: f"AP {ap:.2f}  IoU {iou:.2f}" for name, (ap, iou) in value.items()},
        }


def measure(heat: Heat, mask: Mask, threshold: float) -> dict[str, float]:
    """The metrics of `DEFINITIONS` of one pair, heat and mask (h, w)."""
    chosen = heat >= np.float64(threshold)
    return {
        "pointing": pointing(heat, mask),
        "iou": float((chosen & mask).sum() / (chosen | mask).sum()),
        "pixel_ap": pixel_ap(heat, mask),
        "box_iou": box_iou(box(chosen), box(mask)),
    }


def read_mask(rows: Catalogue, i: int, part: str, shape: tuple[int, int]) -> Mask:
    """(h, w) True where ``part`` is on the i-th image, taken at the centres of the pixels of ``shape``."""
    mask = rows.read_mask(i, part).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(mask) >= 128


def centred_blob(shape: tuple[int, int]) -> Heat:
    """The baseline ``centre``, (h, w) in [0, 1].

    >>> centred_blob((1, 3))
    array([[0.41111228, 1.        , 0.41111228]], dtype=float32)
    """
    rows, columns = (((np.arange(n) + 0.5) / n - 0.5) / SPREAD for n in shape)
    return np.exp(-(rows[:, None] ** 2 + columns**2) / 2).astype(np.float32)
