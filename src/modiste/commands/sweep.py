"""Search hyperparameters: modiste sweep sweep=heads experiment=lit

Trials are run directories of `modiste train`. They share one process where features.cache is true, so that the
catalogue and the features are loaded once; otherwise each has a separate process. A killed sweep resumes with
continue=DIR. The space is in conf/sweep/*.yaml; everything that `modiste train` takes is given as there. Several seeds
of one configuration, with mean ± s.d. of every metric: `modiste sweep sweep=seeds sweep.repeats=5`. With logger=wandb
every trial is a run of one group, the sweep's directory.
"""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from modiste.commands._line import invocation


def run(cfg: DictConfig) -> None:
    """Run the trials that are missing, then write table, figures and page.

    Raises:
        ModisteError: The space or a setting is wrong, or no trial of a finished sweep is complete.
    """
    from modiste.reporting.tables import print_sheets
    from modiste.sweeps.conclude import conclude
    from modiste.sweeps.search import Sweep
    from modiste.sweeps.study import best_first, rows

    sweep = Sweep(cfg, invocation())
    try:
        study = sweep.run()
        sheets = conclude(study, sweep.objectives, list(sweep.space.space), sweep.folder)
    except KeyboardInterrupt:
        here = shlex.quote(str(sweep.folder))
        print(f"\nInterrupted; nothing is lost. Resume with: modiste sweep continue={here}", file=sys.stderr)
        raise SystemExit(130) from None
    print_sheets(sheets)
    best = best_first(rows(study, sweep.objectives), sweep.objectives)[0]["trial"]
    print(f"\nSweep directory: {sweep.folder}\nReport: {sweep.folder / 'report.html'}")
    print(f"Evaluate the best: {sweep.next_command(best)}")
