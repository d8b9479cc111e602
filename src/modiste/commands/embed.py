"""Embed a catalogue in parallel, in resumable shards: modiste embed data=kagl run=RUN out=DIR"""

from __future__ import annotations

import shlex

from omegaconf import DictConfig

from modiste.commands._invocation import invocation, resumable


def run(cfg: DictConfig) -> None:
    """Write shards, manifest, full matrices and their ids into ``cfg.out``; the same command resumes."""
    from modiste.embedding.api import embed_config

    with resumable("shards"):
        done = embed_config(cfg, invocation())
    print(f"{done.made} shards written, existing shards reused: {done.folder}")
    files = [f"embeddings.{side}={done.folder / f'{side}.npy'}" for side in ("image", "text")]
    print(f"Evaluate: {shlex.join(['modiste', 'evaluate', *done.data, *files])}")
