"""Reading of a training run's CSV log."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from modiste.errors import ModisteError

Series = tuple[np.ndarray, np.ndarray]
"""Steps and values."""


def read_metrics(run_dir: Path) -> dict[str, Series]:
    """Read the columns of a run's CSV log as (steps, values), without the gaps of Lightning's sparse rows.

    Reads ``metrics.csv`` and ``csv/version_*/metrics.csv``; the later of two rows for one step (a resumed run) counts.

    Raises:
        ModisteError: A cell is not a number.
    """
    versions = sorted(run_dir.glob("csv/version_*/metrics.csv"), key=lambda p: (len(p.parent.name), p.parent.name))
    columns: dict[str, dict[float, float]] = {}
    for path in [p for p in (run_dir / "metrics.csv", *versions) if p.is_file()]:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, cell in row.items():
                    if name not in (None, "step", "epoch") and cell:
                        columns.setdefault(name, {})[_float(row.get("step"), path)] = _float(cell, path)
    return {name: _series(points) for name, points in columns.items()}


def _float(cell: str | None, path: Path) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise ModisteError(f"'{path}' holds '{cell}' where a number belongs: repair or delete the file.") from None


def _series(points: Mapping[float, float]) -> Series:
    steps = sorted(points)
    return np.array(steps), np.array([points[step] for step in steps])
