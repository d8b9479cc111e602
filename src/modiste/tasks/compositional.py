"""Compositionality: attribute binding, also in rare and unseen combinations.

Swap probes following Winoground (Thrush et al., CVPR 2022) and ARO (Yuksekgonul et al., ICLR 2023), held-out
(attribute, category) pairs, and the improbable products of FashionCLIP (Chia et al., Sci Rep 12:18958, 2022).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modiste.data.captions import FIELD
from modiste.errors import ModisteError
from modiste.metrics.direction import directions
from modiste.metrics.intervals import bootstrap, describe_bootstrap
from modiste.tasks.result import Embedder, Result

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.str_]
Pair = tuple[str, ...]

SHOWN = 50
"""Maximum number of wrong choices per table."""
CHUNK = 4096
"""Images per chunk of their cosines with all pairs."""

DEFINITIONS = {
    "accuracy": "fraction of images whose caption scores higher than the same caption with the one value exchanged; "
    "chance 0.5",
    "text_score": "fraction of pairs of images that differ in the one value where each image prefers its own caption; "
    "chance 0.25",
    "image_score": "the same pairs where each caption prefers its own image; chance 0.25",
    "group_score": "the same pairs where both hold; chance 1/6",
    "pair_accuracy": "fraction of images whose caption scores higher than those of all other pairs of the catalogue",
}


class Named:
    """Rows of a catalogue with a word in every column of the captions; the others are counted.

    Args:
        catalogue: The rows.
        columns: Columns of the captions.
        classes: Column to {value: word}; the word of an unlisted value is the value itself.
        ignore_values: Values without a word.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        columns: Sequence[str],
        classes: Mapping[str, Mapping[str, str]],
        ignore_values: Sequence[str],
    ) -> None:
        values = {name: catalogue.column(name) for name in columns}
        rows = range(len(catalogue))
        keep = [row for row in rows if all(values[name][row] not in ignore_values for name in columns)]
        self.ignored = len(catalogue) - len(keep)
        self.catalogue = catalogue.select(rows=keep)
        self.words = {
            name: np.array([classes.get(name, {}).get(values[name][row], values[name][row]) for row in keep])
            for name in columns
        }

    def __len__(self) -> int:
        return len(self.catalogue)

    def captions(self, template: str, exchanged: dict[str, Words] | None = None) -> list[str]:
        """Fill the template for every row; ``exchanged`` replaces the words of its columns, (N,) each."""
        words = {name: values.tolist() for name, values in (self.words | (exchanged or {})).items()}
        rows = (dict(zip(words, values, strict=True)) for values in zip(*words.values(), strict=True))
        return [_fill(template, row) for row in rows]

    def pairs(self, columns: Sequence[str]) -> list[Pair]:
        """The words of the columns, row by row."""
        return [tuple(map(str, words)) for words in zip(*(self.words[name] for name in columns), strict=True)]


@dataclass
class Found:
    """Collect the fields of a `Result`, and the excluded rows by reason."""

    per_query: dict[str, Floats] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tables: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Compositional:
    """Swap probes, held-out pairs and improbable products on any catalogue with attributes.

    Args:
        swaps: Name to the column whose value is exchanged, e.g. ``{colour: baseColour}``. The other value is that of a
            random row with another word, so values are drawn by their frequency in the split.
        template: The caption, with every column of ``swaps``, e.g. ``a photo of a {baseColour} {articleType}``.
        pair_template: The caption of an (attribute, category) pair: exactly two columns; empty: only swap probes.
        classes: Column to {value: word}, for values that are not good words. Values with the same word are one.
        ignore_values: Values without a word: rows with one in a caption's column are skipped and counted.
        held_out: Splits with pairs that were held out of training.
        rare: An image is of an improbable product if its pair's frequency in train is at most this quantile over the
            evaluated images; 0: if its pair does not occur in train.
        resamples: Number of bootstrap resamples.
        seed: Seed of the draws and the bootstrap.

    Raises:
        ModisteError: ``template`` lacks a swapped column, ``pair_template`` does not have two columns, or ``rare`` is
            out of range.
    """

    name = "compositional"

    def __init__(
        self,
        swaps: Mapping[str, str] | None = None,
        template: str = "",
        pair_template: str = "",
        classes: Mapping[str, Mapping[str, str]] | None = None,
        ignore_values: Sequence[str] = ("",),
        held_out: Sequence[str] = ("hout_p",),
        rare: float = 0.1,
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.swaps = {str(name): str(column) for name, column in (swaps or {}).items()}
        self.template, self.pair_template = template, pair_template
        self.pair = list(dict.fromkeys(FIELD.findall(pair_template)))
        self.columns = list(dict.fromkeys(FIELD.findall(template) + self.pair))
        self.classes = {str(name): {str(k): str(v) for k, v in m.items()} for name, m in (classes or {}).items() if m}
        self.ignore_values, self.held_out, self.rare = list(ignore_values), list(held_out), rare
        self.resamples, self.seed = resamples, seed
        for column in self.swaps.values():
            if f"{{{column}}}" not in template:
                raise ModisteError(f"The compositional template '{template}' has no {{{column}}} to swap: add it.")
        if pair_template and len(self.pair) != 2:
            raise ModisteError(f"The pair_template needs two columns, an attribute and a category: '{pair_template}'.")
        if not 0 <= rare < 1:
            raise ModisteError(f"The compositional task's rare={rare} must be at least 0 and less than 1.")

    def __call__(self, embedder: Embedder, catalogue: Catalogue, split: str) -> Result:
        """Evaluate on ``split`` of the full ``catalogue``.

        Raises:
            ModisteError: There is nothing to swap, a column is unknown, no row has all values, or an embedding is not
                finite.
        """
        if not self.swaps:
            raise ModisteError(
                f"No swappable attributes are defined for {catalogue.card.name}: set data.compositional, "
                "as in conf/data/kagl.yaml."
            )
        rows = self._named(catalogue.select(split=split))
        if not len(rows):
            raise ModisteError(f"No row of split '{split}' has a value in each of {', '.join(self.columns)}.")
        found = Found(counts={"images": len(rows), "ignored": rows.ignored})
        images = embedder.images(rows.catalogue)
        own = _texts(embedder, rows.captions(self.template))
        for place, (name, column) in enumerate(self.swaps.items()):
            generator = np.random.default_rng([self.seed, place])
            self._swap(name, column, embedder, rows, images, own, generator, found)
        if not found.per_query:
            raise ModisteError(f"No attribute of {catalogue.card.name} has two values in split '{split}' to swap.")
        primary = next(iter(found.per_query))
        if self.pair:
            whole = self._named(catalogue)
            known, told = self._known(whole)
            self._improbable(rows, known, found)
            self._held_out(embedder, whole, rows, images, known, found)
        else:
            found.skipped |= dict.fromkeys(("improbable", "heldout"), "no pair_template")
            told = ""
        metrics = {
            name: bootstrap({name: values}, resamples=self.resamples, seed=self.seed)[name]
            for name, values in found.per_query.items()
        }
        return Result(
            task=self.name,
            data=catalogue.card.name,
            split=split,
            metrics=metrics,
            higher_is_better=directions(metrics),
            protocol=self.describe() | {"known_pairs": told, "skipped": found.skipped},
            primary=primary,
            summary=["accuracy", "group_score", "pair_accuracy"],
            per_query=found.per_query,
            counts=found.counts,
            tables=found.tables,
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values."""
        return {
            "swaps": self.swaps,
            "template": self.template,
            "pair_template": self.pair_template,
            "classes": {name: self.classes.get(name, {}) for name in self.columns},
            "ignore_values": self.ignore_values,
            "exchanged_value": "that of a row of the split drawn among those with another word",
            "pairs_of_images": "each image with one drawn among those that differ in the one word and agree in the "
            "other words of the caption; images without one are counted and excluded",
            "held_out": self.held_out,
            "seen_pairs": "images of the evaluated split whose pair is known; held-out ones are of the held-out "
            "splits, and their pair is not; both choose among all pairs of the catalogue",
            "rare": self.rare,
            "improbable": "images whose pair is known no more often than the `rare` quantile (lower) of the evaluated "
            "images' pairs; with rare=0, not at all; the others are probable",
            "metrics": dict(DEFINITIONS),
            "ties": "count as wrong",
            "bootstrap": describe_bootstrap(self.resamples, self.seed),
            "seed": self.seed,
        }

    def _named(self, catalogue: Catalogue) -> Named:
        return Named(catalogue, self.columns, self.classes, self.ignore_values)

    def _swap(
        self,
        name: str,
        column: str,
        embedder: Embedder,
        rows: Named,
        images: Tensor,
        own: Tensor,
        generator: np.random.Generator,
        found: Found,
    ) -> None:
        """Accuracy on one exchanged value, and the scores of pairs of images that differ in it."""
        words = rows.words[column]
        if len(set(words.tolist())) < 2:
            found.skipped[name] = f"one value of {column} only"
            return
        drawn = words[draw_others(words, np.zeros(len(words), dtype=np.int64), generator)]
        exchanged = _texts(embedder, rows.captions(self.template, {column: drawn}))
        right = _cosines(images, own) > _cosines(images, exchanged)
        found.per_query[f"{name}/accuracy"] = right.astype(np.float64)
        found.tables[f"{name}/wrong"] = wrong_choices(words.tolist(), drawn.tolist(), right)
        # Rows form a group if the other words of their captions agree.
        rest = rows.captions(self.template, {column: np.full(len(words), "")})
        partners = draw_others(words, np.unique(rest, return_inverse=True)[1], generator)
        a = np.flatnonzero(partners >= 0)
        found.counts |= {f"{name}/queries": len(words), f"{name}/pairs_of_images": len(a)}
        if not len(a):
            found.skipped[f"{name}/group_score"] = f"no two images differ in {column} alone"
            return
        b = partners[a]
        aa, bb = _cosines(images[a], own[a]), _cosines(images[b], own[b])
        ab, ba = _cosines(images[a], own[b]), _cosines(images[b], own[a])
        text, image = (aa > ab) & (bb > ba), (aa > ba) & (bb > ab)
        scores = {"text_score": text, "image_score": image, "group_score": text & image}
        found.per_query |= {f"{name}/{score}": values.astype(np.float64) for score, values in scores.items()}

    def _known(self, whole: Named) -> tuple[Counter[Pair], str]:
        """How often each pair occurs in train, and where it was counted."""
        splits = whole.catalogue.column("split")
        if "train" in splits:
            kept, told = [split == "train" for split in splits], "the train split"
        else:
            kept = [split not in self.held_out for split in splits]
            told = "the whole catalogue but its held-out splits: it has no train split"
        return Counter(pair for pair, known in zip(whole.pairs(self.pair), kept, strict=True) if known), told

    def _improbable(self, rows: Named, known: Counter[Pair], found: Found) -> None:
        """Accuracies of the swap probes, separately for images of rare pairs and of the others."""
        frequency = np.array([known[pair] for pair in rows.pairs(self.pair)])
        limit = int(np.quantile(frequency, self.rare, method="lower")) if self.rare else 0
        found.counts["improbable/known_at_most"] = limit
        for part, bound, kept in (
            ("improbable", "at most", frequency <= limit),
            ("probable", "more than", frequency > limit),
        ):
            found.counts[f"{part}/images"] = int(kept.sum())
            if not kept.any():
                found.skipped[part] = f"no image has a pair that is known {bound} {limit} times"
                continue
            for name in self.swaps:
                if f"{name}/accuracy" in found.per_query:
                    found.per_query[f"{part}/{name}_accuracy"] = found.per_query[f"{name}/accuracy"][kept]

    def _held_out(
        self, embedder: Embedder, whole: Named, rows: Named, images: Tensor, known: Counter[Pair], found: Found
    ) -> None:
        """Accuracy on images of held-out pairs and on those of known pairs, among all pairs of the catalogue."""
        splits, pairs = whole.catalogue.column("split"), whole.pairs(self.pair)
        absent = [i for i, pair in enumerate(pairs) if splits[i] in self.held_out and not known[pair]]
        if not absent:
            found.skipped["heldout"] = f"no row of a split {self.held_out} whose pair is not known"
            return
        held = self._named(whole.catalogue.select(rows=absent))
        first = {pair: i for i, pair in reversed(list(enumerate(pairs)))}
        grid = sorted(first)
        captions = whole.captions(self.pair_template)
        vectors = embedder.texts([captions[first[pair]] for pair in grid])
        seen = [i for i, pair in enumerate(rows.pairs(self.pair)) if known[pair]]
        parts = {
            "heldout": (held.pairs(self.pair), embedder.images(held.catalogue)),
            "seen": ([rows.pairs(self.pair)[i] for i in seen], images[seen]),
        }
        found.counts["pairs"] = len(grid)
        index = {pair: i for i, pair in enumerate(grid)}
        labels = [" · ".join(pair) for pair in grid]
        for part, (own, vectors_of_images) in parts.items():
            found.counts |= {f"{part}/images": len(own), f"{part}/pairs": len(set(own))}
            if not own:
                found.skipped[part] = "no image of the evaluated split has a known pair"
                continue
            targets = np.array([index[pair] for pair in own])
            right, rivals = strict_choice(vectors_of_images, vectors, targets)
            found.per_query[f"{part}/pair_accuracy"] = right.astype(np.float64)
            found.tables[f"{part}/wrong"] = wrong_choices(
                [labels[i] for i in targets], [labels[i] for i in rivals], right
            )


def draw_others(words: Words, group: Ints, generator: np.random.Generator) -> Ints:
    """Draw for each row (N,) a row of its group that has another word; -1 where there is none.

    Args:
        words: (N,) words.
        group: (N,) group numbers from 0.
        generator: Source of the draws.


    >>> draw_others(np.array(["red", "blue", "red"]), np.array([0, 0, 1]), np.random.default_rng(0))
    array([ 1,  0, -1])
    """
    chosen = np.full(len(words), -1, dtype=np.int64)
    for number in range(int(group.max()) + 1):
        members = np.flatnonzero(group == number)
        for word in sorted(set(words[members].tolist())):
            own = words[members] == word
            if not own.all():
                chosen[members[own]] = generator.choice(members[~own], size=int(own.sum()))
    return chosen


def strict_choice(images: Tensor, texts: Tensor, targets: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Whether each image scores its target strictly higher than all other texts, and its best other text.

    Args:
        images: (N, D) unit-norm embeddings.
        texts: (T, D) unit-norm embeddings.
        targets: (N,) index of each image's target text.

    Returns:
        (N,) booleans, and (N,) indices of the other text with the highest cosine.

    >>> strict_choice(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 0.5]]), np.array([0, 1]))
    (array([ True, False]), array([1, 2]))
    """
    right, rivals = [], []
    for start in range(0, len(images), CHUNK):
        cosines = images[start : start + CHUNK] @ texts.T
        place = torch.from_numpy(targets[start : start + CHUNK])[:, None]
        own = _finite(cosines).gather(1, place)[:, 0]
        other = cosines.scatter(1, place, -torch.inf).max(dim=1)
        right.append((own > other.values).numpy())
        rivals.append(other.indices.numpy())
    return np.concatenate(right), np.concatenate(rivals)


def wrong_choices(right: Sequence[str], others: Sequence[str], correct: npt.NDArray[np.bool_]) -> dict[str, list[Any]]:
    """Table of the most frequent wrong choices; ``of`` counts all queries with that right answer."""
    asked = Counter(right)
    wrong = Counter((a, b) for a, b, ok in zip(right, others, correct, strict=True) if not ok)
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return {
        "columns": ["right", "chosen instead", "times", "of"],
        "rows": [[a, b, times, asked[a]] for (a, b), times in ranked],
    }


def _fill(template: str, words: Mapping[str, str]) -> str:
    return FIELD.sub(lambda match: words[match[1]], template)


def _texts(embedder: Embedder, texts: Sequence[str]) -> Tensor:
    """Embeddings (M, D); each distinct text is embedded once."""
    index = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    return embedder.texts(list(index))[[index[text] for text in texts]]


def _cosines(a: Tensor, b: Tensor) -> npt.NDArray[np.float32]:
    """Row-wise cosines (N,)."""
    return _finite((a * b).sum(dim=1)).numpy()


def _finite(cosines: Tensor) -> Tensor:
    if not bool(cosines.isfinite().all()):
        raise ModisteError("An embedding is not finite: the model has diverged or its input is invalid.")
    return cosines
