"""Compare results in a table, next to published numbers: modiste table runs/a runs/b"""

from __future__ import annotations

from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Build the table of ``cfg.sources`` in ``cfg.format`` and print it, or write it to ``cfg.out``.

    Raises:
        ModisteError: The paths mix papers and runs, or cannot be read.
    """
    from modiste.reporting.build import build_table
    from modiste.reporting.tables import emit, format_of, print_sheets, read_published

    style = format_of(cfg.format, cfg.out)
    table = build_table(list(cfg.sources), read_published(cfg.published), style, cfg.all)
    if isinstance(table, str):
        emit(table, cfg.out)
    else:
        print_sheets(table)
