"""Build and maintain a search index of a catalogue: modiste index run=RUN out=shop.index"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from modiste.commands._invocation import invocation
from modiste.errors import ModisteError, did_you_mean


def run(cfg: DictConfig) -> None:
    """Run ``cfg.action`` and print its outcome; an interrupted build resumes with the same command."""
    from modiste.search.api import ACTIONS

    action = cfg.action or ("build" if cfg.at is None else "restore")
    if action not in ACTIONS:
        raise ModisteError(f"There is no modiste index {action}. {did_you_mean(str(action), ACTIONS)}")
    try:
        print(ACTIONS[action](cfg, invocation()))
    except KeyboardInterrupt:
        if action != "build":
            raise
        print("\nInterrupted; finished embeddings are kept. Resume with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
