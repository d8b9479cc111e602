"""Image encoders of timm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from modiste.errors import ModisteError, did_you_mean
from modiste.images.depthwise import fast_depthwise
from modiste.models.layers import shared_copy
from modiste.models.preprocess import Preprocess
from modiste.utils import foreign
from modiste.utils.foreign import check_folder, check_hub, weights_alone
from modiste.utils.hub import without_hub
from modiste.utils.ranges import Fraction, Positive, PositiveFraction, Side


class TimmEncoder(nn.Module):
    """Any ``timm`` model without its classifier.

    Args:
        name: Name of the model in timm, or ``hf-hub:`` / ``local-dir:`` and a location.
        pretrained: Load timm's pretrained weights (from the model hub).
        size: Side of the input in pixels.
        resize: See `Preprocess.resize`; null: as the weights were trained.
        interpolation: See `Preprocess.interpolation`; null: as the weights were trained.
        crop_pct: See `Preprocess.crop_pct`; null: as the weights were trained.
        mean: Per-channel mean of the pixels; null: as the weights were trained.
        std: Per-channel standard deviation of the pixels; null: as the weights were trained.
        autocast: False excludes this tower from mixed precision.
        patch_drop_rate: Fraction of a transformer's patches that training drops, sampled per image (FLIP: Li et al.
            2022, arXiv:2212.00794); evaluation uses all. A last epoch with 0 closes the gap between the two.
        options: Further arguments of the architecture, such as ``drop_path_rate``, but not of ``timm.create_model``,
            such as ``checkpoint_path``.
        output_stride: Input pixels per position of the last feature map: 8, 16 or 32. A smaller stride than the
            network's dilates its last stages, which keeps the weights and gives finer maps; for convolutional networks.
            null: the network's stride.
        patch_stages: Stages whose feature maps `stages` concatenates, counted from 0, or from the end with -1 (timm's
            ``feature_info``; blocks of a transformer). Patches are then embedded by a projection of these, which
            term=regions trains; null: by the projection of the image.

    Attributes:
        dim: Number of output features.
        patch_dim: Number of features of `stages`; None without ``patch_stages``.
        preprocess: Image transform of its input.
        architecture: timm's name of the model.
        arguments: Arguments with which ``timm.create_model`` builds it again.

    Raises:
        ModisteError: timm has no such model or stage, its weights cannot be loaded, an option is not one of the
            architecture, ``patch_drop_rate`` is outside [0, 1) or given to a model without patch dropout, or timm
            cannot dilate the network.

    >>> TimmEncoder("test_vit", size=160)(torch.zeros(2, 3, 160, 160)).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = False,
        size: Side = 224,
        resize: Literal["shortest", "squash", "pad"] | None = None,
        interpolation: str | None = None,
        crop_pct: PositiveFraction | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[Positive] | None = None,
        autocast: bool = True,
        patch_drop_rate: Fraction = 0.0,
        options: Mapping[str, Any] | None = None,
        output_stride: int | None = None,
        patch_stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        drop = {"patch_drop_rate": patch_drop_rate} if patch_drop_rate else {}
        own = {**(options or {}), **({"output_stride": output_stride} if output_stride else {})}
        trunk, sized = create_trunk(name, pretrained, size, {**own, **drop})
        self.architecture: str = trunk.pretrained_cfg.get("architecture") or name
        self.arguments: dict[str, Any] = {**own, **({"img_size": size} if sized else {})}
        if patch_drop_rate and not hasattr(getattr(trunk, "patch_drop", None), "prob"):  # swallowed by a **kwargs
            raise without_patches(name)
        self.autocast = autocast
        # Convolutions on a CPU are 1.5 times as fast in this layout.
        self.trunk: Any = trunk.to(memory_format=torch.channels_last)
        fast_depthwise(self.trunk)
        self.patch_stages = list(patch_stages or ())
        self.patch_dim = stage_channels(trunk, self.patch_stages, name) if self.patch_stages else None
        self.dim: int = trunk.num_features if not hasattr(trunk, "head_hidden_size") else trunk.head_hidden_size
        made_for = trunk.pretrained_cfg
        crop_mode = {"center": "shortest", "squash": "squash", "border": "pad"}
        resized = resize or crop_mode.get(made_for.get("crop_mode", "center"), "shortest")
        if crop_pct is None:
            crop_pct = made_for.get("crop_pct", 1.0) if resized == "shortest" else 1.0
        self.preprocess = Preprocess(
            size=size,
            mean=tuple(mean or made_for.get("mean", (0.5,) * 3)),
            std=tuple(std or made_for.get("std", (0.5,) * 3)),
            interpolation=interpolation or made_for.get("interpolation", "bicubic"),
            resize=resized,
            crop_pct=crop_pct,
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) to features (B, dim)."""
        with self._autocast(pixels):
            return self.trunk(pixels.contiguous(memory_format=torch.channels_last))

    def patches(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) to patch features (B, h, w, dim): the head at every position."""
        features = self.trunk.forward_features(pixels)
        if features.ndim == 3:
            tokens = features[:, self.trunk.num_prefix_tokens :]
            side = math.isqrt(tokens.shape[1])  # the input is square; NaFlex stores no grid
            pool = getattr(self.trunk, "attn_pool", None)
            if pool is not None:  # SigLIP: pools each patch alone
                tokens = pool(tokens.flatten(0, 1)[:, None]).reshape(tokens.shape)
            return self.trunk.fc_norm(tokens).unflatten(1, (side, side))
        last = getattr(self.trunk, "output_fmt", "NCHW") == "NHWC"
        grid = features if last else features.movedim(1, -1)
        positions = grid.flatten(0, 2)
        positions = positions[:, None, None, :] if last else positions[:, :, None, None]
        return self.trunk.forward_head(positions, pre_logits=True).view(*grid.shape[:3], self.dim)

    def stages(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) to the feature maps of ``patch_stages``, (B, h, w, patch_dim).

        Coarser maps are upsampled bilinearly to the finest one.
        """
        with self._autocast(pixels):
            maps = self.trunk.forward_intermediates(
                pixels.contiguous(memory_format=torch.channels_last),
                indices=self.patch_stages,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        finest = max(tuple(found.shape[-2:]) for found in maps)
        enlarged = [F.interpolate(found.float(), finest, mode="bilinear") for found in maps]
        return torch.cat(enlarged, dim=1).movedim(1, -1)

    def _autocast(self, pixels: Tensor) -> torch.autocast:
        device = pixels.device.type
        return torch.autocast(device, enabled=self.autocast and torch.is_autocast_enabled(device))

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """See `modiste.models.dual_encoder.DualEncoder.feature_hook`."""
        return hook_trunk(self.trunk, keep)

    def at_size(self, size: int) -> TimmEncoder:
        """See `modiste.models.dual_encoder.DualEncoder.at_size`."""
        other = shared_copy(self)
        other.preprocess = replace(self.preprocess, size=resize_trunk(other.trunk, size))
        return other

    def extra_repr(self) -> str:
        return f"autocast={self.autocast}"

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Check name, size and options before anything is built or downloaded.

        Raises:
            ModisteError: timm has no such model, the size does not fit it, or an option is invalid.
        """
        import timm

        name, size = str(node.get("name", "tf_efficientnet_lite0")), node.get("size", 224)
        check_options(node.get("options") or {})
        rate = node.get("patch_drop_rate", 0.0)
        if node.get("output_stride") not in (None, 8, 16, 32):
            raise ModisteError(f"output_stride={node['output_stride']} must be 8, 16 or 32, or null.")
        if not 0 <= rate < 1:
            raise ModisteError(f"patch_drop_rate={rate:g} must lie in [0, 1).")
        if ":" in name:
            return
        check_name(name)
        patch = re.search(r"_patch(\d+)", name)
        if patch and size % int(patch[1]):
            raise ModisteError(
                f"size={size} does not fit {name}: use a multiple of its patch size of {patch[1]} pixels."
            )
        made_for = timm.get_pretrained_cfg(name)
        if made_for and made_for.fixed_input_size and "vit" not in name and size != made_for.input_size[-1]:
            raise ModisteError(f"size={size} does not fit {name}: use {made_for.input_size[-1]} pixels.")

    def layer_groups(self) -> list[list[nn.Module | nn.Parameter]]:
        """timm's layer groups, input first."""
        from timm.models import group_parameters

        names = group_parameters(self.trunk, self.trunk.group_matcher(coarse=False))
        parameters = dict(self.trunk.named_parameters())
        return [[parameters[name] for name in names[layer]] for layer in sorted(names)]


def resize_trunk(trunk: Any, size: int) -> int:
    """Set the input size of a timm model, rounded down to a multiple of its patch size; return the size.

    A convolutional network accepts every size.
    """
    if not hasattr(trunk, "set_input_size"):
        return size
    patch = trunk.patch_embed.patch_size[0]
    size = max(size // patch, 1) * patch
    trunk.set_input_size(img_size=(size, size))
    return size


def stage_channels(trunk: Any, stages: Sequence[int], name: str) -> int:
    """Total channels of a timm model's stages; raise ModisteError for an unknown stage."""
    info = list(trunk.feature_info)
    if not hasattr(trunk, "forward_intermediates") or not info:
        raise ModisteError(f"image.patch_stages: timm's '{name}' does not give its stages: remove patch_stages.")
    wrong = [stage for stage in stages if not -len(info) <= stage < len(info)]
    if wrong or len({stage % len(info) for stage in stages}) < len(stages):
        raise ModisteError(
            f"image.patch_stages={list(stages)} must be distinct stages of {name}, 0 to {len(info) - 1} or negative "
            "from the end."
        )
    return sum(info[stage]["num_chs"] for stage in stages)


def hook_trunk(trunk: Any, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """`DualEncoder.feature_hook` of a timm model: after its last block's first norm, or before pooling."""
    blocks = getattr(trunk, "blocks", None)
    norm = getattr(blocks[-1], "norm1", None) if blocks else None
    if norm is not None:
        return norm.register_forward_hook(lambda module, inputs, output: keep(output))
    pool = getattr(trunk, "global_pool", None)
    channels_last = getattr(trunk, "output_fmt", "NCHW") == "NHWC"

    def before_pooling(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = inputs
        kept = keep(features.movedim(-1, 1)).movedim(1, -1) if channels_last else keep(features)
        return kept, *others

    return (pool if isinstance(pool, nn.Module) else trunk.head).register_forward_pre_hook(before_pooling)


def without_patches(name: str) -> ModisteError:
    """Error for a ``patch_drop_rate`` of a model without patch dropout."""
    return ModisteError(
        f"patch_drop_rate needs a vision transformer with patch dropout, unlike timm's '{name}': set it to 0, or "
        "use a ViT, for example image.name=vit_small_patch16_224."
    )


def check_name(name: str) -> None:
    """Raise ModisteError if timm has no model of this name."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise ModisteError(f"timm has no model '{name}'. {did_you_mean(name, timm.list_models())}")


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ModisteError for an option of ``timm.create_model`` that is not one of the architecture."""
    refusal = (
        "image.options.{name} is not an option of an architecture: remove it; weights are chosen by image.name and "
        "image.pretrained."
    )
    foreign.check_options(options, refusal)


def check_place(name: str) -> str:
    """Check the files of ``hf-hub:…`` or ``local-dir:…``; return the name pinned to the checked commit.

    Raises:
        ModisteError: See `check_folder`.
    """
    kind, _, place = name.partition(":")
    if kind.lower() == "local-dir":
        check_folder(Path(place))
        return name
    repository, _, revision = place.partition("@")
    return f"{kind}:{repository}@{check_hub(repository, revision or None)}"


def create_trunk(name: str, pretrained: bool, size: int, options: dict[str, Any]) -> tuple[Any, bool]:
    """Build a timm model without classifier; also return whether it takes an input size."""
    check_options(options)
    local = name.lower().startswith("local-dir:") or (":" not in name and not pretrained)
    try:
        if ":" in name:
            name = check_place(name)
        else:
            check_name(name)
    except (OSError, ValueError) as error:
        raise _failure(name, pretrained, error) from error
    with weights_alone(), without_hub(local):
        return _created(name, pretrained, size, options)


def _created(name: str, pretrained: bool, size: int, options: dict[str, Any]) -> tuple[Any, bool]:
    import timm

    try:
        try:  # only models with position embeddings take the size
            return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=size, **options), True
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, pretrained=pretrained, num_classes=0, **options), False
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        if "patch_drop_rate" in str(error):
            raise without_patches(name) from error
        if "output_stride" in str(error):
            raise ModisteError(
                f"timm cannot build '{name}' with image.output_stride={options['output_stride']}: use null, or a "
                "convolutional network such as image=lite."
            ) from error
        raise _failure(name, pretrained, error) from error


def _failure(name: str, pretrained: bool, error: Exception) -> ModisteError:
    return ModisteError(
        f"timm could not create '{name}' (pretrained={pretrained}): {error}. "
        "Without a network use image.pretrained=false, or image=lite, whose weights come from a package."
    )
