"""Sources of published weights: local paths and hub ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from modiste.errors import ModisteError

HUB_PREFIX = "hf-hub:"
WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def local_path(source: str) -> Path | None:
    """Return the file or directory ``source``, or None if it is a name rather than a path.

    Raises:
        ModisteError: ``source`` looks like a path (``./x``, ``/x``, ``~/x``, ``a/b/c``, ``x.pt``, or ``a/b`` where the
            folder ``a`` exists) but does not exist.

    >>> local_path("openai/clip-vit-base-patch32") is None
    True
    >>> local_path("./fashion-clip")
    Traceback (most recent call last):
    modiste.errors.ModisteError: File or directory './fashion-clip' does not exist: correct the path.
    """
    if source.startswith(HUB_PREFIX):
        return None
    path = Path(source).expanduser()
    if path.exists():
        return path
    if _looks_like_path(source):
        raise ModisteError(f"File or directory '{source}' does not exist: correct the path.")
    if "/" in source and path.parent.is_dir():
        raise ModisteError(
            f"'{path.name}' does not exist in the folder '{path.parent}': correct the path, "
            f"or write '{HUB_PREFIX}{source}' for the model hub."
        )
    return None


def _looks_like_path(source: str) -> bool:
    starts = source.startswith(("/", "./", "../", "~", "\\")) or source in (".", "..")
    return starts or "\\" in source or source.count("/") > 1 or source.endswith(("/", *WEIGHT_FILES))


@contextmanager
def explained(source: str, remedy: str) -> Iterator[None]:
    """Turn any error of a loading library into a `ModisteError` with its first sentence and ``remedy``."""
    try:
        yield
    except ModisteError:
        raise
    except Exception as error:
        reason = re.split(r"(?<=[.!?])\s", " ".join(str(error).split()) or type(error).__name__)[0]
        if isinstance(error, ImportError):
            remedy = "Install that library; the tokenizer of SigLIP needs `pip install sentencepiece protobuf`."
        elif isinstance(error, UnpicklingError):
            remedy = "A pickled checkpoint may hold only tensors in plain containers: save its state dict alone."
        raise ModisteError(f"Cannot load '{source}': {reason[:300].rstrip('.')}. {remedy}") from error


def hub_remedy(repository: str, revision: str | None = None) -> str:
    """Return the remedy for a model hub that cannot be reached.

    >>> hub_remedy("openai/clip-vit-base-patch32")  # doctest: +ELLIPSIS
    'If the hub is out of reach, run `hf download openai/clip-vit-base-patch32 --local-dir DIR` on a machine...'
    """
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"If the hub is out of reach, run `hf download {repository}{pinned} --local-dir DIR` on a machine with network "
        "and give that directory as model.source."
    )
