"""Summarise a data set or your own table: modiste data shop.csv"""

from __future__ import annotations

import shlex

from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Describe ``cfg.data``; write ``data.json`` and ``sheet.png`` to ``cfg.run_dir``.

    ``scenes`` also writes ``scenes.png``, ``write`` a YAML.
    """
    from rich.console import Console

    from modiste.reporting.data_report import report_config
    from modiste.reporting.data_tables import show, show_columns

    console, found = Console(), report_config(cfg)
    if found.columns is not None:
        show_columns(*found.columns, console)
    show(found.facts, console)
    print("Wrote " + ", ".join(map(str, found.files)))
    if found.saved is not None:
        print(f"Wrote {found.saved}\nTrain on it: modiste train {shlex.join(found.train)}")
    elif found.columns is not None:
        print("Save these settings as data=NAME: repeat the command with write=NAME")
