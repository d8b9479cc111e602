"""Results of a search: a table, how it was ranked, and whether anything in it is a match."""

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
        method: For instance ``exact scores of 1,204 rows that pass the filter``.
        recall: Fraction of the true best that such a search finds, as measured; None: all of them, by construction.
        queries: Number of sampled queries that it was measured on.
        filtered: Whether it was measured at the filter's selectivity.

    >>> str(Exactness("all rows")), str(Exactness("int8 codes", 0.98, 500, True))
    ('exact', 'approximate, recall 0.98 measured on 500 sampled queries at this filter selectivity')
    """

    method: str
    recall: float | None = None
    queries: int = 0
    filtered: bool = False

    def __str__(self) -> str:
        if self.recall is None:
            return "exact"
        at = " at this filter selectivity" if self.filtered else ""
        shown = f"{self.recall:.3f}".rstrip("0").rstrip(".")  # 1, 0.98, 0.997
        return f"approximate, recall {shown} measured on {self.queries} sampled queries{at}"


@dataclass(frozen=True)
class Results:
    """The best rows of an index for a query, best first.

    Attributes:
        table: Arrow table: ``product_id``, ``row`` (of its best view), ``score`` (cosine, or the weighted sum of a
            hybrid search), ``match`` (whether the score reaches the threshold; null where none is calibrated),
            ``views`` (all rows of the product that pass the filter, where results are grouped), ``text``, attributes.
        exactness: How the ranking was made; ``str`` of it is the sentence that users read.
        threshold: Score from which on a result counts as a match, or None.
        coverage: Fraction of true matches that reach the threshold, as calibrated.
        passing: Number of rows that pass the filter.
        hints: Why there may be nothing, such as a value that no row has.
        uncalibrated: Why there is no threshold, in a sentence; empty where there is one.
    """

    table: Any
    exactness: Exactness
    threshold: float | None = None
    coverage: float | None = None
    passing: int = 0
    hints: Sequence[str] = field(default_factory=tuple)
    uncalibrated: str = ""

    @property
    def no_match(self) -> bool:
        """Whether no result reaches the threshold; False where none is calibrated and there are results."""
        if not len(self):
            return True
        return self.threshold is not None and not any(self.table.column("match").to_pylist())

    def to_pandas(self) -> pd.DataFrame:
        """The table as a DataFrame. Raises ImportError where pandas is not installed."""
        return self.table.to_pandas()

    def __len__(self) -> int:
        return len(self.table)

    def summary(self) -> str:
        """A sentence about the whole.

        >>> import pyarrow as pa
        >>> Results(pa.table({"score": [0.1], "match": [False]}), Exactness("x"), 0.2, 0.9, 70).summary()
        'exact over 70 rows; no good match: no score reaches 0.200, which 90 % of true matches do'
        """
        parts = [f"{self.exactness} over {self.passing:,} rows"]
        if len(self) and self.threshold is not None and self.coverage is not None:
            reached = sum(map(bool, self.table.column("match").to_pylist()))
            known = f"which {self.coverage:.0%} of true matches do".replace("%", " %")
            if reached:
                parts.append(f"{reached} of {len(self)} reach {self.threshold:.3f}, {known}")
            else:
                parts.append(f"no good match: no score reaches {self.threshold:.3f}, {known}")
        return "; ".join([*parts, *self.hints])
