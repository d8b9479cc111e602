"""Parts that formats share: towers without adapters, tokenizer files, preprocessing in other libraries' terms."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import DualEncoder, Tokenizer, TwoTower
from modiste.models.preprocess import INTERPOLATIONS, Preprocess
from modiste.texts.hf import HfTextEncoder, HfTokenizer, drop_code
from modiste.texts.words import HashTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def without_adapters(model: DualEncoder) -> DualEncoder:
    """A copy in evaluation mode on the CPU, low-rank adapters merged into the weights that they adapt."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    # Outermost first: an attention layer unloads its own output layer.
    while adapted := next((name for name, m in plain.named_modules() if isinstance(m, BaseTunerLayer)), None):
        parent, _, child = adapted.rpartition(".")
        setattr(plain.get_submodule(parent), child, _merged(plain.get_submodule(adapted)))
    return plain


def _merged(layer: Any) -> nn.Module:
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    layer.merge()
    return layer.get_base_layer()


def two_tower(model: DualEncoder, format: str) -> TwoTower:
    """``model``, whose towers are timm's and transformers'. Raises ModisteError for any other."""
    if not (
        isinstance(model, TwoTower) and isinstance(model.image, TimmEncoder) and isinstance(model.text, HfTextEncoder)
    ):
        raise ModisteError(
            f"format={format} cannot hold a {type(model).__name__}: it is for image encoders of timm and text encoders "
            "of transformers, and for published models of that library; format=onnx and openvino hold any model."
        )
    drop_code(model.text.trunk.config)
    return model


def save_tokenizer(model: DualEncoder, folder: Path, format: str) -> None:
    """The tokenizer's files. Raises ModisteError for one that has none."""
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
    """Plain values from which `modiste.pretrained.exported` makes the tokenizer again."""
    if isinstance(tokenizer, HashTokenizer):
        return {"kind": "words", "buckets": tokenizer.buckets, "max_length": tokenizer.max_length}
    facts = {"kind": type(tokenizer).__name__, "max_length": getattr(tokenizer, "max_length", None)}
    return facts | {name: getattr(tokenizer, name) for name in ("fixed", "lower") if hasattr(tokenizer, name)}


def max_length(model: DualEncoder) -> int:
    """Longest text in tokens."""
    tokenizer: Any = model.tokenizer
    assert isinstance(tokenizer, HfTokenizer)
    return tokenizer.max_length


def logit_scale(model: DualEncoder) -> Tensor:
    """log of the inverse temperature, (); CLIP's initial value if the model has none."""
    return torch.tensor(math.log(model.initial_scale or 1 / 0.07))


def cast(state: dict[str, Tensor], precision: str) -> dict[str, Tensor]:
    """A state dict with its floating tensors in the precision, contiguous, ready for safetensors."""
    dtype = DTYPES[precision]
    return {name: (t.to(dtype) if t.is_floating_point() else t).contiguous().clone() for name, t in state.items()}


def resample(preprocess: Preprocess) -> int:
    """PIL's number of the interpolation, as transformers writes it."""
    return int(INTERPOLATIONS[preprocess.interpolation])


def common_steps(preprocess: Preprocess) -> dict[str, Any]:
    """The keys of an image processor of transformers that do not depend on how images are resized and cropped."""
    return {
        "do_convert_rgb": True, "do_resize": True, "resample": resample(preprocess), "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }  # fmt: skip


def timm_data(preprocess: Preprocess) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` for the transform; timm pads with the mean, so that ``pad`` is not the same."""
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
    """The image processor of transformers that pads with white, for ``resize=pad``; None where it is of no use.

    ``DeepseekVLImageProcessor`` fills with int(255 · image_mean), then gives (x · factor - image_mean) / image_std.
    With image_mean 1 it fills with white, and factor 1 / (255 m), image_std s / m make it (x / 255 - m) / s. Where the
    channels have several m the largest is taken, and the others are filled with less than white.

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
