"""A folder for huggingface_hub's PyTorchModelHubMixin, read by modiste.

It holds ``config.json`` and ``model.safetensors``.

It represents every two-tower model exactly, including those with a hashing tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from modiste.errors import ModisteError
from modiste.export.onnx import reader_of, save_files
from modiste.export.towers import cast, two_tower
from modiste.export.transformers import text_config, write_json
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.pretrained.exported import HubModel
from modiste.pretrained.openclip import OpenClipDualEncoder
from modiste.pretrained.transformers import TransformersDualEncoder
from modiste.texts.words import HashTokenizer

if TYPE_CHECKING:
    from modiste.models.dual_encoder import TwoTower

PRECISIONS = ("fp32", "bf16")
PATCHES = True  # the patch projection is included
REMEDY = "Use precision=fp32."


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write configuration, weights, and the tokenizer's files if there are any."""
    for kind, format in ((TransformersDualEncoder, "transformers"), (OpenClipDualEncoder, "open_clip")):
        if isinstance(model, kind):
            raise ModisteError(f"The model is one of {format}: use format={format}, which the hub supports, too.")
    model = two_tower(model, "hub")
    save_files(model, folder, "hub")
    write_json(folder / "config.json", node_of(model))
    save_file(cast(model.state_dict(), job.precision), folder / "model.safetensors", metadata={"format": "pt"})


def node_of(model: TwoTower) -> dict[str, Any]:
    """Return the plain arguments of `HubModel`, which rebuild the architecture without downloads."""
    tokenizer: Any = model.tokenizer
    words = isinstance(tokenizer, HashTokenizer)
    stages = {"patch_stages": model.image.patch_stages} if model.image.patch_stages else {}
    return {
        "image": {"architecture": model.image.architecture, "arguments": model.image.arguments, **stages},
        "preprocess": model.preprocess.describe(),
        "text": text_config(model),
        "pooling": model.text.pooling,
        "embed_dim": model.embed_dim,
        "max_length": tokenizer.max_length,
        "buckets": tokenizer.buckets if words else None,
        "initial_scale": model.initial_scale,
        "initial_bias": model.initial_bias,
    }


def read(folder: Path) -> Reader:
    """Load with ``HubModel.from_pretrained(folder)``."""
    return reader_of(HubModel.from_pretrained(str(folder)).model)
