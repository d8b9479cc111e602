"""A paper's tables (``experiments/<paper>/table.yaml``): published numbers next to result files.

`modiste.reporting.papers.spec` documents the file, `modiste.reporting.papers.measure` which results fill a cell.
"""

from modiste.reporting.papers.spec import Paper, is_paper
from modiste.reporting.papers.writing import format_papers, paper_sheets

__all__ = ["Paper", "format_papers", "is_paper", "paper_sheets"]
