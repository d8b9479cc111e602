"""Preprocess a catalogue's images once, for fast epochs: modiste prepare data=kagl size=80 out=DIR"""

from __future__ import annotations

import shlex

from omegaconf import DictConfig

from modiste.commands._invocation import invocation, resumable


def run(cfg: DictConfig) -> None:
    """Write shards and manifest into ``cfg.out``; the same command resumes an interrupted run."""
    from modiste.data.prepare import prepare_config

    with resumable("shards"):
        done = prepare_config(cfg, invocation())
    print(f"{done.made} shards written, existing shards reused: {done.folder}")
    print(f"Train on it: modiste train {shlex.join(done.overrides)}")
