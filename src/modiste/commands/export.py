"""Export a model to another library's layout: modiste export run=RUN format=open_clip out=DIR"""

from __future__ import annotations

import shlex

from omegaconf import DictConfig

from modiste.commands._invocation import invocation
from modiste.export import FORMATS


def run(cfg: DictConfig) -> None:
    """Write ``cfg.out``, verify it with the target library's loader, and print the cosine similarities."""
    from modiste.export.api import export_config

    exported = export_config(cfg, invocation())
    print(f"\n{exported.path}: {FORMATS[exported.format][0]}, verified on {exported.inputs}")
    for tower, values in exported.cosine.items():
        print(f"  {tower:5} cosine to the original model: min {values['min']:.6f}, mean {values['mean']:.6f}")
    print(f"Usage: {exported.path / 'README.md'}")
    print(f"Publish it: modiste push folder={shlex.quote(str(exported.path))} repo_id=OWNER/NAME")
