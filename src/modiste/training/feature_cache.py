"""Feature cache of frozen trunks, computed once and memory-mapped; training then runs only the heads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modiste.data.decode import Decoder
from modiste.data.pairs import Pairs
from modiste.data.scenes.composer import Scene, Scenes, pixels_of
from modiste.data.scenes.photos import Photo, Photos
from modiste.embedding.embedder import fingerprint
from modiste.embedding.transfer import fetched, to_device
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder, Tokens, TwoTower
from modiste.models.finetune import TOWERS, parameters
from modiste.utils.atomic import read_cache, reserve, write_cache
from modiste.utils.progress import Progress, silent

DTYPES = ("float32", "float16")
SCENES_AT_ONCE = 16


@dataclass(frozen=True)
class ImageFeatures:
    """Cached image features, one array (N, dim) per view.

    A key (epoch, index) selects view ``epoch % len(views)``, a plain index view 0.
    """

    views: Sequence[np.ndarray]

    def __call__(self, key: tuple[int, int] | int) -> Tensor:
        """Features (dim,), float32."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return torch.from_numpy(self.views[epoch % len(self.views)][index].astype(np.float32))


@dataclass(frozen=True)
class TextFeatures:
    """Cached text features (M, dim), in place of a tokenizer."""

    rows: dict[str, int]
    array: np.ndarray

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """``features`` (B, dim), float32, which `modiste.models.dual_encoder.TwoTower` accepts as tokens."""
        chosen = self.array[[self.rows[text] for text in texts]]
        return {"features": torch.from_numpy(chosen.astype(np.float32))}


@dataclass(frozen=True)
class SceneFeatures:
    """Cached patch features of scenes.

    Attributes:
        features: Patch features (N, h, w, patch_dim).
        rows: Catalogue row that each cell shows (N, h, w); see `modiste.data.scenes.Scene.rows`.
    """

    features: np.ndarray
    rows: np.ndarray


class FeatureCache:
    """Compute the inputs of the projections, or reuse those of an earlier run or trial.

    A file is keyed by the trunk's weights, the image transform and augmentation with its seed, the images or texts, and
    the dtype, and shared by all runs with the same key. Training with a locked tower is LiT (Zhai et al. 2022,
    arXiv:2111.07991).

    Args:
        model: A `TwoTower` with at least one frozen trunk.
        folder: Cache directory.
        dtype: ``float32``, or ``float16`` for half the disk space and about three digits.
        views: Augmented views of each training image; epoch e uses view e modulo ``views``.
        batch_size: Images or texts per batch.
        progress: `modiste.utils.progress.progress_bar` or `silent`.
        device: Device of the trunks, where they stay until the trainer moves the model.

    Raises:
        ModisteError: The model is not a `TwoTower` with a frozen trunk, or a setting is out of range.
    """

    def __init__(
        self,
        model: DualEncoder,
        folder: Path,
        dtype: str = "float32",
        views: int = 1,
        batch_size: int = 128,
        progress: Progress = silent,
        device: torch.device | str = "cpu",
    ) -> None:
        if dtype not in DTYPES:
            raise ModisteError(f"features.dtype={dtype} is not known. {did_you_mean(dtype, DTYPES)}")
        if views < 1:
            raise ModisteError(f"features.views={views} must be at least 1.")
        frozen = [tower for tower in TOWERS if isinstance(model, TwoTower) and trunk_is_frozen(model, tower)]
        if not frozen:
            raise ModisteError(
                "features.cache needs model=two_tower with a frozen trunk: set tune.image.train or "
                "tune.text.train to last_n with layers=1 (its projection), or to frozen; or features.cache=false."
            )
        self.model: Any = model
        self.frozen, self.folder, self.dtype, self.views = frozen, folder, dtype, views
        self.batch_size, self.progress, self.device = batch_size, progress, torch.device(device)

    def images(self, pairs: Pairs) -> ImageFeatures | None:
        """Features of a split's images in all views; None if the image trunk trains."""
        if "image" not in self.frozen:
            return None
        views = self.views if pairs.augment else 1
        return ImageFeatures([self._view(pairs, view) for view in range(views)])

    def _view(self, pairs: Pairs, view: int) -> np.ndarray:
        facts = [fingerprint(self.model.image), str(self.model.preprocess.describe())]
        facts += [str(pairs.decoder.identity(pairs.catalogue))]
        if pairs.augment:
            facts += [repr(pairs.augment), f"seed {pairs.seed}, view {view}"]
        shape = (len(pairs), self.model.image.dim)
        return self._array(
            [*facts, *pairs.catalogue.column("pixels")], lambda: on_host(self._image_batches(pairs, view)), shape
        )

    def texts(self, texts: Iterable[str]) -> TextFeatures | None:
        """Features of the distinct texts; None if the text trunk trains."""
        if "text" not in self.frozen:
            return None
        # Sorted by length, to reduce padding.
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        facts = [fingerprint(self.model.text), repr(self.model.tokenizer(["a", "b c"])), *distinct]
        shape = (len(distinct), self.model.text.dim)
        array = self._array(facts, lambda: on_host(self._text_batches(distinct)), shape)
        return TextFeatures({text: row for row, text in enumerate(distinct)}, array)

    def scenes(self, scenes: Scenes | Photos) -> SceneFeatures | None:
        """Inputs of the patch head for all ``scenes``; None if the image trunk trains."""
        if "image" not in self.frozen:
            return None
        side = scenes.size
        image: Any = self.model.at_size(side).image
        grid = tuple(self._run(image, torch.zeros(1, 3, side, side), image.stages).shape[1:])
        record = np.dtype([("features", self.dtype, grid), ("rows", "int32", grid[:2])])
        facts = [fingerprint(self.model.image), f"stages {self.model.image.patch_stages}"]
        facts += [str(self.model.preprocess.describe()), repr(scenes), f"{len(scenes)} scenes"]
        facts += [*Decoder().identity(scenes.catalogue).values(), *scenes.catalogue.column("pixels")]
        array = self._array(facts, lambda: self._scene_batches(scenes, record, image), (len(scenes),), record)
        return SceneFeatures(array["features"], array["rows"])

    def _scene_batches(self, scenes: Scenes | Photos, record: np.dtype, image: Any) -> Iterable[np.ndarray]:
        grid = record["rows"].shape[0]
        loader = DataLoader(
            scenes,
            SCENES_AT_ONCE,
            collate_fn=partial(stack_scenes, grid=grid),
            num_workers=self._workers(len(scenes) - 4 * SCENES_AT_ONCE),
        )
        for pixels, rows in self.progress(loader, len(loader), "Features of scenes"):
            batch = np.empty(len(rows), record)
            inputs = self.model.preprocess.normalise(to_device(pixels, self.device))
            batch["features"], batch["rows"] = self._run(image, inputs, image.stages).cpu().numpy(), rows
            yield batch

    def _array(
        self,
        facts: Sequence[str],
        batches: Callable[[], Iterable[np.ndarray]],
        shape: tuple[int, ...],
        dtype: Any = None,
    ) -> np.ndarray:
        dtype = dtype or self.dtype
        key = hashlib.sha256("\n".join([self.dtype, *facts]).encode()).hexdigest()
        path = self.folder / f"{key}.npy"
        known = read_cache(path, mapped, "Cached features")
        if known is not None:
            return known

        def fill(array: np.ndarray) -> np.ndarray:
            start = 0
            for batch in batches():
                array[start : start + len(batch)] = batch
                start += len(batch)
            return array

        def write(unfinished: Path) -> None:
            array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
            reserve(unfinished)
            fill(array)
            array.flush()

        if write_cache(path, write, "Features"):
            return mapped(path)
        return fill(np.empty(shape, dtype))  # in memory, if the cache is not writable

    def _image_batches(self, pairs: Pairs, view: int) -> Iterable[Tensor]:
        keys: Any = [(view, index) for index in range(len(pairs))] if pairs.augment else range(len(pairs))
        workers = self._workers(len(pairs) - 4 * self.batch_size)
        loader = DataLoader(pairs, self.batch_size, sampler=keys, collate_fn=stack_pixels, num_workers=workers)
        title = f"Image features, view {view + 1}"
        for pixels in self.progress(loader, len(loader), title):
            yield self._run(self.model.image, self.model.preprocess.normalise(to_device(pixels, self.device)))

    def _workers(self, items: int) -> int:
        """Number of loader workers; 0 for few items, which load faster than workers start."""
        return max((os.cpu_count() or 1) - 1, 0) if items > 0 else 0

    def _text_batches(self, texts: Sequence[str]) -> Iterable[Tensor]:
        starts = range(0, len(texts), self.batch_size)
        for start in self.progress(starts, len(starts), "Text features"):
            tokens = self.model.tokenizer(texts[start : start + self.batch_size])
            yield self._run(self.model.text, to_device(tokens, self.device))

    def _run(self, trunk: Any, inputs: Any, encode: Callable[[Any], Tensor] | None = None) -> Tensor:
        was_training = trunk.training
        trunk.eval().to(self.device)
        with torch.inference_mode():
            features = (encode or trunk)(inputs).float()
        trunk.train(was_training)
        return features


def on_host(parts: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Batches as arrays; the next batch is computed while one is copied from the GPU."""
    for _, part in fetched((None, part) for part in parts):
        yield part.numpy()


def stack_scenes(scenes: Sequence[Scene | Photo], grid: int) -> tuple[Tensor, np.ndarray]:
    """Stack the pixels (B, 3, S, S) of scenes, and the rows (B, grid, grid) that their cells show."""
    return torch.stack([pixels_of(scene.image) for scene in scenes]), np.stack([scene.rows(grid) for scene in scenes])


def mapped(path: Path) -> np.ndarray:
    """Open an array memory-mapped."""
    return np.load(path, mmap_mode="r")


def stack_pixels(items: Sequence[dict[str, Any]]) -> Tensor:
    """Stack the pixels (B, 3, S, S) of items."""
    return torch.stack([item["pixels"] for item in items])


def trunk_is_frozen(model: DualEncoder, tower: str) -> bool:
    """Whether all parameters before the projection of ``tower`` are frozen."""
    return not any(parameter.requires_grad for parameter in parameters(model.layer_groups(tower)[:-1]))
