"""The table of what was run beside what was published: modiste table runs/a runs/b, modiste table experiments/here"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from modiste.errors import ModisteError
from modiste.reporting.papers import format_papers, is_paper
from modiste.reporting.tables import format_table, load_results, read_published


def run(cfg: DictConfig) -> None:
    """Build the table of ``cfg.paths`` in ``cfg.format`` and print it, or write it to ``cfg.output``.

    Raises:
        ModisteError: The paths are of both kinds, papers and runs, or not readable.
    """
    papers = [path for path in cfg.paths if is_paper(path)]
    published = read_published(cfg.published)
    if papers and len(papers) < len(cfg.paths):
        other = next(path for path in cfg.paths if path not in papers)
        raise ModisteError(f"'{papers[0]}' is a paper's table and '{other}' is not: make a table of each.")
    if papers:
        text = format_papers(papers, published, cfg.format)
    else:
        text = format_table(load_results(cfg.paths), published, cfg.format)
    emit(text, cfg.output)


def emit(text: str, output: str | None) -> None:
    """Print ``text``, or write it to the file ``output``."""
    if output is None:
        print(text, end="")
        return
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"Wrote {path}")
