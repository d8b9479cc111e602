"""Where classes live now that stored configurations name by a former path."""

from __future__ import annotations

# Former module → module. Run directories and results name classes by path.
MOVED = {
    "modiste.callbacks": "modiste.training.callbacks",
    "modiste.loggers": "modiste.training.loggers",
    "modiste.model": "modiste.models.dual_encoder",
    "modiste.optim": "modiste.training.optim",
    "modiste.data.shards": "modiste.data.storage.webdataset",
    **{
        f"modiste.data.{name}": f"modiste.data.datasets.{name}"
        for name in (
            "ccp", "ccp_garments", "coco", "fashion200k", "fashion_iq", "fashion_mnist", "fashiongen", "hm", "hub",
            "inshop", "kagl", "lookbench", "marqo_sets", "multimodal", "polyvore", "table",
        )
    },
}  # fmt: skip


def current(target: str) -> str:
    """The present name of what a stored configuration calls ``target``.

    >>> current("modiste.data.kagl.Kagl"), current("modiste.losses.clip.ClipLoss")
    ('modiste.data.datasets.kagl.Kagl', 'modiste.losses.clip.ClipLoss')
    """
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target
