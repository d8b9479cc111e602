"""`modiste table runs/a runs/b`: the comparison table of what was run, beside what was published."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from modiste.tables import format_table, load_results, read_published


def run(cfg: DictConfig) -> None:
    """Build the table of ``cfg.paths`` in ``cfg.format`` and print it, or write it to ``cfg.output``."""
    text = format_table(load_results(cfg.paths), read_published(cfg.published), cfg.format)
    if cfg.output is None:
        print(text, end="")
        return
    output = Path(cfg.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"Wrote {output}")
