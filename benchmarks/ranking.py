"""Rows 11 and 12: retrieval metrics of N images and N texts, both directions, against other packages."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Iterator
from typing import Any

import harness
import numpy as np
import torch
from harness import Row, Work
from torch.nn import functional as F

D = 512


def embeddings(pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-norm images and texts (N, 512) that agree a little, so that ranks spread over the gallery."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(pairs, D, generator=generator)
    text = image + 6 * torch.randn(pairs, D, generator=generator)
    return F.normalize(image, dim=-1), F.normalize(text, dim=-1)


def ours(pairs: int) -> Work:
    """R@1, 5, 10, MRR, MAP and nDCG, and the rest that one pass gives, in both directions."""
    from modiste.metrics.both_ranks import both_ranks
    from modiste.metrics.ranking import query_metrics, summarise
    from modiste.metrics.relevance import Relevance

    image, text = embeddings(pairs)
    relevance = Relevance.from_ids(np.arange(pairs), np.arange(pairs))
    back = relevance.transposed(pairs)

    def work() -> list[dict[str, float]]:
        forth_ranks, back_ranks = both_ranks(text, image, relevance)
        return [summarise(query_metrics(forth_ranks, relevance)), summarise(query_metrics(back_ranks, back))]

    return work


def torchmetrics_retrieval(pairs: int) -> Work:
    """The same six of torchmetrics, in one direction only; scores made positive, or it drops relevant items."""
    from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

    image, text = embeddings(pairs)

    def work() -> dict[str, float]:
        scores = (text @ image.T + 1).flatten()
        target = torch.eye(pairs, dtype=torch.bool).flatten()
        query = torch.arange(pairs).repeat_interleave(pairs)
        metrics = {f"recall@{k}": RetrievalRecall(top_k=k) for k in (1, 5, 10)}
        metrics |= {"mrr": RetrievalMRR(), "map": RetrievalMAP(), "ndcg@10": RetrievalNormalizedDCG(top_k=10)}
        values = {}
        for name, metric in metrics.items():
            metric.update(scores, target, indexes=query)
            values[name] = float(metric.compute())
            metric.reset()
        return values

    return work


def open_clip_metrics(pairs: int) -> Work:
    """`open_clip_train.train.get_clip_metrics`: ranks of both directions by sorting."""
    from open_clip_train.train import get_clip_metrics

    image, text = embeddings(pairs)
    return lambda: get_clip_metrics(image, text, torch.tensor(1.0))


def pytrec(pairs: int) -> Work:
    """pytrec_eval on a run of all scores, one direction."""
    import pytrec_eval

    image, text = embeddings(pairs)
    truth = {str(index): {str(index): 1} for index in range(pairs)}
    measures = {"recall.1,5,10", "recip_rank", "map", "ndcg_cut.10"}

    def work() -> Any:
        scores = (text @ image.T).numpy()
        names = [str(index) for index in range(pairs)]
        run = {name: dict(zip(names, row.tolist(), strict=True)) for name, row in zip(names, scores, strict=True)}
        return pytrec_eval.RelevanceEvaluator(truth, measures).evaluate(run)

    return work


def ranx_evaluate(pairs: int) -> Work:
    """ranx on a run of all scores, one direction; its compilation is done beforehand."""
    from ranx import Qrels, Run, evaluate

    image, text = embeddings(pairs)
    names = [str(index) for index in range(pairs)]
    truth = Qrels({name: {name: 1} for name in names})
    measures = ["recall@1", "recall@5", "recall@10", "mrr", "map", "ndcg@10"]

    def work() -> Any:
        scores = (text @ image.T).numpy()
        run = Run({name: dict(zip(names, row.tolist(), strict=True)) for name, row in zip(names, scores, strict=True)})
        return evaluate(truth, run, measures)

    return work


def matmul(pairs: int) -> Work:
    """One matmul alone, tile by tile into one buffer."""
    from modiste.metrics.both_ranks import TILE

    image, text = embeddings(pairs)
    buffer = torch.empty(TILE * TILE)

    def work() -> None:
        for queries in text.split(TILE):
            for gallery in image.split(TILE):
                out = buffer[: len(queries) * len(gallery)].view(len(queries), len(gallery))
                torch.mm(queries, gallery.T, out=out)

    return work


def check(pairs: int) -> None:
    """Ours equal torchmetrics', pytrec_eval's and open_clip's values."""
    text_to_image, image_to_text = ours(pairs)()
    for name, value in torchmetrics_retrieval(pairs)().items():
        assert abs(value - text_to_image[name]) < 1e-5, (name, value, text_to_image[name])
    judged = pytrec(pairs)().values()
    for name, theirs in (("mrr", "recip_rank"), ("map", "map"), ("ndcg@10", "ndcg_cut_10"), ("recall@5", "recall_5")):
        assert abs(statistics.mean(query[theirs] for query in judged) - text_to_image[name]) < 1e-5, name
    metrics = open_clip_metrics(pairs)()
    for k in (1, 5, 10):
        assert abs(metrics[f"text_to_image_R@{k}"] - text_to_image[f"hit_rate@{k}"]) < 1e-9
        assert abs(metrics[f"image_to_text_R@{k}"] - image_to_text[f"hit_rate@{k}"]) < 1e-9


def rows(quick: bool) -> Iterator[Row]:
    """Against torchmetrics; then against open_clip, pytrec_eval, ranx, and the matmul alone."""
    check(300)
    large, small = (400, 200) if quick else (10_000, 1_000)
    equal = "values equal at N = 300"
    half = f"the peer does one direction, ours both; {equal}"
    if harness.wanted(11):
        yield _time(11, large, torchmetrics_retrieval, "torchmetrics", 1, (50, 230), f"{half}; one round")
        yield _memory(11, large, torchmetrics_retrieval, "torchmetrics", (100, 500), half)
    if not harness.wanted(12):
        return
    clip = "open_clip_train get_clip_metrics"
    yield _time(12, large, open_clip_metrics, clip, 3, (2, 3.8), f"R@k and ranks only in the peer; {equal}")
    yield _memory(12, large, open_clip_metrics, clip, (None, None), "no target")
    yield _time(12, small, pytrec, "pytrec_eval", 3, (2, 3.8), half)
    yield _time(12, small, ranx_evaluate, "ranx", 3, (2, 3.8), half)
    floor = "the floor: how close to the matmul of the embeddings, which both directions share, without ranking"
    yield _time(12, large, matmul, "the matmul alone", 5, (None, 1 / 1.2), floor)


def _what(pairs: int) -> str:
    return f"R@1/5/10, MRR, MAP, nDCG, both directions, {pairs:,} × {pairs:,}, D = {D}"


def _time(number: int, pairs: int, peer: Any, name: str, rounds: int, targets: tuple, note: str) -> Row:
    a, b, ratio = harness.interleave(ours(pairs), peer(pairs), rounds, warm_up=int(rounds > 1))
    return Row(number, _what(pairs), name, "time", a, b, "s", ratio, *targets, note)


def _memory(number: int, pairs: int, peer: Any, name: str, targets: tuple, note: str) -> Row:
    a, b = (harness.peak_mib(__file__, case.__name__, 1, pairs=pairs) for case in (ours, peer))
    return Row(number, _what(pairs), name, "memory", a, b, "MiB", b / a, *targets, note)


CASES = {work.__name__: functools.partial(work) for work in (ours, torchmetrics_retrieval, open_clip_metrics)}

if __name__ == "__main__":
    harness.main(__file__, rows, CASES)
