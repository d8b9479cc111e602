"""The one place where a model becomes an embedder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from modiste.embedding.embedder import MIN_COSINE, ModelEmbedder, default_cache
from modiste.models.dual_encoder import DualEncoder
from modiste.utils.progress import progress_bar, silent

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPTIONS = ("batch_size", "precision", "backend", "min_cosine", "device", "cache")
"""Keys of a configuration that `build_embedder` takes."""


def build_embedder(
    model: DualEncoder,
    *,
    batch_size: int = 128,
    precision: str = "fp32",
    backend: str = "torch",
    min_cosine: Mapping[str, float] = MIN_COSINE,
    device: str = "auto",
    cache: bool = True,
    decode: str = "pil",
    progress: bool = True,
) -> ModelEmbedder:
    """An embedder of a model, on its device.

    Args:
        model: The dual encoder; it is moved to the device and put into evaluation mode.
        batch_size: Images or texts per batch.
        precision: See `ModelEmbedder`, as ``backend`` and ``min_cosine``.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto``: the first accelerator found, else the CPU.
        cache: Keep embeddings between runs, keyed by weights, pixels and preprocessing.
        decode: See `modiste.data.decode.Decoder`.
        progress: Show progress bars.

    Raises:
        ModisteError: The backend or precision is unknown, not installed, or they exclude each other.
    """
    return ModelEmbedder(
        model.to(choose_device(device)),
        batch_size,
        precision,
        default_cache() if cache else None,
        progress_bar if progress else silent,
        decode,
        backend,
        min_cosine,
    )


def embedder_options(cfg: DictConfig) -> dict[str, Any]:
    """What a command's configuration says of its embedder, for `build_embedder`.

    >>> from modiste.config import compose
    >>> embedder_options(compose("merge", ["batch_size=64"]))
    {'batch_size': 64, 'precision': 'fp32', 'device': 'auto', 'cache': True, 'decode': 'pil'}
    """
    return {name: cfg[name] for name in OPTIONS if name in cfg} | {"decode": decode_of(cfg.data)}


def decode_of(data_cfg: DictConfig) -> str:
    """How a data node's images are decoded; nodes from before there was a choice do not say."""
    return data_cfg.get("decode", "pil")


def choose_device(name: str) -> str:
    """A torch device name; ``auto`` takes the first accelerator found.

    >>> choose_device("cpu")
    'cpu'
    """
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
