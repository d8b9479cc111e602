"""The dual encoder, in pure PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from modiste.errors import ModisteError
from modiste.models.grounding import ground
from modiste.models.layers import with_module
from modiste.models.preprocess import Preprocess
from modiste.utils.ranges import Width

if TYPE_CHECKING:
    from modiste.models.grounding import Grounded

Tokens = dict[str, Tensor]
Tokenizer = Callable[[Sequence[str]], Tokens]


class DualEncoder(nn.Module):
    """Base class of all models: an image tower and a text tower with a shared embedding space.

    Subclasses set the attributes and implement `image_features` and `text_features` (not normalised).

    Attributes:
        embed_dim: Size D of the shared space.
        preprocess: Image transform that the weights were trained with.
        tokenizer: Maps captions to the input of `encode_text`.
        initial_scale: exp(logit scale) of the pretrained weights, from which a loss may start, or None.
        initial_bias: Logit bias of the pretrained weights, or None.
    """

    embed_dim: int
    preprocess: Preprocess
    tokenizer: Tokenizer
    initial_scale: float | None = None
    initial_bias: float | None = None

    def layer_groups(self, tower: str) -> list[list[nn.Module | nn.Parameter]]:
        """Layer groups of ``tower`` ("image" or "text"), input first, projection head last."""
        raise NotImplementedError(f"{type(self).__name__} has no layer groups")

    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W), float, to features (B, D)."""
        raise NotImplementedError

    def text_features(self, tokens: Tokens) -> Tensor:
        """Tokens (each (B, L)) to features (B, D)."""
        raise NotImplementedError

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Unit-norm embeddings (B, D) of pixels (B, 3, H, W), uint8 from `preprocess` or normalised float.

        `TwoTower` also takes features (B, dim) of its image trunk.
        """
        if pixels.dtype == torch.uint8:
            pixels = self.preprocess.normalise(pixels)
        return F.normalize(self.image_features(pixels).float(), dim=-1)

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Unit-norm embeddings (B, D) of tokens from `tokenizer`.

        `TwoTower` also takes ``features`` (B, dim) of its text trunk.
        """
        return F.normalize(self.text_features(tokens).float(), dim=-1)

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W), float, to features (B, h, w, D) of each patch.

        If the image features are the mean of the patch features, through the same linear projection, their mean is
        `image_features`.

        Raises:
            NotImplementedError: The image tower has no patch features.
        """
        raise NotImplementedError(f"{type(self).__name__} has no patch embeddings")

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Unit-norm patch embeddings (B, h, w, D) in the shared space; pixels as in `encode_image`."""
        if pixels.dtype == torch.uint8:
            pixels = self.preprocess.normalise(pixels)
        return F.normalize(self.patch_features(pixels).float(), dim=-1)

    def at_size(self, size: int) -> DualEncoder:
        """This model for square inputs of another size: same weights, interpolated position embeddings.

        Args:
            size: Side of the input in pixels; a transformer rounds it down to a multiple of its patch size.

        Returns:
            A model that shares the weights; its ``preprocess.size`` is the new size.

        Raises:
            NotImplementedError: The inputs of the image tower have a fixed size.
        """
        if size == self.preprocess.size:
            return self
        raise NotImplementedError(f"{type(self).__name__} only takes images of {self.preprocess.size} pixels")

    def encode_tokens(self, tokens: Tokens) -> Tensor:
        """Unit-norm embeddings (B, L, D) of each token in the shared space.

        Raises:
            NotImplementedError: The text tower has no token features.
        """
        raise NotImplementedError(f"{type(self).__name__} has no token embeddings")

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
        """Register a hook that replaces the image tower's last spatial features by ``keep(features)``.

        For a convolutional network these are its last feature map (B, C, h, w); for a transformer the normalised tokens
        (B, N, C) that enter the attention of the last block, patches last, row by row.
        """
        raise NotImplementedError(f"{type(self).__name__} has no feature hook")

    @overload
    def ground(
        self, image: Image.Image, phrase: str, method: str = ..., size: int | None = ..., threshold: float = ...
    ) -> Grounded: ...

    @overload
    def ground(
        self,
        image: Image.Image,
        phrase: list[str],
        method: str = ...,
        size: int | None = ...,
        threshold: float = ...,
    ) -> list[Grounded]: ...

    def ground(
        self,
        image: Image.Image,
        phrase: str | list[str],
        method: str = "patches",
        size: int | None = 384,
        threshold: float = 0.5,
    ) -> Grounded | list[Grounded]:
        """Locate a phrase on a photo: heat map, box and highest point.

        A map has the photo's resolution, up to 2,048 pixels on the longer side. Every map has a highest point;
        ``task=[grounding]`` measures whether a model's maps are meaningful. ``modiste ground`` uses the best method of
        a run's grounding result and its threshold, which a loaded model does not know: give both for the same result.

        Args:
            image: The photo, which is padded to a grey square, not cropped.
            phrase: A phrase, or a list of phrases for a list of results.
            method: ``patches``, ``cam``, ``gradcam`` or ``occlusion`` (`modiste.models.heatmaps`).
            size: Side of the model's input in pixels, if the model supports it; None: its default.
            threshold: The box surrounds the region of the highest pixel that reaches this value, in [0, 1].

        Raises:
            ModisteError: The method is unknown, the model does not support it, or a phrase is empty or no text.

        >>> from modiste.images.timm import TimmEncoder
        >>> from modiste.texts.hf import HfTextEncoder
        >>> from modiste.texts.words import HashTokenizer
        >>> bert = {"model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1,
        ...         "num_attention_heads": 1, "intermediate_size": 16}
        >>> text = HfTextEncoder(config=bert, tokenizer=HashTokenizer(buckets=64))
        >>> model = TwoTower(TimmEncoder("test_efficientnet", size=64), text, embed_dim=8).eval()
        >>> found = model.ground(Image.new("RGB", (30, 40)), "red shoes", size=96)
        >>> found.heat.shape, len(found.box)
        ((40, 30), 4)
        """

        found = ground(self, image, [phrase] if isinstance(phrase, str) else phrase, method, size, threshold)
        return found[0] if isinstance(phrase, str) else found

    def forward(self, pixels: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Image and text embeddings, each (B, D), unit norm."""
        return self.encode_image(pixels), self.encode_text(tokens)

    def describe(self) -> dict[str, Any]:
        """Properties for results and model cards, as plain values."""
        return {"class": type(self).__name__, "embed_dim": self.embed_dim, "preprocess": self.preprocess.describe()}


class PatchHead(nn.Module):
    """Linear projection of patch features into the shared space, with a learned background embedding.

    Args:
        dim: Number of features of a patch.
        embed_dim: Size D of the shared space.
        dropout: Probability of dropping a feature in training, to reduce overfitting to composed scenes.

    Attributes:
        background: Learned embedding (D,) of patches without a product, as in RegionCLIP (arXiv:2112.09106); LSeg
            (arXiv:2201.03546) uses a text.
    """

    def __init__(self, dim: int, embed_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)  # stages differ in scale
        self.projection = nn.Linear(dim, embed_dim)
        self.background = nn.Parameter(torch.randn(embed_dim) / embed_dim**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., dim) to (..., D)."""
        return self.projection(self.norm(self.dropout(features)))


class TwoTower(DualEncoder):
    """Any image encoder and any text encoder, each with a linear projection into the shared space.

    Args:
        image: An encoder with ``dim``, ``preprocess``, ``patches`` and ``layer_groups`` (`modiste.images`).
        text: An encoder with ``dim``, ``tokenizer`` and ``layer_groups`` (`modiste.texts`).
        embed_dim: Size D of the shared space.
        text_isometry: Initialise the text projection with an orthogonal matrix, which keeps the angles between the text
            encoder's features: the shared space is then that of the sentence encoder, even for words that training
            never sees. It needs ``embed_dim`` ≥ ``text.dim``.
        patch_dropout: See `PatchHead`.

    Attributes:
        patch_head: Projects the features of ``image.patch_stages`` (``patch_dim``) into the shared space; None: patches
            use the projection of the image.

    Raises:
        ModisteError: ``text_isometry`` with ``embed_dim`` < ``text.dim``, or ``patch_dropout`` is outside [0, 1).
    """

    def __init__(
        self, image: Any, text: Any, embed_dim: Width = 256, text_isometry: bool = False, patch_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= patch_dropout < 1:
            raise ModisteError(f"model.patch_dropout={patch_dropout:g} must be at least 0 and below 1.")
        self.image, self.text, self.embed_dim = image, text, embed_dim
        self.preprocess = image.preprocess
        self.tokenizer = text.tokenizer
        self.image_projection = nn.Linear(image.dim, embed_dim, bias=False)
        self.text_projection = nn.Linear(text.dim, embed_dim, bias=False)
        patch_dim = getattr(image, "patch_dim", None)
        self.patch_head = PatchHead(patch_dim, embed_dim, patch_dropout) if patch_dim else None
        if text_isometry:
            if embed_dim < text.dim:
                raise ModisteError(
                    f"model.text_isometry cannot keep the angles of {text.dim} features in {embed_dim} dimensions: "
                    f"set model.embed_dim of at least {text.dim}."
                )
            nn.init.orthogonal_(self.text_projection.weight)

    def layer_groups(self, tower: str) -> list[list[nn.Module | nn.Parameter]]:
        encoder, projection = getattr(self, tower), getattr(self, f"{tower}_projection")
        heads = [self.patch_head] if tower == "image" and self.patch_head is not None else []
        return [*encoder.layer_groups(), [projection, *heads]]

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.image_projection(self.image(pixels) if pixels.ndim == 4 else pixels)

    def text_features(self, tokens: Tokens) -> Tensor:
        return self.text_projection(tokens["features"] if "features" in tokens else self.text(tokens))

    def patch_features(self, pixels: Tensor) -> Tensor:
        image: Any = self.image
        if self.patch_head is not None:
            return self.patch_head(image.stages(pixels))
        return self.image_projection(image.patches(pixels))

    def at_size(self, size: int) -> DualEncoder:
        if size == self.preprocess.size or not hasattr(self.image, "at_size"):
            return super().at_size(size)
        resized: Any = self.image.at_size
        other = with_module(self, "image", resized(size))
        other.preprocess = other.image.preprocess
        return other

    def encode_tokens(self, tokens: Tokens) -> Tensor:
        if not hasattr(self.text, "tokens"):
            raise NotImplementedError(f"{type(self.text).__name__} has no token embeddings")
        text: Any = self.text
        return F.normalize(self.text_projection(text.tokens(tokens)).float(), dim=-1)

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
        if not hasattr(self.image, "feature_hook"):
            raise NotImplementedError(f"{type(self.image).__name__} has no feature hook")
        hook: Any = self.image.feature_hook
        return hook(keep)
