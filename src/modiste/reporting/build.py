"""Tables of result files, run directories, grids, sweeps and papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modiste.errors import ModisteError
from modiste.reporting.papers import format_papers, is_paper, paper_sheets
from modiste.reporting.tables import TERMINAL, format_table, grid, load_results, terminal_sheets
from modiste.reporting.tables.grid import grid_lines
from modiste.reporting.tables.results import has_results
from modiste.reporting.tables.sheets import Sheet, csv_text, latex, markdown


def build_table(
    paths: Sequence[str | Path], published: Sequence[Mapping[str, str]] = (), style: str = TERMINAL, every: bool = False
) -> str | list[Sheet]:
    """Build the table of ``paths``: sheets for `print_sheets` if ``style`` is ``terminal``, else text.

    Args:
        paths: Run directories, directories of grids and sweeps, or result files; or papers' ``table.yaml``.
        published: Rows of `modiste.reporting.tables.read_published`.
        style: ``terminal``, ``markdown``, ``csv`` or ``latex``.
        every: Show all metrics rather than the main ones, in a terminal and in the table of a grid; CSV has all.

    Raises:
        ModisteError: Paths of different kinds, nothing to show, or a damaged file.
    """
    papers = [path for path in paths if is_paper(path)]
    if papers and len(papers) < len(paths):
        other = next(path for path in paths if path not in papers)
        raise ModisteError(f"'{papers[0]}' is a paper's table and '{other}' is not: make a table of each.")
    if papers:
        return paper_sheets(papers, published) if style == TERMINAL else format_papers(papers, published, style)
    if len(paths) == 1 and Path(paths[0]).is_dir() and not has_results(paths[0]):
        return _grid_table(paths[0], style, every)
    results = load_results(paths)
    return terminal_sheets(results, published, every) if style == TERMINAL else format_table(results, published, style)


def _grid_table(folder: str | Path, style: str, every: bool) -> str | list[Sheet]:
    if style == "csv":
        return csv_text(grid_lines(folder))
    sheets = [grid(folder, every)]
    return sheets if style == TERMINAL else (markdown if style == "markdown" else latex)(sheets)
