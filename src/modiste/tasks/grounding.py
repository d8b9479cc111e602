"""Grounding: heat maps of phrases on an image, evaluated against the masks of parts.

FashionCLIP (Sci Rep 12:18958) shows occlusion heat maps without measuring them; here each method is measured by the
pointing game (Zhang et al., ECCV 2016), IoU, average precision and boxes. A map that ignores the photo may still score
well, since garments have typical positions: baselines and controls measure how much the photo contributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from modiste.errors import ModisteError
from modiste.metrics.direction import directions
from modiste.metrics.intervals import Interval, bootstrap, bootstrap_clusters, describe_bootstrap
from modiste.metrics.localisation import DEFINITIONS, THRESHOLDS, Floats, best_threshold, iou_curve, measure
from modiste.models.heatmaps import Cam, GradCam, HeatMap, PatchText, resized
from modiste.tasks.grounding_maps import BASELINES, CONTROLS, MINUS_MEAN, Photo, Scan
from modiste.tasks.heat_sheet import heat_sheet
from modiste.tasks.result import Embedder, Result
from modiste.tasks.zeroshot import ZeroShot
from modiste.utils.progress import silent

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

PROMPTS = ("a photo of {}",)
MACRO = "macro_"
DECISIVE = ("own_mean", "wrong_phrase")
"""The controls that a method must beat to count as grounding."""
WORDS = {"own_mean": "its own mean map", "wrong_phrase": "a wrong phrase's map"}


@dataclass(frozen=True)
class Pairs:
    """The (image, phrase) pairs of a split and their metrics.

    Attributes:
        photos: Each pair's photo, in the order of the split.
        places: Each pair's index among the parts of its photo.
        parts: Each pair's part.
        values: ``<map>/<metric>`` → (n,) values: the metrics of `DEFINITIONS` of every map, and the gains (`gains`).
    """

    photos: list[Photo]
    places: list[int]
    parts: list[str]
    values: dict[str, Floats]

    @property
    def clusters(self) -> np.ndarray:
        """(n,) position of each pair's photo in the split's sample."""
        return np.array([photo.position for photo in self.photos])

    def phrases(self, parts: Sequence[str]) -> np.ndarray:
        """(n,) index of each pair's part in ``parts``."""
        return np.array([parts.index(part) for part in self.parts])


class Grounding:
    """Evaluate heat maps of phrases against masks; a query is an (image, phrase) pair.

    Args:
        methods: Name (the metrics' prefix) to method; None disables it.
        skip: Names of methods that are not measured.
        size: Side of the model's input in pixels, independent of training; a tower with a fixed input size keeps it,
            which the result records. None: the model's own size.
        prompts: Templates with one ``{}`` each; a phrase's vector is the normalised mean over them.
        words: Part to its word in a prompt.
        threshold_split: Split that selects the threshold of each map, by the mean IoU over all pairs; its mean masks
            are the position prior.
        resolution: Longer side, in pixels, at which masks and maps are compared.
        min_area: Masks that cover a smaller fraction of the image are skipped and counted.
        mean_weight: Weight of the mean map of a phrase that ``<method>/minus_mean`` subtracts.
        limit: Number of images per split, a seeded sample; None: all.
        resamples: Number of bootstrap resamples.
        seed: Seed of the sample, the controls, the bootstrap and the examples.
        examples: Rows per sheet of heat maps.

    Raises:
        ModisteError: No method is left, a method's name is that of a baseline, ``skip`` names an unknown method, or a
            template does not have exactly one ``{}``.
    """

    name = "grounding"

    def __init__(
        self,
        methods: Mapping[str, HeatMap | None] | None = None,
        skip: Sequence[str] = (),
        size: int | None = 384,
        prompts: Sequence[str] | None = None,
        words: Mapping[str, str] | None = None,
        threshold_split: str = "val",
        resolution: int = 112,
        min_area: float = 0.002,
        mean_weight: float = 0.5,
        limit: int | None = None,
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 8,
    ) -> None:
        chosen: Mapping[str, HeatMap | None] = (
            {"patches": PatchText(), "cam": Cam(), "gradcam": GradCam()} if methods is None else methods
        )
        unknown = [name for name in skip if name not in chosen]
        if unknown:
            raise ModisteError(f"task.grounding.skip names an unknown method, '{unknown[0]}': use {', '.join(chosen)}.")
        self.methods = {str(name): method for name, method in chosen.items() if method is not None and name not in skip}
        self.prompts = list(PROMPTS if prompts is None else prompts)
        self.words, self.size, self.mean_weight = dict(words or {}), size, mean_weight
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
        """Raise ModisteError for a training run, whose validation computes no patch embeddings."""
        if "trainer" in cfg:
            raise ModisteError(
                "Grounding needs patch embeddings, which validation does not compute: evaluate the "
                "run with task=[grounding] after training."
            )

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: The embedder has no model, the data set has no masks, a split is empty or has no mask that is
                large enough, no method supports the model, or a map is not finite.
        """
        if getattr(embedder, "model", None) is None:
            raise ModisteError("Grounding needs a model, not embeddings from files: give run=DIR or model=NAME.")
        samples = {name: self._sample(catalogue.select(split=name)) for name in (self.threshold_split, split)}
        scan, why_size = self._scan(embedder, samples)
        thresholds = self._thresholds(scan)
        pairs = self._pairs(scan, split, thresholds)
        metrics = self._intervals(pairs)
        findings = [verdict(metrics, name) for name in scan.methods]
        first = next(iter(scan.methods))
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            metrics=metrics,
            higher_is_better=directions(metrics),
            protocol=self.describe(scan, why_size) | {"thresholds": thresholds},
            counts=scan.counts | {f"{name}/flat_maps": _flat(pairs, name) for name in scan.methods},
            primary=f"{first}/pointing",
            per_query=pairs.values | {"cluster": pairs.clusters, "phrase": pairs.phrases([*scan.vectors])},
            tables={"phrases": self._table(pairs, list(scan.methods))},
            summary=["pointing"],
            findings=findings,
            pictures=self._pictures(scan, split, pairs, first, findings),
        )

    def describe(self, scan: Scan, why_size: str = "") -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "methods": {name: method.describe() for name, method in scan.methods.items()},
            "skipped": scan.skipped,
            "baselines": BASELINES,
            "controls": CONTROLS,
            MINUS_MEAN: f"the method's map minus {self.mean_weight:g} times its mean map of the phrase (own_mean), "
            "minimum to maximum",
            "without": "a control or prior without another photo of the phrase is flat",
            "frame": "mean maps and other photos' maps lie in the padded square at their own proportions",
            "input": "the image on a grey (128) square, scaled to the model's input without a crop",
            "input_size": {"pixels": scan.model.preprocess.size, "kept": why_size},
            "map": "over the image without the padding, minimum to maximum; 0 where it is the same everywhere",
            "resolution": self.resolution,
            "sampling": "maps bilinear and masks nearest, both at the centres of the pixels of the resolution",
            "prompts": self.prompts,
            "phrases": {part: self.words.get(part, part) for part in scan.vectors},
            "per_query": {"cluster": "the photo's place in its split", "phrase": "the pair's place among the phrases"},
            "phrase_vector": "normalised mean of the normalised embeddings of the prompts; cosine",
            "queries": "pairs of an image and a part that it has a mask of",
            "min_area": self.min_area,
            "limit": self.limit,
            "metrics": DEFINITIONS
            | {f"{MACRO}{metric}": f"mean over phrases of the mean {metric} of their pairs" for metric in DEFINITIONS}
            | {"gain_over_…": "pointing minus the pointing of that map, on the same pairs"},
            "verdict": f"a method grounds if the intervals of its gains over {' and '.join(DECISIVE)} lie above 0",
            "threshold": "one a map, of 0, 0.01, …, 1: the best mean IoU over all pairs, the lowest of several",
            "threshold_split": self.threshold_split,
            "bootstrap": describe_bootstrap(self.resamples, self.seed, "photo, with all of its pairs"),
            "seed": self.seed,
        }

    def _scan(self, embedder: Any, samples: Mapping[str, Catalogue]) -> tuple[Scan, str]:
        """The maps, and why the model keeps its own input size; empty if it does not."""
        names = {name: None for rows in samples.values() for i in range(len(rows)) for name in rows.parts(i)}
        if not names:
            raise ModisteError(f"No image of the split {' or '.join(samples)} has a mask of a known part.")
        phrases = [self.words.get(name, name) for name in names]
        model, why = resized(embedder.model, self.size)
        device = next(model.parameters()).device
        vectors = ZeroShot.class_vectors(embedder, phrases, self.prompts).to(device)
        scan = Scan(
            model,
            self.methods,
            dict(zip(names, vectors, strict=True)),
            samples,
            resolution=self.resolution,
            min_area=self.min_area,
            mean_weight=self.mean_weight,
            seed=self.seed,
            bf16=getattr(embedder, "precision", "fp32") == "bf16",
            progress=getattr(embedder, "progress", silent),
        )
        return scan, why

    def _sample(self, rows: Catalogue) -> Catalogue:
        if self.limit is None or self.limit >= len(rows):
            return rows
        chosen = np.random.default_rng(self.seed).choice(len(rows), self.limit, replace=False)
        return rows.select(rows=np.sort(chosen))

    def _thresholds(self, scan: Scan) -> dict[str, float]:
        """Map → its best threshold on the threshold split."""
        curves: dict[str, Floats] = {name: np.zeros(len(THRESHOLDS)) for name in scan.names}
        for photo, maps in scan.maps(self.threshold_split, self.threshold_split):
            for name, curve in curves.items():
                for heat, mask in zip(maps[name], photo.masks, strict=True):
                    curve += iou_curve(heat, mask)
        return {name: best_threshold(curve) for name, curve in curves.items()}

    def _pairs(self, scan: Scan, split: str, thresholds: Mapping[str, float]) -> Pairs:
        """The metrics of every pair of ``split``."""
        photos: list[Photo] = []
        values: dict[str, list[float]] = {f"{name}/{metric}": [] for name in thresholds for metric in DEFINITIONS}
        for photo, maps in scan.maps(split, self.threshold_split):
            photos.append(photo)
            for name, threshold in thresholds.items():
                for heat, mask in zip(maps[name], photo.masks, strict=True):
                    for metric, value in measure(heat, mask, threshold).items():
                        values[f"{name}/{metric}"].append(value)
        measured = {name: np.array(of_pairs) for name, of_pairs in values.items()}
        return Pairs(
            [photo for photo in photos for _ in photo.parts],
            [place for photo in photos for place in range(len(photo.parts))],
            [part for photo in photos for part in photo.parts],
            measured | gains(measured, scan.methods),
        )

    def _intervals(self, pairs: Pairs) -> dict[str, Interval]:
        """Micro and macro averages of every map, with intervals."""
        differences = [name for name in pairs.values if "/gain_over_" in name]
        micro, macro = (
            bootstrap_clusters(pairs.values, pairs.clusters, classes, self.resamples, self.seed, differences)
            for classes in (None, np.array(pairs.parts))
        )
        found: dict[str, Interval] = {}
        for name in pairs.values:
            part, _, metric = name.rpartition("/")
            found |= {name: micro[name], f"{part}/{MACRO}{metric}": macro[name]}
        return found

    def _table(self, pairs: Pairs, methods: Sequence[str]) -> dict[str, list[Any]]:
        """One row per phrase, most frequent first: pairs, pointing of every map, intervals of the methods."""
        parts = np.array(pairs.parts)
        names, counts = np.unique(parts, return_counts=True)
        order = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda row: (-row[1], row[0]))
        pointing = {name: values for name, values in pairs.values.items() if name.endswith("/pointing")}
        ends = [f"{method}/pointing" for method in methods]
        rows: list[list[Any]] = []
        for name, count in order:
            found = bootstrap({n: v[parts == name] for n, v in pointing.items()}, (), self.resamples, self.seed)
            row = [self.words.get(name, name), count, *(found[n].value for n in pointing)]
            rows.append([*row, *(end for n in ends for end in (found[n].low, found[n].high))])
        columns = ["phrase", "pairs", *pointing, *(f"{n}_{end}" for n in ends for end in ("low", "high"))]
        return {"columns": columns, "rows": rows}

    def _pictures(
        self, scan: Scan, split: str, pairs: Pairs, first: str, findings: Sequence[str]
    ) -> dict[str, Image.Image]:
        """Sheets of a seeded sample of pairs, and of the best and worst pairs of the first method."""
        number = min(self.examples, len(pairs.parts))
        if not number:
            return {}
        chosen = np.sort(np.random.default_rng(self.seed).choice(len(pairs.parts), number, replace=False))
        order = np.argsort(-pairs.values[f"{first}/pixel_ap"], kind="stable")
        sheets = {"heat maps": chosen, f"best of {first}": order[:number], f"worst of {first}": order[::-1][:number]}
        return {
            title: heat_sheet([self._example(scan, split, pairs, i) for i in rows], findings if rows is chosen else ())
            for title, rows in sheets.items()
        }

    def _example(self, scan: Scan, split: str, pairs: Pairs, i: int) -> dict[str, Any]:
        """A row of `modiste.tasks.heat_sheet.heat_sheet` for the i-th pair."""
        photo, place, part = pairs.photos[i], pairs.places[i], pairs.parts[i]
        words = {}
        for name in scan.methods:
            hit, iou, ap = (float(pairs.values[f"{name}/{metric}"][i]) for metric in ("pointing", "iou", "pixel_ap"))
            words[name] = f"{'hit' if hit > 0.5 else 'miss'} · IoU {iou:.2f} · AP {ap:.2f}"
        return {
            "title": self.words.get(part, part),
            "image": scan.samples[split].read_image(photo.position),
            "mask": photo.masks[place],
            "maps": {name: photo.heat(name, slice(place, place + 1))[0].numpy() for name in scan.methods},
            "words": words,
        }


def gains(values: Mapping[str, Floats], methods: Sequence[str] | Mapping[str, Any]) -> dict[str, Floats]:
    """``<method>/gain_over_<map>``: pointing minus that of every control and baseline, on the same pairs.

    ``<method>/minus_mean/gain_over_own_mean`` is the gain of the variant over the method's mean map.

    Args:
        values: ``<map>/pointing`` → (n,) values.
        methods: Names of the methods.
    """
    found: dict[str, Floats] = {}
    for method in methods:
        own = values[f"{method}/pointing"]
        others = {name: f"{method}/{name}" for name in CONTROLS} | {name: name for name in BASELINES}
        found |= {f"{method}/gain_over_{name}": own - values[f"{other}/pointing"] for name, other in others.items()}
        mean = values[f"{method}/own_mean/pointing"]
        found[f"{method}/{MINUS_MEAN}/gain_over_own_mean"] = values[f"{method}/{MINUS_MEAN}/pointing"] - mean
    return found


def grounds(metrics: Mapping[str, Interval], method: str) -> bool:
    """Whether the gains over the method's mean map and a wrong phrase's map have intervals above 0."""
    return all(metrics[f"{method}/gain_over_{name}"].low > 0 for name in DECISIVE)


def verdict(metrics: Mapping[str, Interval], method: str) -> str:
    """State in one sentence, with figures, whether a method grounds."""
    clauses = []
    for name in DECISIVE:
        gain = metrics[f"{method}/gain_over_{name}"]
        words = "beats" if gain.low > 0 else "does not beat"
        clauses.append(f"{words} {WORDS[name]} ({gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}])")
    prior = metrics[f"{method}/gain_over_prior"]
    place = "above" if prior.low > 0 else "below" if prior.high < 0 else "not distinguishable from"
    judged = "grounds" if grounds(metrics, method) else "does not ground"
    return (
        f"{method} {judged}: its pointing, {metrics[f'{method}/pointing'].value:.3f}, {' and '.join(clauses)}; it is "
        f"{place} the position prior ({metrics['prior/pointing'].value:.3f}), which sees no photo."
    )


def _flat(pairs: Pairs, method: str) -> int:
    """Number of a method's maps that are constant."""
    places = zip(pairs.photos, pairs.places, strict=True)
    return sum(bool((photo.heat(method, slice(k, k + 1)) == 0).all()) for photo, k in places)
