"""Row 13: a step of training the projections from cached features, against running the frozen trunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import harness
import numpy as np
import torch
from harness import Row, Work

from modiste.utils.hardware import keep_pages

WORDS = ["black", "white", "cotton", "slim", "casual", "shirt", "dress", "watch", "leather", "printed", "men", "bag"]


def captions(count: int) -> list[str]:
    """``count`` titles of three to eleven words."""
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(3, 12))) for _ in range(count)]


def towers(size: int) -> Any:
    """``image=lite text=minilm``, the projections of both trained."""
    from modiste.images.lite import LiteEncoder
    from modiste.models.dual_encoder import TwoTower
    from modiste.models.finetune import Tuning, rest_frozen
    from modiste.texts.hf import minilm

    model = TwoTower(LiteEncoder(size=size), minilm(), embed_dim=512)
    for tower in ("image", "text"):
        Tuning("last_n", layers=1).apply(model, tower)
    rest_frozen(model.train())
    return model


def step(model: Any, batch: Any) -> Any:
    """One optimizer step on the batch that ``batch`` makes."""
    from modiste.losses.clip import ClipLoss

    loss = ClipLoss()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW([*parameters, *loss.parameters()])

    def work() -> None:
        optimizer.zero_grad()
        loss(*batch()).backward()
        optimizer.step()

    return work


def cached(model: Any, pairs: int) -> Work:
    """From arrays of features, gathered by a shuffled batch."""
    from modiste.data.pairs import Collate
    from modiste.training.feature_cache import ImageFeatures, TextFeatures

    generator = np.random.default_rng(0)
    images = ImageFeatures([generator.normal(size=(pairs, model.image.dim)).astype(np.float32)])
    texts = captions(pairs)
    table = generator.normal(size=(pairs, model.text.dim)).astype(np.float32)
    collate = Collate(TextFeatures({text: row for row, text in enumerate(texts)}, table))

    def batch() -> Any:
        order = generator.permutation(pairs).tolist()
        items = [{"pixels": images((0, i)), "text": texts[i], "product": i, "row": i} for i in order]
        made = collate(items)
        return model(made["pixels"], made["tokens"])

    return step(model, batch)


def running(model: Any, pairs: int, size: int) -> Work:
    """From pixels and tokens; the frozen trunks take 128 pairs at a time, as they keep no graph."""
    pixels = torch.randint(0, 256, (pairs, 3, size, size), dtype=torch.uint8)
    tokens = model.tokenizer(captions(pairs))

    def batch() -> Any:
        parts = [
            model(pixels[start : start + 128], {name: t[start : start + 128] for name, t in tokens.items()})
            for start in range(0, pairs, 128)
        ]
        return tuple(torch.cat(side) for side in zip(*parts, strict=True))

    return step(model, batch)


def rows(quick: bool) -> Iterator[Row]:
    """The trunks once, the heads several times."""
    keep_pages()
    pairs, size = (128, 64) if quick else (4096, 224)
    model = towers(size)
    heads = cached(model, pairs)
    heads()
    ours = sorted(harness.seconds(heads) for _ in range(5))[2]
    theirs = harness.seconds(running(model, pairs, size))
    what = f"training step of the projections at batch {pairs:,}, EfficientNet-Lite0 at {size} px and MiniLM frozen"
    note = (
        "the trunks once, the heads five times; batches gathered and collated; same embeddings "
        "(tests/training/test_feature_cache.py)"
    )
    yield Row(13, what, "running the frozen trunks", "time", ours, theirs, "s", theirs / ours, 50, 500, note)


if __name__ == "__main__":
    harness.main(__file__, rows)
