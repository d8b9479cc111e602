"""Embed a catalogue's images and texts in shards, by many processes: modiste embed data=kagl run=RUN out=DIR"""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from modiste.commands._line import invocation
from modiste.config.overrides import override_key


def run(cfg: DictConfig) -> None:
    """Write shards, manifest, joined matrices and their ids into ``cfg.out``; the same command resumes."""
    from modiste.embedding.api import embed_config

    line = invocation()
    try:
        done = embed_config(cfg, line)
    except KeyboardInterrupt:
        print("\nInterrupted; finished shards are kept. Resume with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{done.made} shards written, existing shards reused: {done.folder}")
    data = [o for o in line.overrides if override_key(o).split(".")[0].split("/")[0] in ("data", "data_dir")]
    files = [f"embeddings.{side}={done.folder / f'{side}.npy'}" for side in ("image", "text")]
    print(f"Evaluate: {shlex.join(['modiste', 'evaluate', *(data or [f'data={cfg.data.name}']), *files])}")
