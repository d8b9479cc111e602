"""Compare two models on the same queries, with a test per metric: modiste compare runs/a runs/b"""

from __future__ import annotations

from omegaconf import DictConfig

from modiste.errors import ModisteError


def run(cfg: DictConfig) -> None:
    """Compare the results that two runs have in common, and print one table per result.

    Raises:
        ModisteError: There are not two paths, or no results are comparable; the message says what differs.
    """
    from modiste.evaluation.compare import compare
    from modiste.reporting.tables import FORMATS, TERMINAL, check_format, emit, print_sheets

    check_format(cfg.format, FORMATS)
    if len(cfg.sources) != 2:
        raise ModisteError("modiste compare needs two runs or two result files: modiste compare runs/a runs/b.")
    comparison = compare(*cfg.sources, allow=list(cfg.allow), resamples=cfg.resamples, seed=cfg.seed)
    if cfg.format == TERMINAL and cfg.out is None:
        print_sheets(comparison.sheets(every=cfg.all), compact=True)
    else:
        emit(comparison.text("markdown" if cfg.format == TERMINAL else cfg.format), cfg.out)
