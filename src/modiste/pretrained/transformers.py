"""Published dual encoders of transformers (CLIP, SigLIP, SigLIP 2) from the hub or a directory."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.layers import Group, block_groups, freeze_all_but
from modiste.models.preprocess import INTERPOLATIONS, Preprocess
from modiste.pretrained.source import HUB_PREFIX, explained, hub_remedy, local_path
from modiste.texts.hf import drop_code, model_class, refuse_kernels
from modiste.utils.foreign import check_source, weights_alone
from modiste.utils.hub import without_code


class TransformersDualEncoder(DualEncoder):
    """Any transformers model with ``get_image_features`` and ``get_text_features``.

    CLIP (Radford et al. 2021, arXiv:2103.00020), SigLIP (Zhai et al. 2023, arXiv:2303.15343), the fixed-resolution
    checkpoints of SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786), and others of `AutoModel`. Preprocessing and
    tokenizer are those of the checkpoint. Weights are loaded in float32 from safetensors or a ``weights_only`` pickle;
    code that comes with a checkpoint never runs. Logit scale and bias belong to the loss and are frozen here.

    Args:
        source: Hub id, or a directory in the layout of ``save_pretrained``.
        revision: Branch, tag or commit of the hub repository; ignored for a directory.

    Raises:
        ModisteError: The source does not exist, cannot be reached, is not a dual encoder, lacks weights, or has
            preprocessing that `Preprocess` does not reproduce.

    >>> TransformersDualEncoder("./fashion-clip")
    Traceback (most recent call last):
    modiste.errors.ModisteError: File or directory './fashion-clip' does not exist: correct the path.
    """

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__()
        path = local_path(source)
        self.source = source
        self.revision = None if path else revision
        self._positions: dict[str, bool] = {}
        if path and not (path / "config.json").is_file():
            raise ModisteError(f"'{source}' has no config.json: give the directory of a transformers checkpoint.")
        name = str(path) if path else source.removeprefix(HUB_PREFIX)
        if not path and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise ModisteError(f"'{source}' is neither a directory nor a hub id (owner/name).")
        remedy = (
            "The directory must contain config.json, weights, preprocessor_config.json and tokenizer files."
            if path
            else hub_remedy(name, revision)
        )
        with explained(source, remedy):
            self.model, processor, tokenizer = _load(name, self.revision)
        self.preprocess = preprocess_of(processor)
        self.tokenizer = _tokenizer_of(self.model.config, tokenizer)
        self.initial_scale, self.initial_bias = _scale_and_bias(self.model)
        freeze_all_but(self.model, self.layer_groups("image") + self.layer_groups("text"))
        with torch.no_grad():
            self.embed_dim = self.text_features(self.tokenizer(["a"])).shape[-1]

    def layer_groups(self, tower: str) -> list[Group]:
        """Embeddings, each block, then final norm, pooling head and projection."""
        if tower == "image":
            return block_groups(self._tower("vision_model"), self._visual_projection)
        return block_groups(self._tower("text_model"), getattr(self.model, "text_projection", None))

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=pixels, **self._positions).pooler_output

    def text_features(self, tokens: Tokens) -> Tensor:
        return self.model.get_text_features(**tokens).pooler_output

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Return features (B, h, w, D) of the patches.

        CLIP: the last layer's tokens after final norm and projection. SigLIP: the pooling head is applied to each patch
        alone; this is the image's embedding if all attention of the head were on that patch.

        Raises:
            ModisteError: The image tower is neither a CLIP nor a SigLIP vision transformer.
        """
        tower = self._tower("vision_model")
        hidden = tower(pixel_values=pixels, **self._positions).last_hidden_state
        if self._visual_projection is not None and hasattr(tower, "post_layernorm"):
            patches = self._visual_projection(tower.post_layernorm(hidden[:, 1:]))
        elif self.model.config.model_type.startswith("siglip"):  # normalised already, no class token
            patches = tower.head(hidden.flatten(0, 1).unsqueeze(1)).unflatten(0, hidden.shape[:2])
        else:
            raise ModisteError(f"{type(self.model).__name__} has no patch embeddings: use CLIP or SigLIP.")
        height = pixels.shape[-2] // tower.config.patch_size
        return patches.unflatten(1, (height, -1))

    def at_size(self, size: int) -> TransformersDualEncoder:
        if "interpolate_pos_encoding" not in signature(self.model.get_image_features).parameters:
            raise NotImplementedError(f"{type(self.model).__name__} does not interpolate its position embeddings")
        patch = self._tower("vision_model").config.patch_size
        other = copy.copy(self)
        other.preprocess = replace(self.preprocess, size=max(size // patch, 1) * patch)
        other._positions = {"interpolate_pos_encoding": True}
        return other

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """See `DualEncoder.feature_hook`. Raises ModisteError for towers whose blocks have no ``layer_norm1``."""
        norm = getattr(self.layer_groups("image")[-2][0], "layer_norm1", None)
        if norm is None:
            raise ModisteError(
                f"The last block of {type(self.model).__name__} has an unknown type: use CLIP or SigLIP."
            )
        return norm.register_forward_hook(lambda module, inputs, output: keep(output))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": self.source, "revision": self.revision}

    @property
    def _visual_projection(self) -> Any:  # BLIP calls it vision_projection
        return getattr(self.model, "visual_projection", None) or getattr(self.model, "vision_projection", None)

    def _tower(self, name: str) -> Any:
        tower = getattr(self.model, name, None)
        if not isinstance(tower, nn.Module):
            raise ModisteError(f"{type(self.model).__name__} has no {name}: use CLIP or SigLIP.")
        return tower


class CheckpointTokenizer:
    """A transformers tokenizer with the padding and maximum length of its model; picklable.

    Args:
        tokenizer: A transformers tokenizer.
        max_length: Maximum number of tokens; longer captions are truncated.
        fixed: Pad to ``max_length`` and return no attention mask, as in SigLIP's training. Otherwise pad to the longest
            caption of the batch; a causal text tower that pools at the end-of-text token does not see the padding.
        lower: Lower-case the captions first, as in SigLIP's training; the Gemma tokenizer of SigLIP 2 does not.
    """

    def __init__(self, tokenizer: Any, max_length: int, fixed: bool = False, lower: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fixed = fixed
        self.lower = lower

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize captions to ``input_ids`` and, unless ``fixed``, ``attention_mask``, each int64 (B, L)."""
        tokens = self.tokenizer(
            [text.lower() for text in texts] if self.lower else list(texts),
            padding="max_length" if self.fixed else "longest",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"]} if self.fixed else dict(tokens)


def preprocess_of(processor: Any) -> Preprocess:
    """Return the `Preprocess` that reproduces the pixels of a transformers image processor (PIL backend).

    Raises:
        ModisteError: `Preprocess` does not reproduce the processor on a test image.
    """
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    crop = crop if getattr(processor, "do_center_crop", False) else size
    side, short = crop.get("height") or size.get("shortest_edge"), size.get("shortest_edge")
    interpolation = Image.Resampling(processor.resample).name.lower()
    if not isinstance(side, int) or interpolation not in INTERPOLATIONS:
        raise ModisteError(
            f"{type(processor).__name__} with size {size} is not supported: use a model with a fixed square size."
        )
    preprocess = Preprocess(
        size=side,
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
        interpolation=interpolation,
        resize="shortest" if short else "squash",
        crop_pct=_crop_pct(side, short) if short else 1.0,
        crop="floor",
    )
    _check_pixels(preprocess, processor)
    return preprocess


def _load(name: str, revision: str | None) -> tuple[Any, Any, Any]:
    # Otherwise transformers asks a bot on the hub to convert pickled checkpoints.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    name, commit = check_source(name, revision)
    with without_code(Path(name).is_dir()), weights_alone():
        return _read(name, {"revision": commit, "trust_remote_code": False})


def _read(name: str, common: dict[str, Any]) -> tuple[Any, Any, Any]:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    settings = drop_code(AutoConfig.from_pretrained(name, **common))
    refuse_kernels(settings)
    kind = model_class(settings)  # checked before it is built: other models may load further files
    if kind and not (hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features")):
        raise ModisteError(f"'{name}' is a {kind.__name__}, not a dual encoder of images and texts.")
    model, report = AutoModel.from_pretrained(
        name, config=settings, dtype=torch.float32, output_loading_info=True, **common
    )
    # transformers would continue with random weights, as for open_clip repositories with a stub config.json.
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModisteError(
            f"'{name}' lacks {len(report['missing_keys'])} weights of {type(model).__name__} ({some}, …): "
            f"if it is an open_clip checkpoint, use model=open_clip."
        )
    processor = AutoImageProcessor.from_pretrained(name, backend="pil", **common)
    return model, processor, drop_code(AutoTokenizer.from_pretrained(name, **common))


def _tokenizer_of(config: Any, tokenizer: Any) -> CheckpointTokenizer:
    # Tokenizers without a limit report a huge one; the position embeddings are the actual limit.
    length = min(tokenizer.model_max_length, config.text_config.max_position_embeddings)
    siglip = config.model_type.startswith("siglip")
    return CheckpointTokenizer(tokenizer, length, fixed=siglip, lower=siglip)


def _scale_and_bias(model: nn.Module) -> tuple[float | None, float | None]:
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return None if scale is None else math.exp(scale.item()), None if bias is None else bias.item()


def _crop_pct(side: int, short: int) -> float:
    # int(side / crop_pct) must return the short side; rounding can be off by one.
    fraction = side / short
    return fraction if int(side / fraction) == short else math.nextafter(fraction, 0)


def _check_pixels(preprocess: Preprocess, processor: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 37, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((74, 122), Image.Resampling.BILINEAR)
    wanted = torch.as_tensor(np.asarray(processor(images=[image], return_tensors="np")["pixel_values"]))
    ours = preprocess.normalise(preprocess(image).unsqueeze(0))
    if wanted.shape != ours.shape or not torch.allclose(ours, wanted.float(), atol=1e-4):
        raise ModisteError(
            f"The preprocessing of {type(processor).__name__} is not supported: it is not resize, crop, normalise."
        )
