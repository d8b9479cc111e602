"""Composed image retrieval: a reference image and relative captions retrieve the target (FashionIQ).

FashionIQ (Wu et al., CVPR 2021): a reference image and two captions describe one target image. The query is composed
without training: normalise(image_weight · image + text_weight · text).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.data.datasets.fashion_iq import CARD
from modiste.data.download import cut_short, read_json
from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.intervals import bootstrap_groups
from modiste.metrics.relevance import Floats, Relevance
from modiste.tasks.result import Embedder, Result
from modiste.tasks.retrieval import Documents, Ranking, Search
from modiste.utils.templates import plain_fields

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)

KS = (10, 50)
GALLERIES = ("original", "val")
MEAN = "mean"
REPORTED = ("hit_rate@10", "hit_rate@50", "mrr", "median_rank")
PROTOCOL = {
    "dress": {"queries": 2017, "original": 3817, "val": 2628},
    "shirt": {"queries": 2038, "original": 6346, "val": 3089},
    "toptee": {"queries": 1961, "original": 5373, "val": 2902},
}
"""Numbers of queries and gallery images of the validation split, on which results are published."""


@dataclass(frozen=True)
class Query:
    """ASINs of a reference and a target image, and two captions of their difference."""

    reference: str
    target: str
    captions: tuple[str, str]

    def text(self, join: str) -> str:
        """Both captions in the template ``join``; if one is empty, the other alone.

        >>> Query("a", "b", ("is red", "has sleeves")).text("{1}, {0}")
        'has sleeves, is red'
        """
        first, second = self.captions
        return join.format(first, second) if first and second else first or second


@dataclass(frozen=True)
class Category:
    """Queries of a category, and the unique ASINs of its gallery."""

    name: str
    queries: list[Query]
    gallery: list[str]


class Composed:
    """Retrieve the target image by a reference image and two captions, per FashionIQ category.

    Images are looked up by ``product_id``, the ASIN, in the whole catalogue (``data=fashion_iq``), regardless of split.
    Queries whose reference or target has no image, and gallery items without one, are skipped and counted. The results
    are then not comparable with published ones: ``complete`` in the protocol is false, and a warning is logged.

    Args:
        path: Folder with ``captions/cap.<category>.<split>.json`` and ``image_splits/split.<category>.<split>.json``.
        gallery: ``original``, the category's whole image list (dress 3,817, shirt 6,346, toptee 5,373), or ``val``, the
            references and targets of its queries. Results on one are not comparable with those on the other.
        image_weight: Weight of the reference image's embedding.
        text_weight: Weight of the text's embedding.
        join: Template of the text, with ``{0}`` and ``{1}`` for the two captions; or ``mean``: the normalised mean of
            the two captions' embeddings.
        prefix: Prefix of every text.
        exclude_reference: Exclude a query's reference from its gallery; published results keep it.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap and the examples.
        examples: Number of example queries kept per category.

    Raises:
        ModisteError: The gallery is unknown, or the template lacks a caption.
    """

    name = "composed"
    files = ("path",)

    def __init__(
        self,
        path: str,
        gallery: str = "original",
        image_weight: float = 1.0,
        text_weight: float = 1.0,
        join: str = "{0} and {1}",
        prefix: str = "",
        exclude_reference: bool = False,
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 12,
    ) -> None:
        if gallery not in GALLERIES:
            raise ModisteError(f"Unknown gallery '{gallery}'. {did_you_mean(gallery, GALLERIES)}")
        if join != MEAN and not _joins(join):
            raise ModisteError(f"The template join={join!r} needs both captions: '{{0}} and {{1}}', or mean.")
        self.path, self.gallery, self.join, self.prefix = Path(path).expanduser(), gallery, join, prefix
        self.image_weight, self.text_weight = float(image_weight), float(text_weight)
        self.exclude_reference = exclude_reference
        self.ranking = Ranking(KS, "relevant", resamples, seed, examples, select=composed_metrics)

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run, whose validation sees neither the images nor the captions."""
        if "trainer" in cfg:
            raise ModisteError("The composed task has its own queries and gallery: evaluate the run after training.")

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate the captions of ``split`` on the images of the full ``catalogue``.

        Raises:
            ModisteError: A file is missing or malformed, or no query of a category has both its images.
        """
        categories = [read_category(self.path, name, split, self.gallery) for name in PROTOCOL]
        place = {asin: row for row, asin in reversed([*enumerate(catalogue.column("product_id"))])}
        present = [keep_present(category, place) for category in categories]
        asins = list(dict.fromkeys(asin for category in present for asin in category.gallery))
        documents = Documents(embedder, catalogue.select(rows=[place[asin] for asin in asins]))
        documents.column("image")  # embed once, before the galleries are selected
        position = {asin: i for i, asin in enumerate(asins)}
        scored = self.ranking.run(self._search(category, documents, position) for category in present)
        for example in scored["examples"]:
            query = next(c for c in present if c.name == example["search"]).queries[example["query"]]
            example |= {"query": int(documents.rows[position[query.reference]]), "text": self._shown(query)}
        for category, kept in zip(categories, present, strict=True):
            scored["counts"] |= {
                f"{category.name}/queries_excluded": len(category.queries) - len(kept.queries),
                f"{category.name}/gallery_missing": len(category.gallery) - len(kept.gallery),
            }
        self._add_mean(scored)
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            protocol=self.describe() | {"complete": self._complete(scored["counts"], split)},
            primary="mean/mean",
            summary=["hit_rate@10", "hit_rate@50", "mean"],
            **scored,
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values."""
        scoring = self.ranking.describe()
        return scoring | {
            "source": "FashionIQ, Wu et al., CVPR 2021",
            "gallery": self.gallery,
            "gallery_rule": {
                "original": "the category's whole image list",
                "val": "the references and targets of the category's queries",
            }[self.gallery],
            "query": "normalise(image_weight * image + text_weight * text)",
            "image_weight": self.image_weight,
            "text_weight": self.text_weight,
            "join": self.join,
            "join_rule": "mean: normalised mean of the captions' embeddings; otherwise a template; an empty caption is "
            "excluded",
            "prefix": self.prefix,
            "exclude_reference": self.exclude_reference,
            "relevance": "the one target image",
            "metrics": {name: scoring["metrics"][name] for name in REPORTED}
            | {"mean": "mean of hit_rate@10 and hit_rate@50"},
            "mean_part": "mean over the three categories; its bootstrap resamples within each; its per-query values "
            "are weighted so that their mean is it",
            "published_sizes": PROTOCOL,
        }

    def _search(self, category: Category, documents: Documents, position: Mapping[str, int]) -> Search:
        gallery = documents.select(np.array([position[asin] for asin in category.gallery]))
        place = {asin: i for i, asin in enumerate(category.gallery)}
        references = np.array([place[query.reference] for query in category.queries])
        targets = [place[query.target] for query in category.queries]
        images = gallery.column("image")[torch.from_numpy(references)]
        texts = self._texts(documents.embedder, category.queries)
        queries = F.normalize(self.image_weight * images + self.text_weight * texts, dim=-1)
        relevance = Relevance.from_pairs(np.arange(len(targets)), targets, len(targets))
        own = references if self.exclude_reference else None
        relevance = relevance if own is None else relevance.without(own)
        return Search(category.name, "i2i", range(len(targets)), queries, gallery, {"image": 1.0}, relevance, own)

    def _texts(self, embedder: Embedder, queries: Sequence[Query]) -> Tensor:
        if self.join != MEAN:
            return embedder.texts([self.prefix + query.text(self.join) for query in queries])
        captions = [query.text(caption) for query in queries for caption in ("{0}", "{1}")]
        pairs = embedder.texts([self.prefix + caption for caption in captions]).view(len(queries), 2, -1)
        return F.normalize(pairs.mean(dim=1), dim=-1)

    def _shown(self, query: Query) -> str:
        return self.prefix + query.text("{0} | {1}" if self.join == MEAN else self.join)

    def _add_mean(self, scored: dict[str, Any]) -> None:
        per_query: dict[str, Floats] = scored["per_query"]
        names = [name for name in (*REPORTED, "mean") if name != "median_rank"]
        groups = [{name: per_query[f"{category}/{name}"] for name in names} for category in PROTOCOL]
        intervals = bootstrap_groups(groups, self.ranking.resamples, self.ranking.seed)
        scored["metrics"] |= {f"mean/{name}": interval for name, interval in intervals.items()}
        n = sum(len(group["mean"]) for group in groups)
        for name in names:
            weighted = [group[name] * n / len(groups) / len(group[name]) for group in groups]
            scored["higher_is_better"][f"mean/{name}"] = True
            per_query[f"mean/{name}"] = np.concatenate(weighted)
        scored["counts"]["mean/queries"] = n

    def _complete(self, counts: Mapping[str, int], split: str) -> bool:
        """Whether queries and galleries are as large as the published ones; warns where they are not."""
        different = [
            f"{name} {counts[f'{name}/{what}']:,} of {sizes[size]:,} {word}"
            for name, sizes in PROTOCOL.items()
            for what, size, word in (("queries", "queries", "queries"), ("gallery", self.gallery, "gallery images"))
            if counts[f"{name}/{what}"] != sizes[size] - (what == "gallery" and self.exclude_reference)
        ]
        if different or split != "val":
            log.warning("composed: not the published protocol (split val): %s.", ", ".join(different) or split)
        return not different and split == "val"


def composed_metrics(metrics: dict[str, Floats]) -> dict[str, Floats]:
    """The metrics that the benchmark reports; with one target, hit rate is recall."""
    mean = (metrics["hit_rate@10"] + metrics["hit_rate@50"]) / 2
    return {name: metrics[name] for name in REPORTED} | {"mean": mean}


def read_category(path: Path, name: str, split: str, gallery: str) -> Category:
    """Read the queries and the gallery of a category from FashionIQ's files.

    Raises:
        ModisteError: A file is missing or malformed, or an image of a query is not in the category's list.
    """
    captions, images = path / f"captions/cap.{name}.{split}.json", path / f"image_splits/split.{name}.{split}.json"
    for file in (captions, images):
        if not file.is_file():
            raise ModisteError(
                f"{file} does not exist: set split=val, and task.composed.path to FashionIQ's folder. {CARD.download}"
            )
    try:
        queries = [_query(entry) for entry in read_json(CARD, captions, list)]
    except (KeyError, TypeError, ValueError) as error:
        raise ModisteError(
            f"{captions} is not a list of candidate, target and two captions ({error!r}): set split=val, whose "
            "targets are published."
        ) from None
    listed = dict.fromkeys(str(asin) for asin in read_json(CARD, images, list))
    used = dict.fromkeys(asin for query in queries for asin in (query.reference, query.target))
    unlisted = [asin for asin in used if asin not in listed] if gallery == "original" else []
    if unlisted:
        raise cut_short(CARD, images, f"{len(unlisted)} images of {captions.name} are not in it, {unlisted[0]} first")
    return Category(name, queries, list(listed if gallery == "original" else used))


def keep_present(category: Category, present: Mapping[str, int]) -> Category:
    """Restrict a category to the ASINs in ``present``.

    Raises:
        ModisteError: No query has both its images.
    """
    queries = [q for q in category.queries if q.reference in present and q.target in present]
    if not queries:
        raise ModisteError(
            f"No query of FashionIQ's category {category.name} has both its images in the catalogue: use "
            "data=fashion_iq, with the images of all three categories."
        )
    return Category(category.name, queries, [asin for asin in category.gallery if asin in present])


def _query(entry: Mapping[str, Any]) -> Query:
    first, second = (str(caption).strip() for caption in entry["captions"])
    return Query(str(entry["candidate"]), str(entry["target"]), (first, second))


def _joins(template: str) -> bool:
    """Whether the template holds both captions.

    >>> _joins("{1}, {0}"), _joins("{0}"), _joins("{caption}"), _joins("{0:>1000000000}{1}")
    (True, False, False, False)
    """
    if plain_fields(template) is None:
        return False
    try:
        text = template.format("\0", "\1")
    except (IndexError, KeyError, ValueError):
        return False
    return text.count("\0") == text.count("\1") == 1
