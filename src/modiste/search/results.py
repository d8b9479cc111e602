"""Results of a search: a table, the exactness of its ranking, and its matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Exactness:
    """How the ranking was made.

    Attributes:
        method: For instance ``exact scores of 1,204 rows``.
        recall: Measured recall@k of such a search, the fraction of the true k best that it finds; None: exact, or not
            measured.
        k: Number of results that recall was measured for, at least the number asked for.
        queries: Number of sampled queries that recall was measured on.
        filtered: Whether recall was measured at the filter's selectivity.
        measured: False for an approximate ranking whose recall was not measured.
        note: Why the index's plan was not used, with the remedy; empty if it was.

    >>> str(Exactness("all rows")), str(Exactness("binary codes", 0.98, 100, 500, True))
    ('exact', 'approximate, recall@100 0.98 measured on 500 sampled queries at this filter selectivity')
    """

    method: str
    recall: float | None = None
    k: int = 0
    queries: int = 0
    filtered: bool = False
    measured: bool = True
    note: str = ""

    def __str__(self) -> str:
        if not self.measured:
            return "approximate, recall not measured"
        if self.recall is None:
            return "exact"
        at = " at this filter selectivity" if self.filtered else ""
        shown = f"{self.recall:.3f}".rstrip("0").rstrip(".")  # 1, 0.98, 0.997
        return f"approximate, recall@{self.k} {shown} measured on {self.queries} sampled queries{at}"


@dataclass(frozen=True)
class Results:
    """The best rows of an index for a query, best first.

    Attributes:
        table: Arrow table: ``product_id``, ``row`` (of its best view), ``score`` (cosine, or the weighted sum of a
            hybrid search), ``match`` (whether the cosine reaches the threshold, or a hybrid query names the product's
            id; null without a threshold), ``views`` (all rows of the product that pass the filter, if results are
            grouped), ``text``, attributes.
        exactness: How the ranking was made; ``str`` of it is a sentence for users.
        threshold: Minimum score of a match; None: not calibrated.
        coverage: Fraction of true matches that reach the threshold, as calibrated; None: not known, since training
            pairs may be among those of the calibration.
        passing: Number of rows that pass the filter.
        products: Number of products that have such a row, without those of ``like``; None: not known, on a server.
        hints: Why no row passes the filter, such as a value that no row has.
        uncalibrated: Why there is no threshold; empty if there is one.
        split: Split of the calibration's pairs (`modiste.search.calibrate.Threshold`).
    """

    table: Any
    exactness: Exactness
    threshold: float | None = None
    coverage: float | None = None
    passing: int = 0
    hints: Sequence[str] = field(default_factory=tuple)
    uncalibrated: str = ""
    split: str = ""
    products: int | None = None

    @property
    def calibration(self) -> str:
        """What is known of the threshold; empty without one."""
        if self.threshold is None:
            return ""
        if self.coverage is None:
            return "a threshold from all pairs, training pairs included, so that its coverage is not known"
        of = f" of split {self.split}" if self.split else ""
        return f"which {self.coverage:.0%} of true matches{of} do".replace("%", " %")

    @property
    def no_match(self) -> bool:
        """Whether no result is a match; without a threshold, whether there are no results."""
        if not len(self):
            return True
        return self.threshold is not None and not any(self.table.column("match").to_pylist())

    def to_pandas(self) -> pd.DataFrame:
        """The table as a DataFrame. Raises ImportError if pandas is not installed."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return len(self.table)

    def summary(self) -> str:
        """Summary of the results in a sentence.

        >>> import pyarrow as pa
        >>> table = pa.table({"score": [0.1], "match": [False]})
        >>> Results(table, Exactness("x"), 0.2, 0.9, 70, split="val").summary()
        'exact over 70 rows; no good match: no score reaches 0.200, which 90 % of true matches of split val do'
        """
        parts = [f"{self.exactness} over {self.passing:,} rows"]
        if len(self) and self.threshold is not None:
            reached = sum(map(bool, self.table.column("match").to_pylist()))
            said = f"{reached} of {len(self)} reach" if reached else "no good match: no score reaches"
            parts.append(f"{said} {self.threshold:.3f}, {self.calibration}")
        return "; ".join([*parts, *self.hints, *filter(None, [self.exactness.note])])
