"""Two models on the same queries: every common metric, its difference, interval and paired test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiste.errors import ModisteError
from modiste.reporting.tables.blocks import EMPTY, Cell, cell_of, digits_of, show
from modiste.reporting.tables.names import lower_is_better, ordered, parts_of, split_name, summary_metrics
from modiste.reporting.tables.pairs import ALPHA, SAME, difference, paired_tests, verdict
from modiste.reporting.tables.results import StoredResult, coordinates, load_results, title_of
from modiste.reporting.tables.sheets import Grid, Item, Sheet, csv_text, latex, markdown
from modiste.utils.run_dir import RunDir

if TYPE_CHECKING:
    from modiste.metrics.comparison import Comparison as Test

HEADS = ("metric", "A", "B", "A − B", "95 % interval", "p", "p Holm", "verdict")


@dataclass
class Pair:
    """Comparison of two results of one data set, split and task: common metrics and their tests."""

    a: StoredResult
    b: StoredResult
    tests: Mapping[str, Test]
    p: dict[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """The common metrics, in reading order."""
        return ordered(name for name in self.a["metrics"] if name in self.b["metrics"])

    def cells(self, name: str) -> tuple[Cell | None, Cell | None]:
        """The metric of A and of B."""
        return cell_of(self.a["metrics"][name], name), cell_of(self.b["metrics"][name], name)

    def change(self, name: str) -> float | None:
        """A − B."""
        a, b = self.cells(name)
        return None if a is None or b is None else a.value - b.value

    def verdict(self, name: str) -> str:
        """Verdict of the test at the adjusted p-value; empty without a test."""
        if name not in self.p:
            return ""
        return verdict(self.tests[name], self.p[name], lower_is_better(self.a, name))

    def main(self) -> list[str]:
        """The metrics of a summary, in reading order."""
        return summary_metrics(self.a, self.metrics)


@dataclass
class Comparison:
    """All results that two models have in common.

    Attributes:
        names: Names of A and B.
        pairs: One per data set, split and task.
        skipped: Reasons why other results are not compared, one sentence each.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """

    names: tuple[str, str]
    pairs: list[Pair]
    skipped: list[str]
    resamples: int
    seed: int

    def __str__(self) -> str:
        return self.text()

    def sheets(self, every: bool = True) -> Iterator[Sheet]:
        """A table per pair, with every metric or the main ones."""
        for i, pair in enumerate(self.pairs):
            grid = Grid(list(HEADS), "lrrrrrrl", _rows(pair, pair.metrics if every else pair.main()))
            last = i == len(self.pairs) - 1
            yield Sheet(
                title_of(pair.a), [grid], f"A: {self.names[0]}, B: {self.names[1]}", self.notes() if last else []
            )

    def notes(self) -> list[str]:
        """Explanation of the numbers, and what is missing."""
        tests = sum(len(pair.p) for pair in self.pairs)
        meaning = (
            "Two-sided paired tests over the queries: McNemar's exact test where values are 0 or 1, else the paired "
            f"bootstrap ({self.resamples:,} resamples, seed {self.seed}), which also gives the intervals. Holm's "
            f"correction for all {tests} tests; {SAME}: no significant difference at level {ALPHA}."
        )
        untested = sum(len(pair.metrics) - len(pair.p) for pair in self.pairs)
        words = [f"{untested} metrics have no values per query next to both results, and no test."] if untested else []
        return [meaning, *words, *self.skipped]

    def text(self, style: str = "markdown") -> str:
        """Format as ``markdown``, ``latex`` or ``csv``."""
        if style == "csv":
            return csv_text(self.lines())
        return (markdown if style == "markdown" else latex)(list(self.sheets()))

    def lines(self) -> Iterator[list[Any]]:
        """The column names, and a line per metric."""
        heads = ("data", "split", "task", "variant", "metric", "model_a", "model_b", "a", "b", "difference")
        yield [*heads, "low", "high", "p", "p_holm", "verdict", "test", "n"]
        for pair in self.pairs:
            for name in pair.metrics:
                values = [cell.value if cell else None for cell in pair.cells(name)]
                where = [*coordinates(pair.a), name, *self.names, *values, pair.change(name)]
                test = pair.tests.get(name)
                tested = (
                    [test.low, test.high, test.p, pair.p[name], pair.verdict(name), test.test, test.n] if test else []
                )
                yield [*where, *(tested or [None] * 7)]


def compare(
    a: RunDir | str | Path, b: RunDir | str | Path, *, allow: Sequence[str] = (), resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two models on the same queries, with paired tests and Holm's correction.

    Args:
        a: Run directory or result file of model A, or what `modiste.train` returns.
        b: The same of model B.
        allow: Settings in which two results may differ, such as ``query_prefix``.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        The comparison; ``print`` shows it as Markdown, ``.text("csv")`` has a line per metric.

    Raises:
        ModisteError: The two have no result in common, or none that may be compared; the message names what differs.

    Example:
        ``modiste.compare("runs/a", "runs/b").pairs[0].verdict("t2i/mrr")`` is ``"A better"``, ``"B better"`` or
        ``"≈"``.
    """
    a, b = (side.path if isinstance(side, RunDir) else side for side in (a, b))
    for side in (a, b):
        if not isinstance(side, (str, Path)):
            raise ModisteError(f"{side!r:.60} is no run: give two run directories or result files.")
    of_a, of_b = _by_place(a), _by_place(b)
    shared = [place for place in of_a if place in of_b]
    if not shared:
        have = " and ".join(", ".join(title_of(result) for result in side.values()) for side in (of_a, of_b))
        raise ModisteError(
            f"The two models have no result with the same data, split and task: {have}. Evaluate both on the same data."
        )
    found = Comparison(
        (_name(a, of_a.values(), of_b.values()), _name(b, of_b.values(), of_a.values())), [], [], resamples, seed
    )
    for place in shared:
        one, other = of_a[place], of_b[place]
        why = difference(one, other, allow)
        if why:
            found.skipped.append(f"Not compared: {title_of(one)}, because {why}.")
        else:
            found.pairs.append(Pair(one, other, paired_tests(one, other, resamples, seed)))
    for side, own, other_side in (("A", of_a, of_b), ("B", of_b, of_a)):
        found.skipped += [f"Only in {side}: {title_of(own[place])}." for place in own if place not in other_side]
    if not found.pairs:
        reasons = " ".join(found.skipped)
        raise ModisteError(
            f"{reasons} Evaluate both with the same settings, or allow a setting to differ with allow=[NAME]."
        )
    _adjust(found.pairs)
    return found


def _adjust(pairs: Sequence[Pair]) -> None:
    """Apply Holm's correction over all tests of all pairs."""
    from modiste.metrics.comparison import holm

    tests = [(pair, name) for pair in pairs for name in pair.tests]
    adjusted = holm([pair.tests[name].p for pair, name in tests])
    for (pair, name), p in zip(tests, adjusted, strict=True):
        pair.p[name] = p


def _by_place(path: str | Path) -> dict[tuple[str, str, str, str], StoredResult]:
    """Results by data, split, task and variant; raise ModisteError for duplicates."""
    found: dict[tuple[str, str, str, str], StoredResult] = {}
    for result in load_results([path]):
        other = found.setdefault(coordinates(result), result)
        if other is not result:
            raise ModisteError(
                f"'{path}' has two results of {title_of(result)}: '{other.path}' and '{result.path}'. Name one run, or "
                "one file."
            )
    return found


def _name(path: str | Path, own: Iterable[StoredResult], others: Iterable[StoredResult]) -> str:
    """The model's name; the path if the names do not distinguish the two."""
    names, other = ({result["model"]["name"] for result in side} for side in (own, others))
    return next(iter(names)) if len(names) == 1 and not names & other else str(path)


def _rows(pair: Pair, names: Sequence[str]) -> list[list[Item]]:
    """Rows of the metrics, grouped by the name of their part."""
    rows: list[list[Item]] = []
    for part in parts_of(names):
        if part:
            rows.append([Item(part, "italic"), *(Item("") for _ in HEADS[1:])])
        rows += [_row(pair, name) for name in names if split_name(name)[0] == part]
    return rows


def _row(pair: Pair, name: str) -> list[Item]:
    a, b = pair.cells(name)
    test, digits, change = pair.tests.get(name), digits_of(name), pair.change(name)
    shown = EMPTY if change is None else _signed(change, digits)
    items = [split_name(name)[1], show(name, a, interval=False), show(name, b, interval=False), shown]
    if test is None:
        return [Item(text) for text in (*items, *[EMPTY] * 4)]
    interval = f"[{_signed(test.low, digits)}, {_signed(test.high, digits)}]"
    word = pair.verdict(name)
    rest = [interval, _p(test.p), _p(pair.p[name])]
    return [*(Item(text) for text in (*items, *rest)), Item(word, "" if word == SAME else "bold")]


def _signed(value: float, digits: int) -> str:
    """Format a number with its sign, with a true minus.

    >>> _signed(-0.0123, 3), _signed(0.00001, 3)
    ('−0.012', '0.000')
    """
    shown = f"{value:+.{digits}f}"
    return shown.replace("-", "−") if float(shown) else shown[1:]


def _p(p: float) -> str:
    """Format a p-value.

    >>> _p(0.00002), _p(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
