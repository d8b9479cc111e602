"""Upload an export to the Hugging Face hub: modiste push folder=DIR repo_id=OWNER/NAME"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig


def run(cfg: DictConfig) -> None:
    """Create the repository if needed, upload the folder in one commit, and print the URL.

    Raises:
        ModisteError: See `modiste.export.push.push`.
    """
    from modiste.export.push import push

    address = push(Path(cfg.folder), cfg.repo_id, private=cfg.private, message=cfg.message, revision=cfg.revision)
    print(f"Pushed: {address}")
