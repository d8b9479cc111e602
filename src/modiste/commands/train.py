"""Train a dual encoder: modiste train data=kagl image=lite text=minilm"""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from modiste.commands._invocation import invocation


def run(cfg: DictConfig) -> float | None:
    """Train and write the report; return the best value of the monitored metric, for multiruns."""
    from modiste.training.fit import train
    from modiste.training.report import conclude

    trained = train(cfg, line=invocation(), report=False)  # `conclude` writes it
    here = shlex.quote(str(trained.path))
    if trained.interrupted:
        print(
            f"\nInterrupted at {trained.interrupted}; nothing is lost. Continue with: modiste train continue={here}",
            file=sys.stderr,
        )
        raise SystemExit(130)
    if not trained.concludes:
        return None
    try:
        print(conclude(trained))
    except KeyboardInterrupt:
        print(
            f"\nInterrupted after training; nothing is lost. Conclude with: modiste train continue={here}",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    return trained.score
