"""Recompute stored results and compare them bit for bit: modiste verify runs/kagl_lite"""

from __future__ import annotations

from omegaconf import DictConfig

from modiste.commands._invocation import invocation
from modiste.errors import ModisteError


def run(cfg: DictConfig) -> None:
    """Verify every result under ``cfg.sources``; print one line each. Raises ModisteError if one differs."""
    from modiste.evaluation.verify import verify_results

    if not cfg.sources:
        raise ModisteError("No results given: name files or run directories, modiste verify runs/a.")
    verdicts = []
    for verdict in verify_results(cfg.sources, cfg.run, cfg.tolerance, cfg.cache, invocation().config_dirs):
        verdicts.append(verdict)
        print(verdict, flush=True)
    wrong = sum(not verdict.sound for verdict in verdicts)
    if wrong:
        raise ModisteError(
            f"{wrong} of {len(verdicts)} results are not confirmed: evaluate them again with overwrite=true, or "
            "restore the files named above."
        )
