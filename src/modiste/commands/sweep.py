"""Search hyperparameters: modiste sweep sweep=heads experiment=lit

Trials are run directories of `modiste train`. With features.cache=true they share one process, so that the catalogue
and the features are loaded once; otherwise each trial runs in a separate process. A killed sweep resumes with
continue=DIR. The search space is defined in conf/sweep/*.yaml; all settings of `modiste train` are given in the same
way. For several seeds of one configuration, with mean ± standard deviation of every metric:
`modiste sweep sweep=seeds sweep.repeats=5`. With logger=wandb, all trials are runs of one group named after the sweep's
directory.
"""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from modiste.commands._invocation import invocation


def run(cfg: DictConfig) -> None:
    """Run the missing trials, then write table, figures and report.

    Raises:
        ModisteError: The search space or a setting is invalid, or no trial of a finished sweep is complete.
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
