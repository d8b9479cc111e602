"""A paper's tables, rebuilt from result files next to the published numbers: ``experiments/<paper>/table.yaml``.

What the file may say is described in `modiste.reporting.papers.spec`; what fills a cell, and what does not, in
`modiste.reporting.papers.measure`.
"""

from modiste.reporting.papers.spec import Paper, is_paper
from modiste.reporting.papers.writing import format_papers, paper_sheets

__all__ = ["Paper", "format_papers", "is_paper", "paper_sheets"]
