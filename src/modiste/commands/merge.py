"""Interpolate the weights of two models (WiSE-FT): modiste merge first=start second=RUN"""

from __future__ import annotations

import shlex
from typing import Any

from omegaconf import DictConfig

from modiste.commands._invocation import invocation, resumable


def run(cfg: DictConfig) -> None:
    """Evaluate the interpolated models, write the best one as a run, and print the curve."""
    from modiste.evaluation.merge import merge_config

    with resumable("alphas"):
        merged = merge_config(cfg, invocation())
    print_curve(merged.curve, merged.alpha, merged.shown)
    print(f"\nalpha = {merged.alpha:g} is best by {merged.monitor}")
    print(f"Curve: {merged.run.path / 'merge.json'}\nPicture: {merged.picture}")
    print(f"Evaluate it: modiste evaluate run={shlex.quote(str(merged.run.path))}")


def print_curve(curve: list[dict[str, Any]], chosen: float, names: list[str]) -> None:
    """Print a table of the metrics ``names``, one row per alpha; the chosen one is bold."""
    from rich.console import Console
    from rich.table import Table

    table = Table("alpha", *names)
    for row in curve:
        cells = [f"{row[n]['value']:.4f} [{row[n]['low']:.4f}, {row[n]['high']:.4f}]" for n in names]
        table.add_row(f"{row['alpha']:g}", *cells, style="bold" if row["alpha"] == chosen else "")
    Console().print(table)
