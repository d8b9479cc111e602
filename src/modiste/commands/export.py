"""Write a model in another library's layout: modiste export run=RUN format=sentence_transformers out=DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import validate
from modiste.errors import ModisteError, did_you_mean
from modiste.export import FORMATS
from modiste.utils.run_dir import RunDir


def run(cfg: DictConfig) -> None:
    """Writes ``cfg.out``, checked by the peer's own loader, and prints the cosines.

    Raises:
        ModisteError: There is no format, no folder or no model; see `modiste.export.writing.export`.
    """
    if not cfg.format:
        raise ModisteError(f"modiste export needs a layout: format=FORMAT. {did_you_mean('', FORMATS)}")
    if not cfg.out:
        raise ModisteError("modiste export needs a directory: out=DIR.")
    run_dir = RunDir.find(cfg.run) if cfg.run else None
    from modiste.export.writing import check_target, export, layout_of

    layout_of(cfg.format, cfg.precision)  # before anything is loaded
    check_target(Path(cfg.out).expanduser())
    source, inputs = model_of(cfg, run_dir)
    card: Any = OmegaConf.to_container(cfg.card, resolve=True)
    exported = export(
        source, cfg.format, cfg.out, precision=cfg.precision, checkpoint=cfg.checkpoint, inputs=inputs,
        min_cosine=cfg.min_cosine, repo_id=cfg.repo_id or "", card={k: v for k, v in card.items() if v},
    )  # fmt: skip
    print(f"\n{exported.path}: {FORMATS[cfg.format][0]}, checked on {exported.inputs}")
    for tower, values in exported.cosine.items():
        print(f"  {tower:5} cosine to the model's own: {values['min']:.6f} at least, {values['mean']:.6f} on average")
    print(f"How to load it: {exported.path / 'README.md'}. Publish it: modiste push folder={exported.path} repo_id=…")


def model_of(cfg: DictConfig, run_dir: RunDir | None) -> tuple[Any, Any]:
    """What to export, and what to check it on where the command names data of its own."""
    from modiste.commands._line import command_overrides
    from modiste.commands.evaluate import build_model, take_over

    given = command_overrides()
    if run_dir is not None:
        take_over(cfg, OmegaConf.load(run_dir.config), given)
    named = any(override.partition("=")[0].lstrip("+") in ("data", "data/split") for override in given)
    inputs = None
    if named:
        from modiste.data.build import load
        from modiste.export.inputs import of_catalogue

        inputs = of_catalogue(load(cfg.data), cfg.data)
    if run_dir is not None:
        return run_dir.path, inputs
    validate(cfg)
    return build_model(cfg, None)[0], inputs
