"""Final outputs of a run: the report, and the next command."""

from __future__ import annotations

import shlex

from modiste.training.fit import Run


def conclude(run: Run) -> str:
    """Write the report of a run; return the final message."""
    here, report = shlex.quote(str(run.path)), run.write_report()
    lines = ["", f"Run directory: {run.path}", *([f"Report: {report}"] if report else [])]
    return "\n".join([*lines, f"Evaluate it: modiste evaluate run={here}{split_of(run)}"])


def split_of(run: Run) -> str:
    """Override of ``split`` for a run whose data have no test split; otherwise empty."""
    splits = run.trainer.datamodule.catalogue.splits  # type: ignore[attr-defined]
    return (
        "" if "test" in splits else next((f" split={name}" for name in ("val", "all") if name in splits), " split=all")
    )
