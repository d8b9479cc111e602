"""Retrieval metrics as `torchmetrics.Metric`, for any training loop, on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from modiste.errors import ModisteError
from modiste.metrics.both_ranks import both_ranks
from modiste.metrics.ranking import check_options, query_metrics, summarise
from modiste.metrics.ranks import relevant_ranks
from modiste.metrics.relevance import Ints, Relevance


class _Ranking(Metric):
    """Base class of both metrics: cut-offs, states concatenated over processes, means over queries."""

    full_state_update = False
    higher_is_better = None

    def __init__(self, states: Sequence[str], ks: Sequence[int], map_denominator: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_options(ks, map_denominator)
        self.ks, self.map_denominator = list(ks), map_denominator
        for name in states:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _means(self, ranks: Ints, relevance: Relevance) -> dict[str, Tensor]:
        values = summarise(query_metrics(ranks, relevance, self.ks, self.map_denominator))
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}


class RetrievalMetrics(_Ranking):
    """Text→image and image→text retrieval among all pairs, added in batches, on any number of processes.

    Ranks are exact over the whole gallery. All pairs of the query's product are relevant, and ties are ordered by
    index. Rows that a distributed sampler repeats as padding count twice.

    Args:
        ks: Cut-offs of hit rate, recall, precision, MAP and nDCG.
        map_denominator: Denominator of MAP@k: ``relevant`` (number of relevant items, as in pytrec_eval) or
            ``min_relevant_k``.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ModisteError: A cut-off is below 1, or the denominator is unknown; in `compute`: an embedding is not finite.

    >>> metric = RetrievalMetrics(ks=[1])
    >>> metric.update(torch.eye(3), torch.eye(3)[[0, 2, 1]], product_id=torch.tensor([7, 8, 9]))
    >>> {name: round(value.item(), 3) for name, value in metric.compute().items() if "recall" in name}
    {'t2i/recall@1': 0.333, 'i2t/recall@1': 0.333}
    """

    images: list[Tensor]
    texts: list[Tensor]
    products: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10), map_denominator: str = "relevant", **kwargs: Any) -> None:
        super().__init__(("images", "texts", "products"), ks, map_denominator, **kwargs)

    def update(self, image: Tensor, text: Tensor, product_id: Tensor) -> None:
        """Add image and text embeddings (B, D) of B pairs, and their product ids (B,), int64.

        Raises:
            ModisteError: The lengths differ.
        """
        if not len(image) == len(text) == len(product_id):
            raise ModisteError(
                f"{len(image)} images, {len(text)} texts and {len(product_id)} product ids: give one of each per pair."
            )
        self.images.append(image.detach())
        self.texts.append(text.detach())
        self.products.append(product_id)

    def compute(self) -> dict[str, Tensor]:
        """``t2i/<metric>`` and ``i2t/<metric>`` (`modiste.metrics.metric_definitions`) to a scalar float32."""
        products = dim_zero_cat(self.products).cpu().numpy()
        relevance = Relevance.from_ids(products, products)
        forth, back = both_ranks(dim_zero_cat(self.texts), dim_zero_cat(self.images), relevance)
        found = {"t2i": self._means(forth, relevance), "i2t": self._means(back, relevance.transposed(len(products)))}
        return {f"{part}/{name}": value for part, values in found.items() for name, value in values.items()}


class RankingMetrics(_Ranking):
    """Ranking metrics of any queries against any gallery, added in batches, on any number of processes.

    Queries and gallery may be sharded in any way; `compute` ranks against the union of all shards. Rows are not
    de-duplicated: those that a sampler repeats as padding count twice. Under torch.distributed every process must call
    `update` at least once, if need be with (0, D) embeddings.

    Args:
        ks: Cut-offs.
        map_denominator: See `query_metrics`.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ModisteError: See `RetrievalMetrics`.

    >>> metric = RankingMetrics(ks=[1])
    >>> metric.update(torch.eye(3), torch.eye(3), torch.tensor([4, 5, 6]), torch.tensor([4, 6, 5]))
    >>> round(metric.compute()["hit_rate@1"].item(), 4)
    0.3333
    """

    queries: list[Tensor]
    gallery: list[Tensor]
    query_ids: list[Tensor]
    gallery_ids: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5, 10), map_denominator: str = "relevant", **kwargs: Any) -> None:
        super().__init__(("queries", "gallery", "query_ids", "gallery_ids"), ks, map_denominator, **kwargs)

    def update(self, queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor) -> None:
        """Add queries (B, D) and gallery items (C, D) with int64 ids (B,) and (C,); equal ids are relevant.

        Raises:
            ModisteError: Embeddings and ids differ in length.
        """
        if len(queries) != len(query_ids) or len(gallery) != len(gallery_ids):
            raise ModisteError(
                f"{len(queries)} queries with {len(query_ids)} ids and {len(gallery)} gallery items with "
                f"{len(gallery_ids)} ids: give one id per embedding."
            )
        self.queries.append(queries.detach())
        self.gallery.append(gallery.detach())
        self.query_ids.append(query_ids)
        self.gallery_ids.append(gallery_ids)

    def compute(self) -> dict[str, Tensor]:
        """Metric name to a scalar float32; queries without a relevant item are skipped.

        Raises:
            ModisteError: No query has a relevant item, or an embedding is not finite.
        """
        query_ids, gallery_ids = (dim_zero_cat(ids).cpu().numpy() for ids in (self.query_ids, self.gallery_ids))
        relevance = Relevance.from_ids(query_ids, gallery_ids)
        ranks = relevant_ranks(dim_zero_cat(self.queries), dim_zero_cat(self.gallery), relevance)
        return self._means(ranks, relevance)
