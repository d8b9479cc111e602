"""Evaluate a run, a published model or embeddings on disk: modiste evaluate run=DIR suite=here"""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from modiste.commands._invocation import invocation
from modiste.utils.run_dir import RunDir


def run(cfg: DictConfig) -> None:
    """Evaluate, and print a table and the paths of results and report."""
    from modiste.evaluation.api import Evaluated, evaluate_config
    from modiste.reporting.tables import print_results

    done: Evaluated = evaluate_config(cfg, invocation())
    missing = [outcome for outcome in done.outcomes if outcome.status == "missing"]
    if cfg.get("suite") is None:
        for outcome in missing:
            print(f"Skipped {outcome.task}: {outcome.why}")
    else:
        counts = {s: sum(o.status == s for o in done.outcomes) for s in ("computed", "kept", "missing")}
        print(f"\nSuite {cfg.suite.name}: " + ", ".join(f"{number} {status}" for status, number in counts.items()))
        for outcome in missing:
            print(f"- missing: {outcome.entry} · {outcome.task}: {outcome.why}")
    print_results(done.paths)
    if cfg.get("run") and RunDir(Path(cfg.run).expanduser()).unfinished:
        here = shlex.quote(str(cfg.run))
        print(f"\nTraining of {here} is unfinished: complete it with modiste train continue={here}")
    print(f"\nResults: {done.folder.results}\nReport: {done.report}")
