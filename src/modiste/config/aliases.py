"""Former class paths and keys, as found in stored configurations."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# Former module → current module. Run directories and results name classes by their path.
MOVED = {
    "modiste.callbacks": "modiste.training.callbacks",
    "modiste.loggers": "modiste.training.loggers",
    "modiste.model": "modiste.models.dual_encoder",
    "modiste.optim": "modiste.training.optim",
    "modiste.tasks.heatmaps": "modiste.models.heatmaps",
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
    """Return the current name of a ``_target_`` from a stored configuration.

    >>> current("modiste.data.kagl.Kagl"), current("modiste.losses.clip.ClipLoss")
    ('modiste.data.datasets.kagl.Kagl', 'modiste.losses.clip.ClipLoss')
    """
    module, _, name = target.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else target


# Former key → current key.
RENAMED = {
    "data.prepared": "data.preprocessed",
    "data.batches.alike": "data.batches.group_by",
    "data.batches.run": "data.batches.group_size",
    "data.batches.guard": "data.batches.false_negative_margin",
    "grad_cache.keep": "grad_cache.kept_micro_batches",
    "loss.keep": "loss.logits_cache_mib",
    "loss.products": "loss.matmul_dtype",
    "loss.inner.keep": "loss.inner.logits_cache_mib",
    "loss.inner.products": "loss.inner.matmul_dtype",
}


def rename_override(override: str) -> str:
    """Return an override of a run's ``overrides.yaml`` with its current key.

    >>> rename_override("data.prepared=ready"), rename_override("+optim.lr=0.1")
    ('data.preprocessed=ready', '+optim.lr=0.1')
    """
    key, equals, value = override.partition("=")
    name = key.lstrip("+~")
    return f"{key.removesuffix(name)}{RENAMED.get(name, name)}{equals}{value}"


def rename_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a stored configuration (plain containers) with current keys, also in its ``transfer`` sets.

    >>> rename_keys({"data": {"prepared": None, "batches": {"run": 4}}})
    {'data': {'batches': {'group_size': 4}, 'preprocessed': None}}
    >>> rename_keys({"transfer": {"other": {"data.batches.run": 4}}})
    {'transfer': {'other': {'data.batches.group_size': 4}}}
    """
    plain: Any = copy.deepcopy(dict(stored))
    for old, new in RENAMED.items():
        *folders, leaf = old.split(".")
        node: Any = plain
        for name in folders:
            node = node.get(name) if isinstance(node, dict) else None
        # A third-party class may have an argument with a former name.
        if isinstance(node, dict) and leaf in node and str(node.get("_target_", "modiste.")).startswith("modiste."):
            value = node.pop(leaf)
            node.setdefault(new.rpartition(".")[2], value)
    transfer = plain.get("transfer")
    for name, entry in transfer.items() if isinstance(transfer, dict) else ():
        if isinstance(entry, dict):
            transfer[name] = {RENAMED.get(key, key): value for key, value in entry.items()}
    return plain
