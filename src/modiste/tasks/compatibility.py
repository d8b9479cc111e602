"""Zero-shot outfit compatibility and fill-in-the-blank on Polyvore Outfits (Vasileva et al. 2018).

An outfit's score is the mean cosine of all pairs of its items; of the candidates for a blank, the one with the highest
mean cosine with the question's items is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from modiste.data.datasets.polyvore import CARD, KINDS, OUTFITS
from modiste.data.download import cut_short, read_json, read_lines
from modiste.errors import ModisteError, did_you_mean
from modiste.metrics.classification import auc
from modiste.metrics.direction import directions
from modiste.metrics.intervals import Interval, bootstrap, bootstrap_statistic, describe_bootstrap
from modiste.metrics.relevance import Floats
from modiste.tasks.result import Embedder, Result
from modiste.tasks.retrieval import Documents, Words

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

FILES = {"test": "test", "val": "valid", "train": "train"}
"""Split → its name in the file names."""
AUC, ACCURACY = "compatibility/auc", "fill_in_blank/accuracy"
DEFINITIONS = {
    "auc": "probability that a compatible outfit scores higher than an incompatible one, equal scores counting half",
    "accuracy": "fraction of questions whose right candidate scores higher than every other; a tie for the first place "
    "counts as wrong",
}

Ids = list[str]


@dataclass(frozen=True)
class Outfit:
    """Item ids, and whether a user combined them (1 in the files) or they are a random combination (0)."""

    items: Ids
    compatible: bool


@dataclass(frozen=True)
class Question:
    """Item ids of an outfit with a blank, its candidates, and which candidates are from the outfit."""

    items: Ids
    candidates: Ids
    right: list[bool]


class Compatibility:
    """Compatibility prediction (AUC) and fill-in-the-blank (accuracy).

    Items are looked up by ``product_id`` in the whole catalogue (``data=polyvore``), regardless of split. Missing items
    are dropped: an outfit with fewer than two items left, and a question with no item left or a missing candidate, are
    skipped and counted.

    Args:
        path: Folder extracted from polyvore_outfits.zip.
        kind: ``nondisjoint`` (as in published results) or ``disjoint``.
        documents: Weights of ``image`` and ``text`` in an item's vector: normalise(Σ weight · embedding). None: image
            only.
        template: Template of a row's text, over the catalogue's columns.
        words: Column → value → its word in the template, as in the training captions.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        ModisteError: The kind is unknown.
    """

    name = "compatibility"
    files = ("path",)

    def __init__(
        self,
        path: str,
        kind: str = "nondisjoint",
        documents: Mapping[str, float] | None = None,
        template: str = "{text}",
        words: Words | None = None,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ModisteError(f"Unknown kind '{kind}'. {did_you_mean(kind, KINDS)}")
        self.path, self.kind, self.template = Path(path).expanduser(), kind, template
        self.words = {column: dict(values) for column, values in (words or {}).items() if f"{{{column}}}" in template}
        self.documents = {str(k): float(v) for k, v in (documents or {"image": 1.0}).items()}
        self.resamples, self.seed = resamples, seed

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError for a training run, whose validation sees neither all items nor the outfits."""
        if "trainer" in cfg:
            raise ModisteError("The compatibility task has its own outfits: evaluate the run after training.")

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate the outfits and questions of ``split`` on the items of the full ``catalogue``.

        Raises:
            ModisteError: The split is unknown, a file is missing or malformed, no outfit or question is left, all
                remaining outfits have the same label, or an embedding is not finite.
        """
        outfits, questions = read_published(self.path / self.kind, split)
        named = {item for outfit in outfits for item in outfit.items}
        named.update(item for question in questions for item in (*question.items, *question.candidates))
        rows = [row for row, item in enumerate(catalogue.column("product_id")) if item in named]
        position = {item: i for i, item in reversed([*enumerate(catalogue.select(rows=rows).column("product_id"))])}
        kept_outfits = [o for outfit in outfits if len((o := _present(outfit, position)).items) > 1]
        kept_questions = [q for question in questions if (q := _answerable(question, position))]
        if not kept_outfits or not kept_questions:
            raise ModisteError(
                f"{len(position):,} of the {len(named):,} items of the {self.kind} {split} outfits are in "
                f"{catalogue.card.name}: use data=polyvore with all its images."
            )
        documents = Documents(embedder, catalogue.select(rows=rows), self.template, self.words)
        vectors = documents.vectors(self.documents).numpy()
        if not np.isfinite(vectors).all():
            raise ModisteError("An embedding is not finite: the model has diverged or its input is invalid.")
        compatibility, outscored = self._compatibility(kept_outfits, vectors, position)
        right = fill_in_blank(kept_questions, vectors, position)
        accuracy = bootstrap({ACCURACY: right}, resamples=self.resamples, seed=self.seed)
        metrics = {AUC: compatibility, **accuracy}
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            metrics=metrics,
            higher_is_better=directions(metrics),
            protocol=self.describe(),
            counts={
                "compatibility/queries": len(kept_outfits),
                "compatibility/compatible": sum(outfit.compatible for outfit in kept_outfits),
                "compatibility/queries_excluded": len(outfits) - len(kept_outfits),
                "fill_in_blank/queries": len(kept_questions),
                "fill_in_blank/queries_excluded": len(questions) - len(kept_questions),
                "items": len(position),
                "items_missing": len(named) - len(position),
            },
            primary=AUC,
            per_query={AUC: outscored, ACCURACY: right},
            summary=["auc", "accuracy"],
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "source": "Polyvore Outfits, Vasileva et al., ECCV 2018",
            "kind": self.kind,
            "documents": self.documents,
            "template": self.template,
            **({"words": self.words} if self.words else {}),
            "score": "mean_pairwise: mean cosine of all pairs of an outfit's items; of a candidate: mean cosine with "
            "the question's items; compared in float32",
            "right_candidate": "of the question's own outfit (set_id), wherever it stands among the candidates",
            "metrics": DEFINITIONS,
            "per_query": {
                "auc": "of each compatible outfit, the fraction of incompatible ones that score lower, equal scores "
                "counting half: their mean is the AUC"
            },
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def _compatibility(
        self, outfits: Sequence[Outfit], vectors: npt.NDArray[Any], position: Mapping[str, int]
    ) -> tuple[Interval, Floats]:
        """The AUC, and for each compatible outfit the fraction of incompatible ones that it outscores."""
        labels = np.array([outfit.compatible for outfit in outfits])
        if labels.all() or not labels.any():
            raise ModisteError(
                "The remaining outfits all have the same label, but AUC needs both: use the images of all items."
            )
        scores = np.array([mean_pairwise(vectors[[position[i] for i in outfit.items]]) for outfit in outfits])
        interval = bootstrap_statistic(
            lambda counts: auc(scores, labels, counts), len(scores), self.resamples, self.seed
        )
        negatives = np.sort(scores[~labels])
        lower = np.searchsorted(negatives, scores[labels], "left")
        not_higher = np.searchsorted(negatives, scores[labels], "right")
        return interval, (lower + not_higher) / 2 / len(negatives)


def mean_pairwise(vectors: npt.NDArray[Any]) -> float:
    """Mean cosine of all pairs of unit vectors (n, D), n > 1.

    Computed in float64 and rounded to float32, so that the order of the items does not break ties.

    >>> mean_pairwise(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    0.3333333432674408
    """
    vectors, n = vectors.astype(np.float64), len(vectors)
    total = vectors.sum(axis=0)
    return float(np.float32((total @ total - (vectors * vectors).sum()) / (n * (n - 1))))


def fill_in_blank(questions: Sequence[Question], vectors: npt.NDArray[Any], position: Mapping[str, int]) -> Floats:
    """(Q,): 1 where the right candidate alone has the highest mean cosine with the items, else 0."""
    correct = np.zeros(len(questions))
    for q, question in enumerate(questions):
        items, candidates = (
            vectors[[position[i] for i in ids]].astype(np.float64) for ids in (question.items, question.candidates)
        )
        scores = (candidates @ items.mean(axis=0)).astype(np.float32)
        right = np.array(question.right)
        correct[q] = scores[right].max() > scores[~right].max()
    return correct


def _present(outfit: Outfit, position: Mapping[str, int]) -> Outfit:
    return Outfit([item for item in outfit.items if item in position], outfit.compatible)


def _answerable(question: Question, position: Mapping[str, int]) -> Question | None:
    """The question with its available items; None if none is left or a candidate is missing."""
    items = [item for item in question.items if item in position]
    complete = all(item in position for item in question.candidates)
    return Question(items, question.candidates, question.right) if items and complete else None


def read_published(folder: Path, split: str) -> tuple[list[Outfit], list[Question]]:
    """Read a split's outfits and questions, resolving references ``<set_id>_<index>`` to item ids.

    Raises:
        ModisteError: The split is unknown, or a file is missing or malformed.
    """
    if split not in FILES:
        raise ModisteError(f"Polyvore Outfits has no split '{split}'. {did_you_mean(split, FILES)}")
    word = FILES[split]
    files = [f"compatibility_{word}.txt", f"fill_in_blank_{word}.json", *OUTFITS.values()]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ModisteError(
            f"{folder} holds no {' and no '.join(missing)}: set task.compatibility.path to the extracted folder. "
            f"{CARD.download}"
        )
    items = _items(folder)
    return _outfits(folder / files[0], items), _questions(folder / files[1], items)


def _items(folder: Path) -> dict[str, str]:
    """``<set_id>_<index>`` → item id, of all splits."""
    items = {}
    for file in OUTFITS.values():
        try:
            for outfit in read_json(CARD, folder / file, list):
                items.update({f"{outfit['set_id']}_{item['index']}": str(item["item_id"]) for item in outfit["items"]})
        except (KeyError, TypeError) as error:
            raise cut_short(CARD, folder / file, f"not a list of outfits with items, {error!r}") from None
    return items


def _outfits(path: Path, items: Mapping[str, str]) -> list[Outfit]:
    outfits = []
    for line in read_lines(path):
        label, *references = line.split()
        if label not in ("0", "1"):
            raise cut_short(CARD, path, f"a line begins with {label}, which is not 0 or 1")
        outfits.append(Outfit(_resolve(references, items, path), label == "1"))
    return outfits


def _questions(path: Path, items: Mapping[str, str]) -> list[Question]:
    questions = []
    for entry in read_json(CARD, path, list):
        try:
            own = _set_id(entry["question"][0])
            right = [_set_id(reference) == own for reference in entry["answers"]]
            question, answers = (_resolve(entry[key], items, path) for key in ("question", "answers"))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise cut_short(CARD, path, f"a question is malformed, {error!r}") from None
        if not any(right) or all(right):
            raise cut_short(CARD, path, f"no answer, or every one, is of the outfit of the question {question}")
        questions.append(Question(question, answers, right))
    return questions


def _set_id(reference: str) -> str:
    return reference.rpartition("_")[0]


def _resolve(references: Sequence[str], items: Mapping[str, str], path: Path) -> Ids:
    unknown = [reference for reference in references if reference not in items]
    if unknown:
        raise cut_short(CARD, path, f"{unknown[0]} is in no outfit of {', '.join(OUTFITS.values())}")
    return [items[reference] for reference in references]
