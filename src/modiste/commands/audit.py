"""Find evaluation images, titles and products in the training data: modiste audit data=kagl other=hm"""

from __future__ import annotations

from omegaconf import DictConfig

from modiste.commands._invocation import invocation


def run(cfg: DictConfig) -> None:
    """Compare evaluation and training data; write ``audit.json``, ``pairs.csv`` and ``pairs.png``."""
    from rich.console import Console

    from modiste.evaluation.audit import audit_config
    from modiste.evaluation.audit_report import draw_pairs, show

    audit, folder = audit_config(cfg, invocation())
    show(audit, Console(), cfg.show)
    written = [folder / "audit.json", folder / "pairs.csv"]
    if draw_pairs(audit, folder / "pairs.png", cfg.sheet):
        written.append(folder / "pairs.png")
    print("Wrote " + ", ".join(map(str, written)))
