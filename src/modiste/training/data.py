"""The LightningDataModule of a ``data`` node."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import instantiate
from modiste.data.batches import Batches
from modiste.data.build import captions_of
from modiste.data.catalogue import Catalogue
from modiste.data.fields import Fields, PairWeights
from modiste.data.module import FashionDataModule
from modiste.data.storage.streaming import Stream
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder


def build_data(
    cfg: DictConfig, catalogue: Catalogue, model: DualEncoder, stream: Stream | None = None, **more: Any
) -> FashionDataModule:
    """Build the LightningDataModule of a configuration's ``data`` node.

    Args:
        cfg: The node.
        catalogue: Catalogue of the node.
        model: Model whose image transform and tokenizer are used.
        stream: Shards to train on; None: the catalogue's train split.
        more: Further arguments of `FashionDataModule`: ``validation_sets``, ``feature_cache``, ``cached_splits``.
    """
    captions = captions_of(cfg)
    fields: Any = OmegaConf.to_container(cfg.fields, resolve=True)
    options = {
        name: cfg[name]
        for name in ("batch_size", "eval_batch_size", "num_workers", "limit", "seed", "positives", "decode")
    }
    return FashionDataModule(
        catalogue,
        model,
        captions=captions,
        augment=[instantiate(node) for node in cfg.augment],
        batches=Batches(**cfg.batches),
        fields=Fields(fields, captions) if fields else None,
        weight=PairWeights(**cfg.weight),
        stream=stream,
        **options,
        **more,
    )


def build_stream(cfg: DictConfig) -> Stream | None:
    """Build the stream of training shards of a configuration's ``data`` node; None without shards.

    Raises:
        ModisteError: ``held_out`` or ``corruptions`` is set, too; or see `modiste.data.storage.streaming.Stream`.
    """
    # Configurations of older runs lack the node.
    if not cfg.get("stream") or not cfg.stream.shards:
        return None
    for name in ("held_out", "corruptions"):
        if cfg.get(name):
            raise ModisteError(f"data.{name} does not apply to shards (data.stream): apply it when writing the shards.")
    options: Any = OmegaConf.to_container(cfg.stream, resolve=True)
    return Stream(**options)
