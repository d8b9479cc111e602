"""Shared parts of the formats: adapters, tokenizer files, preprocessing in other libraries' terms."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import DualEncoder, Tokenizer, TwoTower
from modiste.models.finetune import without_adapter
from modiste.models.preprocess import INTERPOLATIONS, Preprocess
from modiste.texts.hf import HfTextEncoder, HfTokenizer, drop_code
from modiste.texts.words import HashTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def without_adapters(model: DualEncoder) -> DualEncoder:
    """Copy the model with LoRA adapters merged into their weights.

    The copy is on the CPU, in float32 and evaluation mode.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    # Outermost first: an attention layer unloads its own output layer.
    while adapted := next((name for name, m in plain.named_modules() if isinstance(m, BaseTunerLayer)), None):
        parent, _, child = adapted.rpartition(".")
        setattr(plain.get_submodule(parent), child, without_adapter(plain.get_submodule(adapted)))
    return plain


def two_tower(model: DualEncoder, format: str) -> TwoTower:
    """Return ``model`` if its towers are of timm and transformers, else raise ModisteError."""
    if not (
        isinstance(model, TwoTower) and isinstance(model.image, TimmEncoder) and isinstance(model.text, HfTextEncoder)
    ):
        raise ModisteError(
            f"format={format} does not support {type(model).__name__}, only image encoders of timm with text encoders "
            "of transformers, and published models of that library: use format=onnx or openvino."
        )
    drop_code(model.text.trunk.config)
    return model


def save_tokenizer(model: DualEncoder, folder: Path, format: str) -> None:
    """Save the tokenizer's files. Raises ModisteError if it has none."""
    tokenizer: Any = model.tokenizer
    if isinstance(tokenizer, HashTokenizer):
        raise ModisteError(
            f"format={format} needs tokenizer files, and this model hashes words: use format=hub, onnx or openvino, or "
            "train with text=minilm or another text encoder of transformers."
        )
    saved: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(saved, "save_pretrained"):
        raise ModisteError(f"format={format} cannot save a {type(tokenizer).__name__}: use format=onnx or openvino.")
    drop_code(saved).save_pretrained(folder)


def tokenizer_facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return plain values from which `modiste.pretrained.exported` rebuilds the tokenizer."""
    if isinstance(tokenizer, HashTokenizer):
        return {"kind": "words", "buckets": tokenizer.buckets, "max_length": tokenizer.max_length}
    facts = {"kind": type(tokenizer).__name__, "max_length": getattr(tokenizer, "max_length", None)}
    return facts | {name: getattr(tokenizer, name) for name in ("fixed", "lower") if hasattr(tokenizer, name)}


def max_length(model: DualEncoder) -> int:
    """Maximum length of a text in tokens."""
    tokenizer: Any = model.tokenizer
    assert isinstance(tokenizer, HfTokenizer)
    return tokenizer.max_length


def logit_scale(model: DualEncoder) -> Tensor:
    """Log of the inverse temperature, a scalar tensor; CLIP's initial value if the model has none."""
    return torch.tensor(math.log(model.initial_scale or 1 / 0.07))


def cast(state: dict[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Cast the floating-point tensors of a state dict, and make all contiguous, as safetensors requires."""
    dtype = DTYPES[precision]
    return {name: (t.to(dtype) if t.is_floating_point() else t).contiguous().clone() for name, t in state.items()}


def resample(preprocess: Preprocess) -> int:
    """PIL's integer code of the interpolation, as used by transformers."""
    return int(INTERPOLATIONS[preprocess.interpolation])


def common_steps(preprocess: Preprocess) -> dict[str, Any]:
    """Keys of a transformers image processor that do not depend on resizing and cropping."""
    return {
        "do_convert_rgb": True, "do_resize": True, "resample": resample(preprocess), "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }  # fmt: skip


def timm_data(preprocess: Preprocess) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` for the transform.

    ``pad`` is approximate, since timm pads with the mean colour.
    """
    mode = {"shortest": "center", "squash": "squash", "pad": "border"}[preprocess.resize]
    return {
        "input_size": [3, preprocess.size, preprocess.size],
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_pct": preprocess.crop_pct,
        "crop_mode": mode,
    }


def padding_processor(preprocess: Preprocess) -> dict[str, Any] | None:
    """Return a transformers image processor that pads with white.

    None unless ``resize=pad``.

    ``DeepseekVLImageProcessor`` fills with int(255 · image_mean), and returns (x · factor - image_mean) / image_std.
    With image_mean = 1 it fills with white; factor = 1 / (255 m) and image_std = s / m then give (x / 255 - m) / s. If
    the means m of the channels differ, the largest is used, and the other channels are filled with less than white.

    >>> padding_processor(Preprocess(size=96, resize="pad"))["rescale_factor"] == 1 / 127.5
    True
    """
    mean = max(preprocess.mean)
    if preprocess.resize != "pad" or tuple(preprocess.fill) != (255, 255, 255) or min(preprocess.mean) <= 0:
        return None
    return {
        "image_processor_type": "DeepseekVLImageProcessor",
        "do_resize": True,
        "size": {"height": preprocess.size, "width": preprocess.size},
        "min_size": 1,
        "resample": resample(preprocess),
        "do_pad": True,
        "do_rescale": True,
        "rescale_factor": 1 / (255 * mean),
        "do_normalize": True,
        "image_mean": [value / mean for value in preprocess.mean],
        "image_std": [std / mean for std in preprocess.std],
    }
