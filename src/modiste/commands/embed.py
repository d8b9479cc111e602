"""Embed a catalogue in parallel, in resumable shards: modiste embed data=kagl run=RUN out=DIR"""

from __future__ import annotations

import shlex
import sys

from omegaconf import DictConfig

from modiste.commands._invocation import invocation, of_data
from modiste.config import load_overrides
from modiste.config.overrides import override_key
from modiste.utils.run_dir import RunDir


def run(cfg: DictConfig) -> None:
    """Write shards, manifest, full matrices and their ids into ``cfg.out``; the same command resumes."""
    from modiste.embedding.api import embed_config

    line = invocation()
    try:
        done = embed_config(cfg, line)
    except KeyboardInterrupt:
        print("\nInterrupted; finished shards are kept. Resume with the same command.", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{done.made} shards written, existing shards reused: {done.folder}")
    data = of_data(line.overrides)
    if cfg.run and not any(override_key(override) == "data" for override in data):
        data = [*of_data(load_overrides(RunDir.find(cfg.run).path / "overrides.yaml")), *data]
    files = [f"embeddings.{side}={done.folder / f'{side}.npy'}" for side in ("image", "text")]
    print(f"Evaluate: {shlex.join(['modiste', 'evaluate', *(data or [f'data={cfg.data.name}']), *files])}")
