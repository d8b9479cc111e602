"""Summarise a data set or your own table: modiste data shop.csv"""

from __future__ import annotations

import shlex
from pathlib import Path

from omegaconf import DictConfig

from modiste.errors import ModisteError


def run(cfg: DictConfig) -> None:
    """Describe ``cfg.data``; write ``data.json`` and ``sheet.png`` to ``cfg.run_dir``.

    ``scenes`` also writes ``scenes.png``, ``write`` a YAML.

    Raises:
        ModisteError: The data set is missing, ``write`` is not a valid name, or its file exists.
    """
    from rich.console import Console

    from modiste.data import proposal
    from modiste.data.build import load
    from modiste.data.facts import describe
    from modiste.reporting.data_sheet import draw_sheet
    from modiste.reporting.data_tables import show, show_columns
    from modiste.utils.run_dir import write_json

    console, folder = Console(), Path(cfg.run_dir)
    own = proposal.is_table(cfg.data)
    if cfg.write and not own:
        raise ModisteError("write= saves the detected settings of a table: modiste data shop.csv write=shop.")
    catalogue = load(cfg.data)
    if own:
        show_columns(*proposal.columns(cfg.data, catalogue), console)
    facts = describe(catalogue)
    show(facts, console)
    sheet = folder / "sheet.png"
    draw_sheet(catalogue, sheet, cfg.seed)
    write_json(folder / "data.json", {**facts, "seed": cfg.seed, "sheet": sheet.name})
    print(f"Wrote {folder / 'data.json'} and {sheet}")
    if cfg.scenes:
        from modiste.data.scenes import Composer
        from modiste.reporting.scene_sheet import draw_scenes

        draw_scenes(Composer(cfg.scenes).bind(catalogue, cfg.seed), folder / "scenes.png")
        print(f"Wrote {folder / 'scenes.png'}")
    if cfg.write:
        from modiste.data.samplers import fitting_batch_size

        file = proposal.write(cfg.write, cfg.data, catalogue, Path(cfg.write_to))
        words = ["--config-dir", str(file.parents[1]), f"data={file.stem}"]
        pairs = catalogue.splits.get("train", 0)
        if pairs < cfg.data.batch_size:
            words.append(f"data.batch_size={fitting_batch_size(pairs)}")
        options = shlex.join(words)
        print(f"Wrote {file}\nTrain on it: modiste train {options}")
    elif own:
        print("Save these settings as data=NAME: repeat the command with write=NAME")
