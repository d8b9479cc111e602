"""Retrieval: queries ranked against a gallery.

Text→image and image→text over the rows of a split (the protocol of CLIP, arXiv 2103.00020, and of FashionCLIP, Chia
et al. 2022), attribute→product, and published queries with published relevance.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.data.captions import Captions
from modiste.errors import MissingEmbeddingError, ModisteError, did_you_mean
from modiste.metrics import ranking
from modiste.metrics.both_ranks import both_ranks
from modiste.metrics.direction import LOWER_IS_BETTER, directions
from modiste.metrics.intervals import Interval, bootstrap, describe_bootstrap
from modiste.metrics.ranks import candidate_ranks, other_ranks
from modiste.metrics.relevance import Floats, Ints, Relevance
from modiste.tasks.result import Embedder, Result
from modiste.utils.ranges import Count
from modiste.utils.run_dir import read_text

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

log = logging.getLogger(__name__)
DIRECTIONS = ("t2i", "i2t")
GALLERIES = ("split", "all", "sample")
SHOWN = 5
"""Results per example; a query whose first relevant item is among them is a hit."""

Judgements = dict[str, list[str]]
Words = Mapping[str, Mapping[str, str]]


class Documents:
    """The gallery: catalogue rows as vectors, each column embedded once.

    Args:
        embedder: Embedder of images and texts.
        catalogue: Its rows are the gallery, in this order.
        template: Template of a row's text (`modiste.data.captions.Captions`).
        words: Column → value → its word in the template, as in `modiste.data.captions.Captions`.
    """

    def __init__(
        self, embedder: Embedder, catalogue: Catalogue, template: str = "{text}", words: Words | None = None
    ) -> None:
        self.embedder, self.catalogue = embedder, catalogue
        self.texts = Captions([template], words=words or {}).bind(catalogue).texts()
        self.rows = np.asarray(catalogue.column("row"), dtype=np.int64)
        self._columns: dict[str, Tensor] = {}

    def column(self, name: str) -> Tensor:
        """Embeddings (G, D) of the images (``image``), the rows' texts (``text``) or another column."""
        if name not in self._columns:
            self._columns[name] = self._embed(name)
        return self._columns[name]

    def select(self, positions: Ints) -> Documents:
        """Subset of the gallery at ``positions``; reuses the columns that are embedded already."""
        part = copy(self)
        part.catalogue, part.rows = self.catalogue.select(rows=positions), self.rows[positions]
        part.texts = [self.texts[i] for i in positions]
        part._columns = {name: vectors[torch.from_numpy(positions)] for name, vectors in self._columns.items()}
        return part

    def _embed(self, name: str) -> Tensor:
        if name == "image":
            return self.embedder.images(self.catalogue)
        return self.embedder.texts(self.texts if name == "text" else self.catalogue.column(name))

    def vectors(self, weights: Mapping[str, float]) -> Tensor:
        """Document vectors (G, D): normalise(Σ weight · column)."""
        total = torch.stack([weight * self.column(name) for name, weight in weights.items()]).sum(dim=0)
        return F.normalize(total, dim=-1)


@dataclass(frozen=True)
class Search:
    """Queries against a gallery, with their relevance.

    Attributes:
        name: Prefix of the metrics.
        kind: ``t2i`` (texts search products), ``i2t`` (images search texts) or ``i2i`` (images search products).
        labels: Each query's name in examples: its text, or its row in the full catalogue.
        queries: Query embeddings (Q, D).
        documents: The gallery.
        weights: Weight of each column in a document's vector.
        relevance: Relevant gallery items of the Q queries.
        own: (Q,) gallery position of each query's own item, excluded from its gallery; -1: not in the gallery.
        candidates: (Q, C) gallery positions that each query is ranked among, ascending; None: the whole gallery.
        known: Precomputed ranks; None: `ranks` computes them.
    """

    name: str
    kind: str
    labels: Sequence[str | int]
    queries: Tensor
    documents: Documents
    weights: dict[str, float]
    relevance: Relevance
    own: Ints | None = None
    candidates: Ints | None = None
    known: Ints | None = None

    def ranks(self, gallery: Tensor) -> Ints:
        """Ranks (P,) of the relevant items, 1 is best, in the order of ``relevance.items``."""
        if self.known is not None:
            return self.known
        if self.candidates is not None:
            return candidate_ranks(self.queries, gallery, self.candidates, self.relevance)
        own = np.full(len(self.relevance), -1) if self.own is None else self.own
        return other_ranks(self.queries, gallery, self.relevance, own)

    @property
    def size(self) -> int:
        """Number of items that a query is ranked among."""
        if self.candidates is not None:
            return self.candidates.shape[1]
        return len(self.documents.rows) - bool(self.own is not None and (self.own >= 0).all())


def text_search(
    name: str, texts: Sequence[str], prefix: str, documents: Documents, weights: dict[str, float], relevance: Relevance
) -> Search:
    """Search the documents with texts, each preceded by ``prefix``."""
    queries = documents.embedder.texts([prefix + text for text in texts])
    return Search(name, "t2i", list(texts), queries, documents, weights, relevance)


@dataclass(frozen=True)
class Ranking:
    """Scoring of searches, independent of queries and galleries.

    Attributes:
        ks: Cut-offs.
        map_denominator: As in `modiste.metrics.ranking.query_metrics`.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap and of the choice of examples.
        examples: Number of example queries per search, hits and misses.
        select: Function from all per-query metrics to the reported ones; None: all are reported.
        ideal: As in `modiste.metrics.ranking.query_metrics`.
        misses: Whether a query without a relevant item counts as a miss, rather than being excluded.
    """

    ks: Sequence[int] = (1, 5, 10)
    map_denominator: str = "relevant"
    resamples: int = 1000
    seed: int = 0
    examples: int = 12
    select: Callable[[dict[str, Floats]], dict[str, Floats]] | None = None
    ideal: str = "relevant"
    misses: bool = False

    def __post_init__(self) -> None:
        ranking.check_options(self.ks, self.map_denominator, self.ideal)

    def describe(self) -> dict[str, Any]:
        """The scoring part of a result's protocol."""
        return {
            "metrics": ranking.metric_definitions(self.ks, self.map_denominator, self.ideal),
            "map_denominator": self.map_denominator,
            "ties": ranking.TIE_RULE,
            "queries_without_relevant_items": ranking.MISS_RULE if self.misses else ranking.EMPTY_RULE,
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def run(self, searches: Iterable[Search]) -> dict[str, Any]:
        """Score searches: ``metrics``, ``higher_is_better``, ``per_query``, ``counts`` and ``examples``."""
        metrics: dict[str, Interval] = {}
        per_query: dict[str, Floats] = {}
        counts: dict[str, int] = {}
        examples: list[dict[str, Any]] = []
        for search in searches:
            relevance, gallery = search.relevance, search.documents.vectors(search.weights)
            ranks = search.ranks(gallery)
            every = ranking.query_metrics(ranks, relevance, self.ks, self.map_denominator, self.ideal)
            values = ranking.with_misses(every, relevance, len(gallery)) if self.misses else every
            values = self.select(values) if self.select else values
            intervals = bootstrap(values, ["median_rank"], self.resamples, self.seed)
            metrics |= {f"{search.name}/{name}": interval for name, interval in intervals.items()}
            per_query |= {f"{search.name}/{name}": value for name, value in values.items()}
            counts |= {
                f"{search.name}/queries": len(next(iter(values.values()))),
                f"{search.name}/queries_without_relevant": int((relevance.counts == 0).sum()),
                f"{search.name}/gallery": search.size,
                f"{search.name}/relevant": len(relevance.items),
            }
            examples += self._examples(search, gallery, every["median_rank"])
        better = directions(metrics, LOWER_IS_BETTER)
        return {
            "metrics": metrics,
            "higher_is_better": better,
            "per_query": per_query,
            "counts": counts,
            "examples": examples,
        }

    def _examples(self, search: Search, gallery: Tensor, best: Floats) -> list[dict[str, Any]]:
        """Seeded sample: half hits and half misses where there are enough of both."""
        answerable = np.flatnonzero(search.relevance.counts)
        shuffled = np.random.default_rng(self.seed).permutation(len(best))
        hits, misses = shuffled[best[shuffled] <= SHOWN], shuffled[best[shuffled] > SHOWN]
        n_hits = min(len(hits), max(self.examples // 2, self.examples - len(misses)))
        chosen = np.concatenate([hits[:n_hits], misses[: self.examples - n_hits]])
        return [_example(search, gallery, int(answerable[i]), int(best[i])) for i in chosen]


def _example(search: Search, gallery: Tensor, query: int, rank: int) -> dict[str, Any]:
    scores = search.queries[query] @ gallery.T
    if search.candidates is not None:
        others = np.setdiff1d(np.arange(len(gallery)), search.candidates[query])
        scores[torch.from_numpy(others)] = -torch.inf
    if search.own is not None and search.own[query] >= 0:
        scores[search.own[query]] = -torch.inf
    first = torch.sort(scores, descending=True, stable=True).indices[: min(SHOWN, search.size)].tolist()
    relevant = set(search.relevance.items[search.relevance.starts[query] : search.relevance.starts[query + 1]].tolist())
    rows, texts = search.documents.rows, search.documents.texts
    results = [
        {"row": int(rows[i]), "text": texts[i], "score": float(scores[i]), "relevant": i in relevant} for i in first
    ]
    example: dict[str, Any] = {
        "kind": search.kind, "search": search.name, "query": search.labels[query], "rank": rank, "results": results,
    }  # fmt: skip
    if relevant and relevant.isdisjoint(first):
        best = max(sorted(relevant), key=lambda i: float(scores[i]))
        example["wanted"] = {"row": int(rows[best]), "text": texts[best], "score": float(scores[best])}
    return example


def read_judgements(path: str | Path) -> Judgements:
    """Read published queries and the ids of their relevant items from JSON ``{query: {item id: 1}}``.

    An item judged 0 is not relevant.

    Raises:
        ModisteError: The file is missing or is not of this form.
    """
    form = f"The relevance file {path} must be JSON of the form {{query: {{item id: 1 or 0}}}}"
    try:
        content = json.loads(read_text(Path(path)))
    except FileNotFoundError:
        raise ModisteError(f"Relevance file {path} does not exist: check its path.") from None
    except (ValueError, RecursionError) as error:
        raise ModisteError(f"{form}: {error}.") from None
    if not isinstance(content, dict) or not all(isinstance(items, dict) for items in content.values()):
        raise ModisteError(f"{form}.")
    graded = [grade for items in content.values() for grade in items.values() if grade not in (0, 1)]
    if graded:
        raise ModisteError(f"{form}, not with relevance {graded[0]!r}.")
    return {query: [item for item, grade in items.items() if grade] for query, items in content.items()}


def judged_relevance(judgements: Judgements, product_ids: Sequence[str], source: str) -> Relevance:
    """Map published relevance to gallery positions; all images of a relevant product are relevant.

    Args:
        judgements: Query text to the ids of its relevant products.
        product_ids: Product id of every gallery item.
        source: Name of the relevance file in the error.

    Raises:
        ModisteError: A relevant id is not in the gallery.
    """
    wanted = {item for items in judgements.values() for item in items}
    missing = sorted(wanted - set(product_ids))
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise ModisteError(
            f"{len(missing)} of the {len(wanted)} relevant products in {source} are not in the gallery "
            f"({shown}): use the catalogue and split that the relevance was published for."
        )
    positions: dict[str, list[int]] = {}
    for position, product in enumerate(product_ids):
        positions.setdefault(product, []).append(position)
    pairs = [
        (query, position)
        for query, items in enumerate(judgements.values())
        for item in items
        for position in positions[item]
    ]
    return Relevance.from_pairs([query for query, _ in pairs], [item for _, item in pairs], len(judgements))


@dataclass(frozen=True)
class Sample:
    """Sampled galleries of similar products (FashionBERT, 2005.09801; Kaleido-BERT, 2103.16110).

    Results are not comparable with those on a full gallery.

    Attributes:
        queries: Query rows per seed, drawn without replacement; all usable rows if there are fewer.
        negatives: Number of other products, one row of each, that the query's own row is ranked among.
        within: Column whose value the negatives share with the query.
        seeds: Number of draws of queries and negatives.
    """

    queries: int = 1000
    negatives: int = 100
    within: str = "subcategory"
    seeds: int = 5

    def __post_init__(self) -> None:
        for name in ("queries", "negatives", "seeds"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ModisteError(f"retrieval.sample.{name} must be an integer of at least 1, not {value!r}.")

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Sample:
        """Read from a config. Raises ModisteError for an unknown key."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise ModisteError(f"retrieval.sample has no '{name}'. {did_you_mean(name, names)}")
        return cls(**given)

    def describe(self) -> dict[str, Any]:
        """The sampling part of a result's protocol."""
        return asdict(self) | {
            "candidates": f"the query's own row, and one row each of {self.negatives} other products with the same "
            f"{self.within}, drawn without replacement; the same draws for both directions and every model",
            "short": f"a row whose {self.within} is empty or has fewer than {self.negatives} other products is no "
            "query; such rows are counted",
            "average": "the per-query values of all seeds, which have equally many queries, are put together",
        }

    def draw(self, products: Sequence[str], values: Sequence[str], seed: int) -> tuple[Ints, Ints, int]:
        """Draw queries (Q,), ascending candidates (Q, 1 + negatives), and count the unusable rows.

        Args:
            products: Product id of every row.
            values: Value of the column ``within`` of every row.
            seed: Base seed, combined with the number of the draw.

        Raises:
            ModisteError: No row can be a query.

        >>> rows, candidates, short = Sample(queries=9, negatives=2, seeds=1).draw("aabcd", "xxxxy", seed=0)
        >>> sorted(rows.tolist()), candidates.shape, short
        ([0, 1, 2, 3], (4, 3), 1)
        """
        groups: dict[str, dict[str, list[int]]] = {}
        for row, (product, value) in enumerate(zip(products, values, strict=True)):
            groups.setdefault(value, {}).setdefault(product, []).append(row)
        large = {value: group for value, group in groups.items() if value and len(group) > self.negatives}
        usable = [row for row, value in enumerate(values) if value in large]
        if not usable:
            raise ModisteError(
                f"No value of {self.within} has {self.negatives + 1} products to sample from: lower "
                "retrieval.sample.negatives, or name a coarser column in retrieval.sample.within."
            )
        place = {(value, name): i for value, group in large.items() for i, name in enumerate(group)}
        sizes = {value: np.array([len(rows) for rows in group.values()]) for value, group in large.items()}
        flat = {value: np.concatenate([*group.values()]) for value, group in large.items()}
        starts = {value: np.cumsum(size) - size for value, size in sizes.items()}
        queries, candidates = [], []
        for number in range(self.seeds):
            generator = np.random.default_rng([seed, number])
            for row in generator.choice(usable, min(self.queries, len(usable)), replace=False):
                value = values[row]
                drawn = generator.choice(len(sizes[value]) - 1, self.negatives, replace=False)
                drawn += drawn >= place[value, products[row]]  # skip the query's own product
                others = flat[value][starts[value][drawn] + generator.integers(sizes[value][drawn])]
                queries.append(row)
                candidates.append(np.sort(np.append(others, row)))
        return np.array(queries, np.int64), np.array(candidates, np.int64), len(values) - len(usable)


class Retrieval:
    """Retrieval within a split, text→image and image→text.

    Args:
        directions: ``t2i`` (each row's text searches the images), ``i2t`` (each row's image searches the texts) or
            both. The rows of the same product are relevant, possibly several.
        ks: Cut-offs.
        gallery: ``split`` (the rows of the evaluated split), ``all`` (the whole catalogue) or ``sample`` (`Sample`,
            without attributes and published queries); queries always come from the split.
        sample: The attributes of `Sample`, for ``gallery="sample"``.
        attributes: Attribute columns whose values are queries (attribute→product); rows with the value are relevant.
            The metrics' prefix is ``<attribute>-to-product``.
        published: Name (the metrics' prefix) to a JSON file ``{query text: {product id: 1}}``.
        queries: Text to the attribute values that it asks for. Their first results among all rows outside the train
            split are added to the examples; no metric includes them.
        documents: Weights of ``image`` and text columns in a product's vector, for attributes and published queries:
            normalise(Σ weight · embedding). None: 0.9 image, 0.1 text.
        template: Template of a row's text, as query and as document, over the catalogue's columns.
        words: Column → value → its word in the template, as in the training captions.
        prefix: Prefix of every text query.
        map_denominator: Denominator of MAP@k: ``relevant`` or ``min_relevant_k``.
        resamples: Number of bootstrap resamples.
        seed: Seed of the samples, the bootstrap and the examples.
        examples: Number of example queries kept per search.

    Raises:
        ModisteError: An option is unknown, ``gallery="sample"`` is combined with attributes or published queries, or
            there is nothing to evaluate.
    """

    name = "retrieval"
    files = ("published",)

    def __init__(
        self,
        directions: Sequence[str] = DIRECTIONS,
        ks: Sequence[Count] = (1, 5, 10),
        gallery: Literal["split", "all", "sample"] = "split",
        sample: Mapping[str, Any] | None = None,
        attributes: Sequence[str] = (),
        published: Mapping[str, str] | None = None,
        queries: Mapping[str, Mapping[str, str]] | None = None,
        documents: Mapping[str, float] | None = None,
        template: str = "{text}",
        words: Words | None = None,
        prefix: str = "",
        map_denominator: str = "relevant",
        resamples: int = 1000,
        seed: int = 0,
        examples: int = 12,
    ) -> None:
        _one_of("gallery", gallery, GALLERIES)
        for direction in directions:
            _one_of("direction", direction, DIRECTIONS)
        self.directions, self.attributes = list(directions), list(attributes)
        self.published = {str(name): str(path) for name, path in (published or {}).items()}
        if not (self.directions or self.attributes or self.published):
            raise ModisteError(
                "The retrieval task has nothing to evaluate: give directions, attributes or published queries."
            )
        if gallery == "sample" and (self.attributes or self.published):
            raise ModisteError(
                "retrieval.gallery=sample is for the directions t2i and i2t: leave attributes and published empty, or "
                "use gallery=split."
            )
        self.gallery, self.template, self.prefix = gallery, template, prefix
        self.words = {column: dict(values) for column, values in (words or {}).items() if f"{{{column}}}" in template}
        self.queries = {str(text): dict(wanted) for text, wanted in (queries or {}).items()}
        self.sample = Sample.parse(sample or {})
        self.documents = {str(k): float(v) for k, v in (documents or {"image": 0.9, "text": 0.1}).items()}
        self.ranking = Ranking(list(ks), map_denominator, resamples, seed, examples)

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run with options that need more than the validation split."""
        if "trainer" in cfg and (node.get("gallery") == "all" or node.get("published")):
            raise ModisteError(
                "Validation in training sees the validation split only: leave gallery=split (or sample) and published "
                "empty, and evaluate the run with them after training."
            )

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: The split is empty, a column or file is missing, a published file is malformed or names
                products outside the gallery, or an embedding is not finite.
        """
        queries = catalogue.select(split=split)
        own = Documents(embedder, queries, self.template, self.words)
        documents = Documents(embedder, catalogue, self.template, self.words) if self.gallery == "all" else own
        searches = [self._direction(direction, own, documents) for direction in self.directions]
        if self.gallery == "split" and not self.prefix and set(self.directions) == set(DIRECTIONS):
            searches = _both_ways(searches)
        searches += [self._attribute(attribute, own, documents) for attribute in self.attributes]
        searches += [self._published(name, path, documents) for name, path in self.published.items()]
        counts: dict[str, int] = {}
        if self.gallery == "sample":
            ids, values = queries.column("product_id"), queries.column(self.sample.within)
            rows, candidates, short = self.sample.draw(ids, values, self.ranking.seed)
            searches = [_sampled(search, rows, candidates) for search in searches]
            counts = {f"{search.name}/short": short for search in searches}
        found = self.ranking.run(searches)
        found["examples"] = self._queries(own, catalogue) + found["examples"]
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            protocol=self.describe(),
            primary=f"{searches[0].name}/mrr",
            summary=["recall@1", "recall@10", "mrr"],
            **found | {"counts": found["counts"] | counts},
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "directions": self.directions,
            "attributes": self.attributes,
            "published": self.published,
            "gallery": self.gallery,
            **({"sample": self.sample.describe()} if self.gallery == "sample" else {}),
            "documents": self.documents,
            "template": self.template,
            **({"words": self.words} if self.words else {}),
            "prefix": self.prefix,
            "relevance": "the query's own row"
            if self.gallery == "sample"
            else "rows of the same product_id; of the same value for attributes; as published otherwise",
            **self.ranking.describe(),
        }

    def _direction(self, direction: str, own: Documents, documents: Documents) -> Search:
        relevance = Relevance.from_ids(own.catalogue.column("product_id"), documents.catalogue.column("product_id"))
        if direction == "i2t":
            return Search("i2t", "i2t", own.rows.tolist(), own.column("image"), documents, {"text": 1.0}, relevance)
        if self.prefix:
            return text_search("t2i", own.texts, self.prefix, documents, {"image": 1.0}, relevance)
        # Without a prefix, queries and the documents of i2t are the same texts: embed them once.
        return Search("t2i", "t2i", own.texts, own.column("text"), documents, {"image": 1.0}, relevance)

    def _attribute(self, attribute: str, own: Documents, documents: Documents) -> Search:
        values = sorted(set(own.catalogue.column(attribute)) - {""})
        relevance = Relevance.from_ids(values, documents.catalogue.column(attribute))
        return text_search(f"{attribute}-to-product", values, self.prefix, documents, self.documents, relevance)

    def _published(self, name: str, path: str, documents: Documents) -> Search:
        judgements = read_judgements(path)
        relevance = judged_relevance(judgements, documents.catalogue.column("product_id"), path)
        return text_search(name, list(judgements), self.prefix, documents, self.documents, relevance)

    def _queries(self, own: Documents, catalogue: Catalogue) -> list[dict[str, Any]]:
        """Examples of `queries` that have a relevant row; none without a model that embeds their texts."""
        if not self.queries:
            return []
        unseen = [row for row, split in enumerate(catalogue.column("split")) if split != "train"]
        rows = catalogue.select(rows=unseen)
        documents = own if len(rows) == len(own.rows) else Documents(own.embedder, rows, self.template, self.words)
        columns = {name: np.asarray(rows.column(name)) for wanted in self.queries.values() for name in wanted}
        right = {
            text: np.flatnonzero(np.all([columns[name] == value for name, value in wanted.items()], axis=0))
            for text, wanted in self.queries.items()
        }
        texts = [text for text, found in right.items() if len(found)]
        if not texts:
            return []
        places = np.repeat(np.arange(len(texts)), [len(right[text]) for text in texts])
        relevance = Relevance.from_pairs(places, np.concatenate([right[text] for text in texts]), n_queries=len(texts))
        try:
            search = text_search("queries", texts, self.prefix, documents, {"image": 1.0}, relevance)
        except MissingEmbeddingError:
            log.info("data.queries is skipped: the embeddings from files have no vectors of its texts.")
            return []
        gallery = documents.vectors(search.weights)
        best = np.minimum.reduceat(search.ranks(gallery), relevance.starts[:-1])
        return [_example(search, gallery, place, int(rank)) for place, rank in enumerate(best)]


def _both_ways(searches: Sequence[Search]) -> list[Search]:
    """Both directions over the same rows, ranked from one matmul of their embeddings."""
    first, second = searches
    gallery = first.documents.vectors(first.weights)
    ranks = both_ranks(first.queries, gallery, first.relevance)
    return [replace(search, known=known) for search, known in zip((first, second), ranks, strict=True)]


def _sampled(search: Search, rows: Ints, candidates: Ints) -> Search:
    """Restrict a search to the drawn rows, each relevant to itself and ranked among its candidates."""
    return replace(
        search,
        labels=[search.labels[row] for row in rows],
        queries=search.queries[torch.from_numpy(rows)],
        relevance=Relevance(np.arange(len(rows) + 1), rows),
        candidates=candidates,
    )


def _one_of(what: str, word: str, options: Sequence[str]) -> None:
    if word not in options:
        raise ModisteError(f"Unknown {what} '{word}'. {did_you_mean(word, options)}")
