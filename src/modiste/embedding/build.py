"""Construction of embedders from models and configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from modiste.embedding.embedder import MIN_COSINE, ModelEmbedder, default_cache
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.utils.progress import progress_bar, silent

if TYPE_CHECKING:
    from omegaconf import DictConfig

OPTIONS = ("batch_size", "precision", "backend", "min_cosine", "device", "cache")
"""Configuration keys that are passed to `build_embedder`."""


class EmbedderOptions(TypedDict, total=False):
    """Keyword arguments of `build_embedder`."""

    batch_size: int
    precision: str
    backend: str
    min_cosine: Mapping[str, float]
    device: str | None
    cache: bool
    decode: str
    progress: bool


def build_embedder(
    model: DualEncoder,
    *,
    batch_size: int = 128,
    precision: str = "fp32",
    backend: str = "torch",
    min_cosine: Mapping[str, float] = MIN_COSINE,
    device: str | None = "auto",
    cache: bool = True,
    decode: str = "pil",
    progress: bool = True,
) -> ModelEmbedder:
    """Create an embedder, the only way to one of a model, and move the model to the device.

    Args:
        model: The dual encoder; it is moved to the device and put into evaluation mode.
        batch_size: Images or texts per batch.
        precision: See `ModelEmbedder`, also for ``backend`` and ``min_cosine``.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto``: the first accelerator found, else the CPU; None:
            the model's own.
        cache: Keep embeddings between runs, keyed by weights, pixels and preprocessing.
        decode: See `modiste.data.decode.Decoder`.
        progress: Show progress bars.

    Raises:
        ModisteError: The backend, precision or device is unknown, not installed, or they exclude each other, or
            ``batch_size`` is no positive whole number.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ModisteError(f"batch_size={batch_size!r}: give a whole number of at least 1.")
    return ModelEmbedder(
        model if device is None else model.to(choose_device(device)),
        batch_size,
        precision,
        default_cache() if cache else None,
        progress_bar if progress else silent,
        decode,
        backend,
        min_cosine,
    )


def check_options(options: Mapping[str, object]) -> None:
    """Raise ModisteError if a name is not a keyword argument of `build_embedder`."""
    for name in options.keys() - EmbedderOptions.__annotations__.keys():
        raise ModisteError(f"There is no option {name}. {did_you_mean(name, EmbedderOptions.__annotations__)}")


def embedder_options(cfg: DictConfig) -> dict[str, Any]:
    """Extract the arguments of `build_embedder` from a command's configuration.

    >>> from modiste.config import compose
    >>> options = embedder_options(compose("merge", ["batch_size=64"]))
    >>> options["batch_size"], options["backend"], options["decode"]
    (64, 'torch', 'pil')
    """
    return {name: cfg[name] for name in OPTIONS if name in cfg} | {"decode": decode_of(cfg.data)}


def decode_of(data_cfg: DictConfig) -> str:
    """Return the decoder of a data node; ``pil`` for old nodes, which lack the key."""
    return data_cfg.get("decode", "pil")


def choose_device(name: str) -> str:
    """Resolve a torch device name; ``auto`` is the first accelerator found, else the CPU.

    Raises:
        ModisteError: The device is unknown, or this machine does not have it.

    >>> choose_device("cpu")
    'cpu'
    """
    if name != "auto":
        return _checked_device(name)
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _checked_device(name: str) -> str:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModisteError(f"device={name} cannot be used: {reason}: set device=auto or device=cpu.") from error
    return name
