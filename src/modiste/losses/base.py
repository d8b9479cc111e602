"""What the contrastive losses share: a learnable temperature, and inputs checked and brought to full precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.products import check


class ContrastiveLoss(nn.Module):
    """Base of the losses over all pairs of a batch of images and texts.

    A subclass implements `compute`. Products are identified by ``product_id``: every image and text of one product are
    positives of each other, duplicates are never negatives.

    Args:
        default_scale: exp(logit scale) to start from where neither the user nor pretrained weights say otherwise.
        init_scale: exp(logit scale) to start from, whatever the weights say; None leaves the choice to `initialise`.
        max_scale: Upper limit that `clamp` keeps.
        tile: Largest side of the tiles in which the logits are computed; memory grows with its square.
        products: Of the tiles: ``float32``, or ``bfloat16`` (factors rounded, logits in float32; see
            `modiste.losses.products`).

    Raises:
        ModisteError: if ``tile`` < 1, ``max_scale`` < 1, or ``init_scale`` is outside [1, max_scale], or ``products``
            is unknown.
    """

    def __init__(
        self,
        default_scale: float,
        init_scale: float | None,
        max_scale: float,
        tile: int,
        products: str = "float32",
    ) -> None:
        super().__init__()
        check(products)
        if tile < 1:
            raise ModisteError(f"loss.tile must be at least 1, not {tile}.")
        if max_scale < 1:
            raise ModisteError(f"loss.max_scale must be at least 1, not {max_scale:g}.")
        start = min(default_scale, max_scale) if init_scale is None else init_scale
        if not 1 <= start <= max_scale:
            raise ModisteError(f"loss.init_scale={start:g} must lie between 1 and loss.max_scale={max_scale:g}.")
        self.init_scale = init_scale
        self.max_scale = max_scale
        self.tile, self.products = tile, products
        self.logit_scale = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature exp(logit_scale), (), at least float32."""
        return self.logit_scale.to(torch.promote_types(self.logit_scale.dtype, torch.float32)).exp()

    @torch.no_grad()
    def initialise(self, scale: float | None, bias: float | None, global_batch: int) -> None:
        """Start from the temperature that came with pretrained weights, unless ``init_scale`` was given.

        Args:
            scale: exp(logit scale) of the weights (cut to ``max_scale``), or None to keep the default.
            bias: Logit bias of the weights, or None. Used by losses that have one.
            global_batch: Pairs per step over all processes. Used by losses that have a bias.
        """
        if scale is not None and self.init_scale is None:
            self.logit_scale.fill_(math.log(scale))
            self.clamp()

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the scale within [1, max_scale]; to be called after every optimizer step."""
        self.logit_scale.clamp_(0.0, math.log(self.max_scale))

    def forward(self, image: Tensor, text: Tensor, product_id: Tensor | None = None) -> Tensor:
        """Loss of a batch of pairs.

        With several processes, each passes its own part of the batch; the value is that of the whole batch on every
        process, and gradients are scaled by the number of processes, so that their average (DDP) is the gradient of
        the whole batch.

        Args:
            image: Unit-norm image embeddings (B, D).
            text: Unit-norm text embeddings (B, D); row i belongs to row i of ``image``.
            product_id: Product of each pair (B,), int64; None: every pair is a product of its own.

        Returns:
            Scalar, float32 (float64 for float64 input), also under autocast or for bfloat16 input.

        Raises:
            ValueError: if the shapes do not match.
            ModisteError: if the processes hold batches of different sizes.
        """
        if image.shape != text.shape or image.ndim != 2:
            raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must both be (B, D)")
        image, text, product_id = self.prepare(image, text, product_id)
        with torch.autocast(image.device.type, enabled=False):
            return self.compute(image, text, product_id)

    def prepare(self, image: Tensor, text: Tensor, product_id: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The input of `compute`: features in full precision, and the product of each image, checked. A collective."""
        if product_id is None:
            product_id = torch.arange(len(image), device=image.device) + gather.rank() * len(image)
        elif product_id.shape != image.shape[:1]:
            raise ValueError(f"product_id {tuple(product_id.shape)} must be ({len(image)},), one per pair")
        gather.check_equal_batches(len(image), image.device)
        # A logit near 100 in bfloat16 is rounded to 1/4, so features are brought to float32 before the product.
        dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
        return image.to(dtype), text.to(dtype), product_id

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        """Loss of checked input in one floating type, float32 or float64."""
        raise NotImplementedError
