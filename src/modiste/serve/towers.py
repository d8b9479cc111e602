"""Micro-batched towers of a model, each with its own thread.

Each runs on the fastest backend within ``min_cosine``.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modiste.embedding.backends import without_padding
from modiste.embedding.build import build_embedder
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.grounding import SIZE
from modiste.models.heatmaps import resized
from modiste.search.engines.memory import Snapshot
from modiste.serve.batching import Batcher, Busy
from modiste.serve.metrics import Metrics
from modiste.serve.settings import Settings

log = logging.getLogger(__name__)
# Queries of realistic lengths, on which backends are checked and timed.
QUERIES = ("dress", "red summer dress", "blue slim fit jeans for men", "women's black leather ankle boots with a zip")
EXAMPLES = 16
DECODED = 4
"""Maximum number of photos decoded at once, to bound memory."""
SCORES = 2**24
"""Maximum number of scores computed at once, to bound memory."""


@dataclass(eq=False)
class Words:
    """A text for the text tower.

    Attributes:
        text: The text to embed.
        snapshot: Rows to score it against, in one matmul with the other texts of its micro-batch; None: none.
        scores: Dot products (N,) with these rows, set once it is embedded.
    """

    text: str
    snapshot: Snapshot | None = None
    scores: np.ndarray | None = None


class Turns:
    """Admits a few threads at once, to bound memory; others wait.

    Args:
        count: Number of threads admitted at once.
        seconds: Longest wait.

    >>> with Turns(1, seconds=0.01) as turns, turns:
    ...     pass
    Traceback (most recent call last):
    ...
    modiste.serve.batching.Busy: Too many requests are waiting: try again in 1 s.
    """

    def __init__(self, count: int, seconds: float = 20.0) -> None:
        self.seconds, self._free = seconds, threading.BoundedSemaphore(count)

    def __enter__(self) -> Turns:
        if not self._free.acquire(timeout=self.seconds):
            raise Busy(max(1, round(self.seconds / 4)))
        return self

    def __exit__(self, *_: object) -> None:
        self._free.release()


class Towers:
    """Embed texts and images for many threads concurrently.

    With ``backend=auto`` the towers start on torch, and a faster backend takes over once it has been checked and timed
    in the background.

    Args:
        model: A dual encoder.
        photos: Photos of the catalogue, on which image backends are checked.
        settings: The server's settings.
        metrics: The server's metrics.

    Attributes:
        used: ``text`` and ``image`` → current backend.
        batch_size: Maximum number of items of one request per micro-batch.
        decoding: Held while a photo is decoded and preprocessed, by at most `DECODED` requests at once.
        locating: Held while phrases are located on a photo, by one request at once.
        hooked: Lock held while hooks are installed in the model's image tower.

    Raises:
        ModisteError: A named backend cannot run the model, or is too far from torch.
    """

    def __init__(self, model: DualEncoder, photos: Sequence[Image.Image], settings: Settings, metrics: Metrics) -> None:
        self.embedder = build_embedder(
            model, backend=settings.backend, min_cosine=settings.min_cosine, device=None, progress=False
        )
        self.model, self.metrics = self.embedder.model, metrics
        self.batch_size = min(settings.max_batch, settings.max_queue)
        self.used = {"text": "torch", "image": "torch"}
        self.decoding, self.locating = Turns(DECODED), Turns(1)
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
        """Fingerprint of the model."""
        return self.embedder.fingerprint

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (N, D) of texts, float32 on the CPU. Raises Busy if the queue is full."""
        words, size = [Words(text) for text in texts], self.batch_size
        return self._results(self._text, (words[start : start + size] for start in range(0, len(words), size)))

    async def soon(self, words: Sequence[Words], pixels: Sequence[Tensor] = ()) -> Embedded:
        """Embed the texts and photos of one request without blocking a thread. Raises Busy if a queue is full.

        Args:
            words: Its texts.
            pixels: Its preprocessed photos, each (3, S, S).
        """
        futures = [*self._text.submit(words), *self._image.submit(pixels)]
        made = await asyncio.gather(*map(asyncio.wrap_future, futures))
        texts = {one.text: embedding for one, embedding in zip(words, made, strict=False)}
        return Embedded(texts, made[len(words) :])

    def pictures(self, images: Iterable[Image.Image]) -> Tensor:
        """Return unit-norm embeddings (N, D) of images, float32 on the CPU. Raises Busy if the queue is full.

        Images are asked for one by one, and preprocessed and embedded by micro-batches.
        """
        asked = iter(images)
        return self._results(self._image, iter(lambda: self._preprocessed(asked), []))

    def embedded(self, pixels: Tensor) -> Tensor:
        """Return the unit-norm embedding (D,) of a preprocessed photo (3, S, S).

        Raises Busy if the queue is full.
        """
        return self._results(self._image, [[pixels]])[0]

    def tokens(self, texts: Sequence[str]) -> int:
        """Total number of tokens of these texts."""
        tokens = self.model.tokenizer(list(texts))
        counted = tokens.get("attention_mask")
        return int(next(iter(tokens.values())).numel() if counted is None else counted.sum())

    @functools.cached_property
    def grounding(self) -> DualEncoder:
        """The model, resized to the input size of heat maps."""
        with self.hooked:
            return resized(self.model, SIZE)[0]

    def close(self) -> None:
        """Wait until everything queued is embedded."""
        self._stopped.set()
        self._text.close()
        self._image.close()

    def _preprocessed(self, images: Iterator[Image.Image]) -> list[Tensor]:
        with self.decoding:
            return [self.model.preprocess(image) for image in itertools.islice(images, self.batch_size)]

    def _results(self, batcher: Batcher, batches: Iterable[Sequence[Any]]) -> Tensor:
        """Embed batch by batch, to leave room in the queue for other requests."""
        made = [torch.empty(0, self.model.embed_dim)]
        for batch in batches:
            made.append(torch.stack([future.result() for future in batcher.submit(batch)]))
        return torch.cat(made)

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
        """Choose or check the backend of each tower, and switch to it."""
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
    """An embedder with the precomputed embeddings of one request.

    Args:
        words: Text → its unit-norm embedding (D,).
        photos: Unit-norm embeddings, each (D,), of the request's photos.
    """

    def __init__(self, words: dict[str, Tensor], photos: list[Tensor]) -> None:
        self.words, self.photos = words, photos

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (N, D) of texts of the request."""
        return torch.stack([self.words[text] for text in texts])

    def pictures(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings (N, D) of the request's photos, which ``images`` must be."""
        return torch.stack(self.photos)


class Patient:
    """Towers for background work, which retries when the queue is full.

    Args:
        towers: The server's towers.
    """

    def __init__(self, towers: Towers) -> None:
        self.towers, self.model = towers, towers.model

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (N, D) of texts; see `Towers.texts`."""
        size = self.towers.batch_size
        return torch.cat([self._embedded(texts[start : start + size]) for start in range(0, len(texts), size)])

    def _embedded(self, texts: Sequence[str]) -> Tensor:
        while True:
            try:
                return self.towers.texts(texts)
            except Busy as busy:
                time.sleep(busy.retry_after)
