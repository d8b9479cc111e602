"""A model's towers behind micro-batches, each on its own thread and the fastest backend within ``min_cosine``."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modiste.embedding.backends import without_padding
from modiste.embedding.embedder import ModelEmbedder, default_cache
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.grounding import SIZE
from modiste.models.heatmaps import resized
from modiste.search.engines.memory import Snapshot
from modiste.serve.batching import Batcher, Busy
from modiste.serve.metrics import Metrics
from modiste.serve.settings import Settings

log = logging.getLogger(__name__)
# On which a backend is checked and timed: queries of the lengths that shoppers type.
QUERIES = ("dress", "red summer dress", "blue slim fit jeans for men", "women's black leather ankle boots with a zip")
EXAMPLES = 16
SCORES = 2**24
"""Scores of one pass over an index's vectors, at most: memory bounds it."""


@dataclass(eq=False)
class Words:
    """A text for the text tower.

    Attributes:
        text: What is embedded.
        snapshot: Rows that it is scored against, in one pass with the other texts of its micro-batch; None: none.
        scores: Dot products (N,) with these rows, once it is embedded.
    """

    text: str
    snapshot: Snapshot | None = None
    scores: np.ndarray | None = None


class Towers:
    """Embed texts and images for many threads concurrently.

    It answers with torch from the first moment; with ``backend=auto`` a faster backend takes over once it was checked
    against torch and timed, in the background.

    Args:
        model: A dual encoder.
        photos: Some of the catalogue's, on which image backends are checked.
        settings: Of the server.
        metrics: Of the server.

    Attributes:
        used: ``text`` and ``image`` to the backend that runs them now.
        batch_size: Largest micro-batch.
        hooked: Held while something has a hook in the model's image tower.

    Raises:
        ModisteError: A backend that was named cannot run the model, or is too far from torch.
    """

    def __init__(self, model: DualEncoder, photos: Sequence[Image.Image], settings: Settings, metrics: Metrics) -> None:
        self.embedder = ModelEmbedder(
            model, cache=default_cache(), backend=settings.backend, min_cosine=settings.min_cosine
        )
        self.model, self.metrics, self.batch_size = self.embedder.model, metrics, settings.max_batch
        self.used = {"text": "torch", "image": "torch"}
        self.hooked = threading.Lock()
        self._encode: dict[str, Any] = {"text": model.encode_text, "image": model.encode_image}
        self._photos = list(photos)[:EXAMPLES]
        self._stopped = threading.Event()
        if settings.backend != "auto":
            self._choose()
        limits = (settings.max_batch, settings.max_wait_ms / 1000, settings.max_queue)
        self._text = Batcher(self._run_texts, *limits, name="text tower", observe=metrics.batches("text"))
        self._image = Batcher(self._run_pixels, *limits, name="image tower", observe=metrics.batches("image"))
        metrics.waiting.labels("text").set_function(lambda: len(self._text))
        metrics.waiting.labels("image").set_function(lambda: len(self._image))
        if settings.backend == "auto":
            threading.Thread(target=self._choose, name="backends", daemon=True).start()

    @property
    def fingerprint(self) -> str:
        """Of the model's weights."""
        return self.embedder.fingerprint

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm embeddings (N, D), float32 on the CPU. Raises Busy."""
        return _results(self._text, [Words(text) for text in texts], self.model.embed_dim)

    async def soon(self, words: Sequence[Words], pixels: Sequence[Tensor] = ()) -> Embedded:
        """What a request asks for, embedded while it takes no thread. Raises Busy.

        Args:
            words: Its texts.
            pixels: Its photos, preprocessed.
        """
        futures = [*self._text.submit(words), *self._image.submit(pixels)]
        made = await asyncio.gather(*map(asyncio.wrap_future, futures))
        texts = {one.text: embedding for one, embedding in zip(words, made, strict=False)}
        return Embedded(texts, made[len(words) :])

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit-norm embeddings (N, D), float32 on the CPU. Raises Busy."""
        return _results(self._image, [self.model.preprocess(image) for image in images], self.model.embed_dim)

    def tokens(self, texts: Sequence[str]) -> int:
        """Number of tokens that the text tower reads for these texts."""
        tokens = self.model.tokenizer(list(texts))
        counted = tokens.get("attention_mask")
        return int(next(iter(tokens.values())).numel() if counted is None else counted.sum())

    @functools.cached_property
    def grounding(self) -> DualEncoder:
        """The model at the size of input that heat maps are made at."""
        with self.hooked:
            return resized(self.model, SIZE)[0]

    def close(self) -> None:
        """Return once everything queued is embedded."""
        self._stopped.set()
        self._text.close()
        self._image.close()

    def _run_texts(self, words: list[Words]) -> Tensor:
        embeddings = self._run("text", without_padding(self.model.tokenizer([one.text for one in words])))
        for snapshot in {one.snapshot for one in words if one.snapshot}:
            places = [place for place, one in enumerate(words) if one.snapshot is snapshot]
            step = max(1, SCORES // len(snapshot))
            for some in (places[start : start + step] for start in range(0, len(places), step)):
                for place, scores in zip(some, embeddings[some].numpy() @ snapshot.vectors.T, strict=True):
                    words[place].scores = scores
        return embeddings

    def _run_pixels(self, pixels: list[Tensor]) -> Tensor:
        with self.hooked:
            return self._run("image", torch.stack(pixels))

    @torch.inference_mode()
    def _run(self, tower: str, inputs: Tensor | Tokens) -> Tensor:
        device = self.embedder.device
        moved = (
            inputs.to(device)
            if isinstance(inputs, Tensor)
            else {name: tensor.to(device) for name, tensor in inputs.items()}
        )
        return self._encode[tower](moved).float().cpu()

    def _choose(self) -> None:
        """Put the chosen backend of each tower into use."""
        photos = [self._photos[place % len(self._photos)] for place in range(EXAMPLES)] if self._photos else []
        queries = [QUERIES[place % len(QUERIES)] for place in range(EXAMPLES)]
        examples = {
            "text": lambda: without_padding(self.model.tokenizer(queries)),
            "image": lambda: torch.stack([self.model.preprocess(photo) for photo in photos]),
        }
        for tower, example in examples.items():
            if self._stopped.is_set() or (tower == "image" and not photos):
                return
            try:
                self.embedder.take(tower, example)
            except ModisteError:
                if self.embedder.backend != "auto":
                    raise
                log.exception("The %s tower stays on torch.", tower)
            if tower in self.embedder.taken:
                self.used[tower], self._encode[tower] = self.embedder.taken[tower]
            self.metrics.backend.labels(tower).info({"backend": self.used[tower]})


class Embedded:
    """An embedder of what one request asks for, which is embedded already.

    Args:
        words: Text to its unit-norm embedding (D,).
        photos: Unit-norm embeddings (D,) of its photos.
    """

    def __init__(self, words: dict[str, Tensor], photos: list[Tensor]) -> None:
        self.words, self.photos = words, photos

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D)."""
        return torch.stack([self.words[text] for text in texts])

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings (N, D) of all its photos."""
        return torch.stack(self.photos)


class Patient:
    """The towers for background work, which waits where a client would get an error that the queue is full.

    Args:
        towers: Of the server.
    """

    def __init__(self, towers: Towers) -> None:
        self.towers, self.model = towers, towers.model

    def texts(self, texts: Sequence[str]) -> Tensor:
        """As `Towers.texts`."""
        size = self.towers.batch_size
        return torch.cat([self._embedded(texts[start : start + size]) for start in range(0, len(texts), size)])

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        while True:
            try:
                return self.towers.texts(texts)
            except Busy as busy:
                time.sleep(busy.retry_after)


def _results(batcher: Batcher, items: Sequence[Any], dim: int) -> Tensor:
    """A long list goes batch by batch, so that it leaves room in the queue for others."""
    made, size = [torch.empty(0, dim)], min(batcher.max_items, batcher.max_queue)
    for start in range(0, len(items), size):
        futures = batcher.submit(items[start : start + size])
        made.append(torch.stack([future.result() for future in futures]))
    return torch.cat(made)
