"""Feature cache of frozen trunks, computed once and memory-mapped; training then runs only the heads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from modiste.data.pairs import Pairs
from modiste.embedding.embedder import fingerprint
from modiste.embedding.transfer import fetched, to_device
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder, Tokens, TwoTower
from modiste.models.finetune import TOWERS, parameters
from modiste.utils.atomic import read_cache, write_cache
from modiste.utils.progress import Progress, silent

DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class ImageFeatures:
    """Cached image features, one array (N, dim) a view; key (epoch, index) takes view ``epoch % views``, others 0."""

    views: Sequence[np.ndarray]

    def __call__(self, key: tuple[int, int] | int) -> Tensor:
        """Features (dim,), float32."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return torch.from_numpy(self.views[epoch % len(self.views)][index].astype(np.float32))


@dataclass(frozen=True)
class TextFeatures:
    """Cached text features (M, dim) instead of a tokenizer."""

    rows: dict[str, int]
    array: np.ndarray

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """``features`` (B, dim), float32, which `modiste.models.dual_encoder.TwoTower` takes for tokens."""
        chosen = self.array[[self.rows[text] for text in texts]]
        return {"features": torch.from_numpy(chosen.astype(np.float32))}


class FeatureCache:
    """Compute the features that enter the projections, or find those of an earlier run or trial.

    A file is keyed by the trunk's weights, the image transform and augmentation with its seed, the images or texts, and
    the dtype, and shared by all runs with the same key. Locked towers are LiT's (Zhai et al. 2022,
    arXiv:2111.07991).

    Args:
        model: A `TwoTower` with at least one frozen trunk.
        folder: Where the files are.
        dtype: ``float32``, or ``float16`` for half the disk and about three digits.
        views: Augmented views of each training image; epoch e takes view e modulo ``views``.
        batch_size: Images or texts at a time.
        progress: `modiste.utils.progress.progress_bar` or `silent`.
        device: Where the trunks run; they stay on it until the trainer moves the model.

    Raises:
        ModisteError: Neither trunk is frozen, the model has no trunks of this kind, or a setting is out of range.
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
        """The features of a split's images in all its views, or None where the image trunk trains."""
        if "image" not in self.frozen:
            return None
        views = self.views if pairs.augment is not None else 1
        return ImageFeatures([self._view(pairs, view) for view in range(views)])

    def _view(self, pairs: Pairs, view: int) -> np.ndarray:
        facts = [fingerprint(self.model.image), str(self.model.preprocess.describe())]
        facts += [str(pairs.decoder.identity(pairs.catalogue))]
        if pairs.augment is not None:
            facts += [repr(pairs.augment), f"seed {pairs.seed}, view {view}"]
        shape = (len(pairs), self.model.image.dim)
        return self._array([*facts, *pairs.catalogue.column("pixels")], lambda: self._image_batches(pairs, view), shape)

    def texts(self, texts: Iterable[str]) -> TextFeatures | None:
        """The features of texts, each once, or None where the text trunk trains."""
        if "text" not in self.frozen:
            return None
        # Texts of like length stand together, so that little of a batch is padding.
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        facts = [fingerprint(self.model.text), repr(self.model.tokenizer(["a", "b c"])), *distinct]
        array = self._array(facts, lambda: self._text_batches(distinct), (len(distinct), self.model.text.dim))
        return TextFeatures({text: row for row, text in enumerate(distinct)}, array)

    def _array(
        self, facts: Sequence[str], batches: Callable[[], Iterable[Tensor]], shape: tuple[int, int]
    ) -> np.ndarray:
        key = hashlib.sha256("\n".join([self.dtype, *facts]).encode()).hexdigest()
        path = self.folder / f"{key}.npy"
        known = read_cache(path, mapped, "Cached features")
        if known is not None:
            return known

        def fill(array: np.ndarray) -> np.ndarray:
            start = 0
            for _, batch in fetched((None, batch) for batch in batches()):
                array[start : start + len(batch)] = batch.numpy()
                start += len(batch)
            return array

        def write(unfinished: Path) -> None:
            fill(np.lib.format.open_memmap(unfinished, mode="w+", dtype=self.dtype, shape=shape)).flush()  # type: ignore[attr-defined]

        if write_cache(path, write, "Features"):
            return mapped(path)
        return fill(np.empty(shape, self.dtype))  # where the cache cannot be written, in memory

    def _image_batches(self, pairs: Pairs, view: int) -> Iterable[Tensor]:
        keys: Any = [(view, index) for index in range(len(pairs))] if pairs.augment is not None else range(len(pairs))
        workers = max((os.cpu_count() or 1) - 1, 0) if len(pairs) > 4 * self.batch_size else 0
        loader = DataLoader(pairs, self.batch_size, sampler=keys, collate_fn=stack_pixels, num_workers=workers)
        title = f"Image features, view {view + 1}"
        for pixels in self.progress(loader, len(loader), title):
            yield self._run(self.model.image, self.model.preprocess.normalise(to_device(pixels, self.device)))

    def _text_batches(self, texts: Sequence[str]) -> Iterable[Tensor]:
        starts = range(0, len(texts), self.batch_size)
        for start in self.progress(starts, len(starts), "Text features"):
            tokens = self.model.tokenizer(texts[start : start + self.batch_size])
            yield self._run(self.model.text, to_device(tokens, self.device))

    def _run(self, trunk: Any, inputs: Any) -> Tensor:
        was_training = trunk.training
        trunk.eval().to(self.device)
        with torch.inference_mode():
            features = trunk(inputs).float()
        trunk.train(was_training)
        return features


def mapped(path: Path) -> np.ndarray:
    """An array on the disk, read as it is used."""
    return np.load(path, mmap_mode="r")


def stack_pixels(items: Sequence[dict[str, Any]]) -> Tensor:
    """Pixels (B, 3, S, S) of items."""
    return torch.stack([item["pixels"] for item in items])


def trunk_is_frozen(model: DualEncoder, tower: str) -> bool:
    """Whether nothing before the projection of ``tower`` trains."""
    return not any(parameter.requires_grad for parameter in parameters(model.layer_groups(tower)[:-1]))
