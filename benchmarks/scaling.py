"""How time and memory grow with the number of products: measured here, fitted, written into benchmarks/scaling.md."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from harness import Row, Work
from torch.nn import functional as F

from modiste.reporting.tables.sheets import formatted_table

D = 512
SCALING = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    """Random unit-norm embeddings (count, 512)."""
    return F.normalize(torch.randn(count, D, generator=torch.Generator().manual_seed(seed)), dim=-1)


def ranking(products: int) -> Work:
    """Every rank in both directions between N images and N texts."""
    from modiste.metrics.both_ranks import both_ranks
    from modiste.metrics.relevance import Relevance

    image, text = vectors(products), vectors(products, 1)
    relevance = Relevance.from_ids(np.arange(products), np.arange(products))
    return lambda: both_ranks(text, image, relevance)


def search(products: int, queries: int = 256, rows: int = 4096, k: int = 10) -> Work:
    """The ten nearest of N products to each of 256 queries, exactly, a tile of the gallery at a time."""
    gallery, query = vectors(products), vectors(queries, 1)

    def work() -> torch.Tensor:
        best, where = torch.empty(queries, 0), torch.empty(queries, 0, dtype=torch.long)
        for start in range(0, products, rows):
            scores, found = (query @ gallery[start : start + rows].T).topk(min(k, products - start))
            best, order = torch.cat([best, scores], 1).topk(min(k, start + k, products))
            where = torch.cat([where, found + start], 1).gather(1, order)
        return where

    return work


def loss(products: int) -> Work:
    """The CLIP loss of one batch of N pairs, forward and backward."""
    from modiste.losses.clip import ClipLoss

    image, text = vectors(products).requires_grad_(), vectors(products, 1).requires_grad_()
    clip = ClipLoss()

    def work() -> None:
        image.grad = text.grad = None
        clip(image, text).backward()

    return work


def _model() -> Any:
    from modiste.config import compose
    from modiste.models.load import build_model

    torch.manual_seed(0)
    return build_model(compose("evaluate", ["model=two_tower", "image=small", "text=small"]))


def _batch(model: Any, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    side = model.preprocess.size
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    return pixels, model.tokenizer(["a red summer dress with short sleeves and a belt"] * count)


def embedding(products: int, batch: int = 64) -> Work:
    """Images and texts of N products through the two small towers, 64 at a time; pixels are in memory."""
    model = _model().eval()
    pixels, tokens = _batch(model, batch)

    @torch.inference_mode()
    def work() -> tuple[torch.Tensor, torch.Tensor]:
        image, text = (torch.empty(products, model.embed_dim) for _ in range(2))
        for start in range(0, products, batch):
            rows = slice(start, start + batch)
            image[rows] = model.encode_image(pixels)[: products - start]
            text[rows] = model.encode_text(tokens)[: products - start]
        return image, text

    return work


def training(products: int, batch: int = 64) -> Work:
    """An epoch of N pairs: embedded in batches of 64, gradients of the towers and the loss; no optimizer."""
    from modiste.losses.clip import ClipLoss

    model, clip = _model().train(), ClipLoss()
    for parameter in model.parameters():
        parameter.requires_grad_()
    pixels, tokens = _batch(model, batch)

    def work() -> None:
        for _ in range(0, products, batch):
            model.zero_grad()
            clip(*model(pixels, tokens)).backward()

    return work


CASES = {work.__name__: work for work in (ranking, search, loss, embedding, training)}
SIZES = {
    "ranking": (1_000, 3_000, 10_000, 30_000, 100_000),
    "search": (1_000, 10_000, 100_000, 300_000, 1_000_000),
    "loss": (1_000, 3_000, 10_000, 30_000),
    "embedding": (1_000, 3_000, 10_000, 30_000),
    "training": (1_000, 3_000, 10_000),
}
"""Up to what a run of ten minutes on two cores takes."""


def measure(case: str, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """Seconds (best of a few) and peak memory beyond the inputs, for each size."""
    points = []
    for size in sizes:
        work = CASES[case](size)
        first = harness.seconds(work)
        best = min([first, *(harness.seconds(work) for _ in range(2 if first < 2 else 0))])
        memory = harness.peak_mib(__file__, case, 1, products=size)
        points.append({"products": size, "seconds": best, "mib": memory})
        print(f"{case:>10} {size:>9,}: {best:9.3f} s {memory:9.1f} MiB", flush=True)
    return points


def slope(points: list[dict[str, float]], quantity: str = "seconds", last: int = 3) -> float:
    """Exponent of the law N^x through the largest sizes.

    >>> round(slope([{"products": n, "seconds": 3 * n**2} for n in (10, 100, 1000)]), 3)
    2.0
    """
    x, y = (np.log([point[name] for point in points[-last:]]) for name in ("products", quantity))
    return float(np.polyfit(x, y, 1)[0])


def at(points: list[dict[str, float]], products: int) -> float:
    """Seconds for ``products`` by the fitted law, from the largest size measured."""
    end = points[-1]
    return end["seconds"] * (products / end["products"]) ** slope(points)


def table(results: dict[str, Any]) -> str:
    """The measured part of scaling.md."""
    heads = ["what", "products", "time", "memory", "time grows as", "1 M products, by that law"]
    rows = []
    for case, points in results["points"].items():
        for index, point in enumerate(points):
            law = (f"N^{slope(points):.2f}", _duration(at(points, 10**6))) if index == len(points) - 1 else ("", "")
            rows.append([case, f"{point['products']:,}", f"{point['seconds']:.3g} s", f"{point['mib']:.0f} MiB", *law])
    machine = results["environment"]
    measured = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads."
    return f"{formatted_table(heads, 'lrrrrr', rows)}\n\n{measured}"


def _duration(seconds: float) -> str:
    """Rounded to two digits in a unit that reads well.

    >>> _duration(7000), _duration(0.5), _duration(3e6)
    ('1.9 h', '0.5 s', '35 days')
    """
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"


def write_table() -> None:
    """Put the table of results/scaling.json between its marks in scaling.md."""
    results = json.loads((harness.RESULTS / "scaling.json").read_text())
    before, rest = SCALING.read_text(encoding="utf-8").split(BEGIN)
    content = f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}"
    SCALING.write_text(content, encoding="utf-8")


def rows(quick: bool) -> Iterator[Row]:
    """No ratios: there is no peer here."""
    if quick:
        for case in SIZES:
            points = measure(case, (64, 128))
            assert math.isfinite(slope(points))
    yield from ()


def main() -> None:
    """``--quick`` and ``--memory`` as every benchmark; otherwise measures, writes the JSON and the table."""
    if len(sys.argv) > 1:
        harness.main(__file__, rows, CASES)
        return
    points = {case: measure(case, sizes) for case, sizes in SIZES.items()}
    harness.RESULTS.mkdir(exist_ok=True)
    content = {"environment": harness.environment(), "rows": [], "points": points}
    (harness.RESULTS / "scaling.json").write_text(json.dumps(content, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main()
