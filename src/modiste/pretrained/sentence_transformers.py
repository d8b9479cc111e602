"""Multimodal models of sentence-transformers ≥ 6, which embed both images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.layers import Group, block_groups, freeze_all_but, with_weights
from modiste.models.preprocess import INTERPOLATIONS, Preprocess
from modiste.pretrained.source import HUB_PREFIX, explained, hub_remedy, local_path
from modiste.pretrained.transformers import preprocess_of
from modiste.utils.foreign import check_source, weights_alone
from modiste.utils.hub import without_code

ABSENT = "sentence-transformers ≥ 6 is not installed: pip install -U 'modiste[sentence-transformers]'."
FEATURES = "sentence_embedding"


class SentenceTransformersDualEncoder(DualEncoder):
    """Any multimodal `SentenceTransformer`, with its preprocessing and tokenizer.

    Args:
        source: Hub id, or a directory written by ``save_pretrained`` or by
            `modiste export format=sentence_transformers out=DIR`. Code that comes with a model never runs.
        revision: Branch, tag or commit of the hub repository; ignored for a directory.

    Raises:
        ModisteError: The source does not exist, cannot be reached, does not embed both images and texts, or has
            preprocessing that `Preprocess` does not reproduce; or sentence-transformers ≥ 6 is not installed.

    >>> SentenceTransformersDualEncoder("./clip-model")
    Traceback (most recent call last):
    modiste.errors.ModisteError: File or directory './clip-model' does not exist: correct the path.
    """

    def __init__(self, source: str, revision: str | None = None) -> None:
        super().__init__()
        self.source, self.revision = source, revision
        path = local_path(source)
        name = str(path) if path else source.removeprefix(HUB_PREFIX)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise ModisteError(ABSENT) from None
        if int(version("sentence-transformers").partition(".")[0]) < 6:  # would run the code of a local directory
            raise ModisteError(ABSENT)
        remedy = "The directory must contain modules.json." if path else hub_remedy(name, revision)
        with explained(source, remedy), weights_alone():
            name, commit = check_source(name, revision)
            with without_code(Path(name).is_dir()):
                self.model: Any = SentenceTransformer(
                    name, device="cpu", revision=commit, trust_remote_code=False,
                    model_kwargs={"dtype": torch.float32},
                )  # fmt: skip
        self.model = self.model.float()
        modalities = getattr(self.model[0], "modalities", [])
        if not {"text", "image"} <= set(modalities):
            raise ModisteError(
                f"'{source}' embeds {', '.join(map(str, modalities))}: use a model that embeds images and texts."
            )
        self.preprocess = image_preprocess(self._route("image")[0])
        self.tokenizer = SentenceTokenizer(self._route("text")[0])
        freeze_all_but(self.model, self.layer_groups("image") + self.layer_groups("text"))
        self.eval()
        with torch.no_grad():
            self.embed_dim = self.text_features(self.tokenizer(["a"])).shape[-1]

    def layer_groups(self, tower: str) -> list[Group]:
        """Embeddings, each block, then final norm and projection."""
        first, *rest = self._route(tower)
        inner: Any = first.model
        named = {"image": ("vision_model", "visual_projection"), "text": ("text_model", "text_projection")}[tower]
        timm_model: Any = getattr(inner, "timm_model", None)
        trunk: Any = getattr(inner, named[0], timm_model or inner)
        heads = [getattr(inner, named[1], None), *rest]
        if trunk is timm_model:
            from timm.models import group_parameters

            names = group_parameters(trunk, trunk.group_matcher(coarse=False))
            found = dict(trunk.named_parameters())
            groups: list[Any] = [[found[name] for name in names[layer]] for layer in sorted(names)]
            return with_weights([*groups, heads])
        groups = block_groups(trunk, None)
        return with_weights([*groups[:-1], [*groups[-1], *heads]])

    def image_features(self, pixels: Tensor) -> Tensor:
        return self._through("image", {"pixel_values": pixels, "modality": "image"})

    def text_features(self, tokens: Tokens) -> Tensor:
        return self._through("text", {**tokens, "modality": "text"})

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": self.source, "revision": self.revision}

    def _through(self, tower: str, features: dict[str, Any]) -> Tensor:
        for module in self._route(tower):
            features = module(features)
        return features[FEATURES]

    def _route(self, tower: str) -> list[Any]:
        """Return the modules of a modality's route without Normalize, since `encode_image` normalises."""
        from sentence_transformers.sentence_transformer.modules import Normalize, Router

        modules: list[Any] = list(self.model)
        if isinstance(modules[0], Router):
            route: Any = modules[0].sub_modules[str(modules[0]._resolve_route(None, tower))]
            modules[:1] = list(route)
        return [module for module in modules if not isinstance(module, Normalize)]


class SentenceTokenizer:
    """Preprocessing of a text module: captions → ``input_ids`` and ``attention_mask``, int64 (B, L)."""

    def __init__(self, text: Any) -> None:
        self.text = text
        self.max_length = getattr(text, "max_seq_length", None)
        self.tokenizer = text.tokenizer

    def __call__(self, texts: Sequence[str]) -> Tokens:
        tokens = self.text.preprocess(list(texts))
        return {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}


def image_preprocess(module: Any) -> Preprocess:
    """Return the `Preprocess` that reproduces the pixels of an image module.

    Raises:
        ModisteError: `Preprocess` does not reproduce the module's processor on a test image.
    """
    processor = getattr(module.processor, "image_processor", module.processor)
    if hasattr(processor, "data_config"):
        preprocess = _timm_preprocess(processor.data_config)
    elif type(processor).__name__.startswith("DeepseekVLImageProcessor"):
        preprocess = _padding_preprocess(processor)
    else:
        return preprocess_of(on_pil(processor))
    _check(preprocess, on_pil(processor))
    return preprocess


def on_pil(processor: Any) -> Any:
    """Return the PIL variant of a transformers image processor, as torchvision's pixels differ slightly."""
    import transformers

    twin = getattr(transformers, f"{type(processor).__name__}Pil", None)
    return processor if twin is None else twin.from_dict(processor.to_dict())


def _timm_preprocess(data: dict[str, Any]) -> Preprocess:
    mean = tuple(data["mean"])
    return Preprocess(
        size=data["input_size"][-1],
        mean=mean,
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        resize={"center": "shortest", "squash": "squash", "border": "pad"}[data["crop_mode"]],
        crop_pct=data["crop_pct"],
        fill=tuple(round(255 * value) for value in mean),
    )


def _padding_preprocess(processor: Any) -> Preprocess:
    """The inverse of `modiste.export.towers.padding_processor`, for any background."""
    factor = 255 * processor.rescale_factor
    interpolation = Image.Resampling(processor.resample).name.lower()
    if interpolation not in INTERPOLATIONS:
        raise ModisteError(f"interpolation={interpolation} of {type(processor).__name__} is not supported.")
    return Preprocess(
        size=processor.size["height"],
        mean=tuple(value / factor for value in processor.image_mean),
        std=tuple(value / factor for value in processor.image_std),
        interpolation=interpolation,
        resize="pad",
        fill=tuple(processor.background_color),
    )


def _check(preprocess: Preprocess, processor: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 37, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((74, 122), Image.Resampling.BILINEAR)
    wanted = torch.as_tensor(processor([image], return_tensors="pt")["pixel_values"])
    ours = preprocess.normalise(preprocess(image).unsqueeze(0))
    if wanted.shape != ours.shape or not torch.allclose(ours, wanted.float(), atol=1e-4):
        raise ModisteError(f"The preprocessing of {type(processor).__name__} is not supported.")
