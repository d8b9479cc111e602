"""Heat maps of phrases on an image, by four interchangeable methods, in the frame of the image.

Every method sees the whole image: it is padded to a grey square, as in FashionCLIP's demo, and resized to the model's
input with the model's interpolation, without the centre crop of the model's preprocessing.
"""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self

    from modiste.models.preprocess import Preprocess

GREY = 128
LONGEST = 8000
"""Longest side of a photo padded to a square, in pixels."""
PAPER_SIZE = 224
"""Side of the image, in pixels, to which the step of the bands refers."""
FLAT = 1e-6
"""A map in [0, 1] that varies by at most this within the image is constant, up to rounding."""


class PatchEncoder(Protocol):
    """Interface of the models of heat maps; see `modiste.models.dual_encoder.DualEncoder`."""

    preprocess: Preprocess

    @property
    def tokenizer(self) -> Callable[[Sequence[str]], Mapping[str, Tensor]]: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...

    def encode_image(self, pixels: Tensor) -> Tensor: ...

    def encode_text(self, tokens: dict[str, Tensor]) -> Tensor: ...

    def encode_patches(self, pixels: Tensor) -> Tensor: ...

    def patch_features(self, pixels: Tensor) -> Tensor: ...

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle: ...

    def at_size(self, size: int) -> Self: ...


Encoder = TypeVar("Encoder", bound=PatchEncoder)


class HeatMap(Protocol):
    """Heat map method, selected in ``task.grounding.methods``."""

    def __call__(self, model: PatchEncoder, pixels: Tensor, texts: Tensor) -> Tensor:
        """Maps (K, h, w) of any resolution that cover the model's input.

        Args:
            model: Model in evaluation mode.
            pixels: Pixels (3, S, S), uint8, on the model's device.
            texts: Unit-norm embeddings (K, D) of phrases, on the model's device.

        Raises:
            NotImplementedError: The model does not support the method.
        """

    def describe(self) -> dict[str, Any]:
        """The method as plain values."""


class Occlusion:
    """Occlusion: similarity when only a band of the image is visible (FashionCLIP's ``attention_map.py``).

    The borders of the bands are the multiples of ``step`` on an image of 224 pixels, and its end, scaled to the model's
    input and rounded to whole pixels; a band lies between any two of them, across or down, and everything outside it is
    grey. The score of a pixel is the mean over the bands k of max(0, s_k · m_k − s), with s_k the cosine of text and
    band, m_k 1 inside the band and 0 outside, and s the cosine of the text and the whole image; then ``rounds`` times
    the mean is subtracted and what is negative set to 0.

    FashionCLIP's code skips the horizontal bands that begin at the upper border, and stops at the last multiple
    before the end, so that no band shows the last 14 rows and columns; here all bands are used.

    Args:
        step: Distance between borders in pixels, for an image of 224 pixels.
        rounds: Number of times that the mean is subtracted.
        batch_size: Images per forward pass.

    Raises:
        ModisteError: The step is not between 1 and 224.

    >>> Occlusion(step=112).borders(96)
    [0, 48, 96]
    """

    def __init__(self, step: int = 15, rounds: int = 5, batch_size: int = 32) -> None:
        if not 1 <= step <= PAPER_SIZE:
            raise ModisteError(f"The stride of the bands must be 1 to {PAPER_SIZE} pixels, not {step}.")
        self.step, self.rounds, self.batch_size = step, rounds, batch_size

    def describe(self) -> dict[str, Any]:
        return {
            "method": "occlusion",
            "step": self.step,
            "step_of": f"an image of {PAPER_SIZE} pixels, scaled to the model's input, rounded to whole pixels",
            "bands": "between any two multiples of the step, the end of the image included; across and down",
            "outside": [GREY] * 3,
            "score": "mean over bands of clip(cosine of band · mask - cosine of image, 0)",
            "rounds": self.rounds,
        }

    def borders(self, size: int) -> list[int]:
        """Positions at which bands begin and end on an input of ``size`` pixels."""
        marks = [*range(0, PAPER_SIZE, self.step), PAPER_SIZE]
        return sorted({round(mark * size / PAPER_SIZE) for mark in marks})

    def bands(self, size: int) -> Tensor:
        """Masks (M, size) of the bands along one side."""
        borders = self.borders(size)
        position = torch.arange(size)
        pairs = [(first, last) for i, first in enumerate(borders) for last in borders[i + 1 :]]
        return torch.stack([(position >= first) & (position < last) for first, last in pairs])

    @torch.inference_mode()
    def __call__(self, model: PatchEncoder, pixels: Tensor, texts: Tensor) -> Tensor:
        bands = self.bands(pixels.shape[-1]).to(pixels.device)
        grey = torch.tensor(GREY, dtype=torch.uint8, device=pixels.device)
        across = torch.where(bands[:, None, :, None], pixels, grey)
        down = torch.where(bands[:, None, None, :], pixels, grey)
        embeddings = self._embed(model, torch.cat([pixels[None], across, down]))
        return self._score((texts @ embeddings.T).cpu().double(), bands.cpu().double())

    def _embed(self, model: PatchEncoder, images: Tensor) -> Tensor:
        """Unit-norm embeddings (B, D); equal images, such as bands of the padding, are embedded once."""
        found: dict[bytes, int] = {}
        keys = [hashlib.sha1(image.tobytes(), usedforsecurity=False).digest() for image in images.cpu().numpy()]
        index = [found.setdefault(key, len(found)) for key in keys]
        first = torch.tensor([keys.index(key) for key in found], device=images.device)
        parts = [model.encode_image(images[part]) for part in first.split(self.batch_size)]
        return torch.cat(parts)[torch.tensor(index, device=images.device)]

    def _score(self, cosines: Tensor, bands: Tensor) -> Tensor:
        """Maps (K, S, S) of cosines (K, 1 + 2M) with the image and the bands across and down, (M, S).

        A band is constant along its length, so it adds to a pixel a value that depends on its row or its column alone.
        """
        whole, parts = cosines[:, :1], cosines[:, 1:]
        inside, outside = (parts - whole).clamp(min=0), (-whole).clamp(min=0)
        across, down = (part @ bands + outside * (1 - bands).sum(dim=0) for part in inside.split(len(bands), dim=1))
        score = (across[:, :, None] + down[:, None, :]) / parts.shape[1]
        for _ in range(self.rounds):
            score = (score - score.mean(dim=(1, 2), keepdim=True)).clamp(min=0)
        return score.float()


class PatchText:
    """Cosine of each patch embedding with the text (`DualEncoder.encode_patches`)."""

    def describe(self) -> dict[str, Any]:
        return {"method": "patch-text", "score": "cosine of the patch's embedding in the shared space and the text"}

    @torch.inference_mode()
    def __call__(self, model: PatchEncoder, pixels: Tensor, texts: Tensor) -> Tensor:
        patches = model.encode_patches(pixels[None])[0]
        return torch.einsum("hwd,kd->khw", patches, texts)


class Cam:
    """Class activation map (Zhou et al., CVPR 2016, eq. 2): dot products of patch features and text.

    Unlike in `PatchText`, patches are not normalised. If the image features are the mean of the patch features through
    one linear projection, the map's mean is the dot product of image features and text: an exact decomposition. It is
    none with `TwoTower.patch_head`, which embeds other features, normalised by layer, apart from the image.
    """

    def describe(self) -> dict[str, Any]:
        return {"method": "CAM", "score": "dot product of the patch's features in the shared space and the text"}

    @torch.inference_mode()
    def __call__(self, model: PatchEncoder, pixels: Tensor, texts: Tensor) -> Tensor:
        patches = model.patch_features(model.preprocess.normalise(pixels[None]))[0].float()
        return torch.einsum("hwd,kd->khw", patches, texts)


class GradCam:
    """Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2) of the cosine of image and text.

    The features are those of `DualEncoder.feature_hook`: the last feature map of a convolutional network, or the patch
    tokens that enter the attention of a vision transformer's last block, since a class token does not see later ones.
    """

    def describe(self) -> dict[str, Any]:
        return {
            "method": "Grad-CAM",
            "score": "relu of the sum over channels of activation · mean gradient of the cosine",
            "layer": "last feature map, or the normalised patch tokens that enter the last block",
        }

    def __call__(self, model: PatchEncoder, pixels: Tensor, texts: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(features: Tensor) -> Tensor:
            kept.append(features.detach().requires_grad_())  # earlier layers need no gradient
            return kept[-1]

        # Copies, since inference tensors of the caller cannot take part in autograd.
        with torch.inference_mode(False), torch.enable_grad():
            hook = model.feature_hook(keep)
            try:
                embedding = model.encode_image(pixels.clone()[None])[0]
            finally:
                hook.remove()
            cosines = texts.clone() @ embedding
            gradients = [torch.autograd.grad(cosine, kept, retain_graph=True)[0] for cosine in cosines]
        weights = torch.cat([as_map(gradient) for gradient in gradients]).mean(dim=(2, 3))
        return torch.einsum("kc,chw->khw", weights, as_map(kept[0].detach())[0]).relu()


def as_map(features: Tensor) -> Tensor:
    """Feature map (B, C, h, w), float32; for tokens (B, N, C), that of the largest square grid at the end.

    The input is square, and it has too few tokens before its patches (class, registers) to make the next square.

    >>> as_map(torch.zeros(1, 1 + 49, 8)).shape
    torch.Size([1, 8, 7, 7])
    """
    if features.ndim == 4:
        return features.float()
    side = math.isqrt(features.shape[1])
    return features[:, -(side**2) :].float().mT.unflatten(2, (side, side))


def resized(model: Encoder, size: int | None) -> tuple[Encoder, str]:
    """The model for inputs of ``size`` pixels (None: unchanged) and ""; if impossible, the model and why.

    A grey image is embedded to test it: some towers with a fixed input size fail only then.
    """
    if size is None:
        return model, ""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # libraries log that they interpolate
    try:
        other = model.at_size(size)
        side = other.preprocess.size
        device = next(model.parameters()).device
        with torch.inference_mode():
            other.encode_image(torch.full((1, 3, side, side), GREY, dtype=torch.uint8, device=device))
    except (ModisteError, NotImplementedError, RuntimeError, AssertionError, ValueError) as error:
        return model, str(error)
    finally:
        logging.disable(before)
    return other, ""


def pad_to_square(image: Image.Image) -> Image.Image:
    """Centre the image on a grey square, reduced first to sides of at most `LONGEST` pixels.

    >>> pad_to_square(Image.new("RGB", (2, 3))).getpixel((2, 0))
    (128, 128, 128)
    >>> pad_to_square(Image.new("RGB", (60_000, 1))).size
    (8000, 8000)
    """
    if max(image.size) > LONGEST:  # the square of a strip takes gigabytes
        image = ImageOps.contain(image, (LONGEST, LONGEST))
    side = max(image.size)
    square = Image.new("RGB", (side, side), (GREY,) * 3)
    square.paste(image.convert("RGB"), _corner(image.size))
    return square


def input_pixels(model: PatchEncoder, image: Image.Image) -> Tensor:
    """Pixels (3, S, S), uint8, of the padded square at the model's input size, uncropped."""
    return replace(model.preprocess, resize="squash", crop_pct=1.0)(pad_to_square(image))


def on_image(maps: Tensor, image_size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Crop maps over the padded square to the image, in [0, 1].

    Each map is sampled bilinearly at the pixel centres of the image and scaled from its minimum to its maximum there.

    Args:
        maps: Maps (K, h, w) over the square.
        image_size: Width and height of the image.
        shape: Height and width of the result, of any resolution.

    Returns:
        Maps `(K, *shape)`, float32; a constant map is all 0.

    >>> on_image(torch.tensor([[[0.0, 2.0], [0.0, 2.0]]]), (2, 2), (2, 2))
    tensor([[[0., 1.],
             [0., 1.]]])
    """
    side = max(image_size)
    axes = [  # coordinates of the square, from -1 to 1
        (corner + (torch.arange(n) + 0.5) * length / n) / side * 2 - 1
        for corner, length, n in zip(_corner(image_size), image_size, reversed(shape), strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="xy"), dim=-1)
    square = scaled(maps.float().cpu())
    sampled = F.grid_sample(square[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]
    return scaled(sampled, FLAT)


def without_padding(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The cells of maps (K, h, w) over the padded square that show part of an image of this size.

    >>> without_padding(torch.tensor([[[5], [3], [9]]]), (3, 1)).tolist()
    [[[3]]]
    """
    side = max(image_size)
    columns, rows = (
        slice(corner * cells // side, -(-(corner + length) * cells // side))
        for corner, length, cells in zip(_corner(image_size), image_size, reversed(maps.shape[1:]), strict=True)
    )
    return maps[:, rows, columns]


def _corner(size: tuple[int, int]) -> tuple[int, int]:
    """Left and top of an image of ``size`` (width, height) in its square."""
    return (max(size) - size[0]) // 2, (max(size) - size[1]) // 2


def scaled(maps: Tensor, flat: float = 0.0) -> Tensor:
    """Min-max scale each map (K, h, w); all 0 if its range is at most ``flat``.

    >>> scaled(torch.tensor([[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]])).tolist()
    [[[0.0, 0.5, 1.0]], [[0.0, 0.0, 0.0]]]
    """
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = high - low
    return torch.where(spread > flat, (maps - low) / spread.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)
