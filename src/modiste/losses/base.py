"""Base classes of losses: `ContrastiveLoss`, with optional temperature, bias and tiled logits."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.matmul import check_matmul_dtype

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """What a loss derives its initial values from.

    Attributes:
        scale: exp(logit scale) of the pretrained weights, or None.
        bias: Logit bias of the pretrained weights, or None.
        global_batch: Pairs per step over all processes.
    """

    scale: float | None = None
    bias: float | None = None
    global_batch: int = 1


class ContrastiveLoss(nn.Module):
    """Base class of losses over a batch of image–text pairs; subclasses implement ``forward``.

    Training calls ``loss(image, text, product_id)`` with unit-norm embeddings (B, D), where row i of both is a pair,
    and ``product_id`` (B,), int64; pairs of the same product are not negatives of each other. The loss is a scalar.

    With several processes, each passes its shard of the batch, and DDP averages the gradients. A loss over the global
    batch starts with `modiste.losses.gather_pairs`; one that ignores the other processes has local negatives only, and
    a warning is logged once.

    Attributes:
        local_negatives: True: the loss ignores other processes by design. False: it takes them into account. None:
            detected from whether a call uses `modiste.losses.gather`.
        needs_tokens: Whether training also passes ``tokens``, the embeddings of patches and text tokens
            (`modiste.losses.filip.TokenEmbeddings`).

    A triplet loss, exact on any number of processes:

    >>> from modiste.losses import ContrastiveLoss, gather_pairs
    >>> class TripletLoss(ContrastiveLoss):
    ...     def forward(self, image, text, product_id=None):
    ...         image, text, product_id = gather_pairs(image, text, product_id)
    ...         scores = image @ text.T
    ...         negative = scores.masked_fill(product_id[:, None] == product_id, -1.0).amax(1)
    ...         return (0.2 + negative - scores.diagonal()).clamp_min(0).mean()
    >>> TripletLoss()(torch.eye(3), torch.eye(3)[[0, 2, 1]]).item()
    0.800000011920929
    """

    local_negatives: bool | None = None
    needs_tokens = False

    @classmethod
    def begin(cls, given: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """Constructor arguments derived from ``origin``; none by default.

        `modiste.losses.build.build_loss` passes those that are null or missing in ``given``, the config node.
        """
        return {}

    def clamp(self) -> None:
        """Clamp parameters to their range after an optimizer step; by default a no-op."""

    def inverse_temperature(self) -> Tensor | None:
        """exp(logit scale), (), logged and passed to the terms; None for a loss without temperature."""
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = gather.collectives()
        value = super().__call__(*args, **kwargs)
        if gather.world_size() > 1 and (
            self.local_negatives or (self.local_negatives is None and gather.collectives() == before)
        ):
            self._warn_once()
        return value

    def _warn_once(self) -> None:
        self.local_negatives = False
        if gather.rank() == 0:
            log.warning(
                "%s uses only the pairs of its own process: negatives are local, fewer than data.batch_size suggests. "
                "Call modiste.losses.gather_pairs in its forward to contrast against the global batch.",
                type(self).__name__,
            )


class LogitScale(nn.Module):
    """Mix-in for a `ContrastiveLoss`: a learnable ``logit_scale``, whose exp lies in [1, ``max_scale``].

    Args:
        default_scale: Initial exp(logit scale) if neither ``init_scale`` nor pretrained weights give one.
        init_scale: Initial exp(logit scale); null in a configuration: that of pretrained weights (`begin`).
        max_scale: Upper limit of exp(logit scale), which `clamp` enforces.
        more: Arguments of the other base class.

    Raises:
        ModisteError: ``max_scale`` < 1, or the initial scale is outside [1, max_scale].

    >>> class CosineLoss(LogitScale, ContrastiveLoss):
    ...     def forward(self, image, text, product_id=None):
    ...         return -(self.scale * image * text).sum(1).mean()
    >>> round(CosineLoss(default_scale=10.0)(torch.eye(2), torch.eye(2)).item(), 4)
    -10.0
    """

    def __init__(
        self, default_scale: float, init_scale: float | None = None, max_scale: float = 100.0, **more: Any
    ) -> None:
        super().__init__(**more)
        if max_scale < 1:
            raise ModisteError(f"loss.max_scale must be at least 1, not {max_scale:g}.")
        start = min(default_scale, max_scale) if init_scale is None else init_scale
        if not 1 <= start <= max_scale:
            raise ModisteError(f"loss.init_scale={start:g} must lie between 1 and loss.max_scale={max_scale:g}.")
        self.max_scale = max_scale
        self.logit_scale = nn.Parameter(torch.tensor(math.log(start)))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature exp(logit_scale), (), at least float32."""
        return self.logit_scale.to(torch.promote_types(self.logit_scale.dtype, torch.float32)).exp()

    def inverse_temperature(self) -> Tensor | None:
        """See `ContrastiveLoss.inverse_temperature`."""
        return self.scale

    @classmethod
    def begin(cls, given: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """The temperature of pretrained weights, within [1, ``max_scale``]."""
        if origin.scale is None:
            return {}
        limit = given.get("max_scale", inspect.signature(cls).parameters["max_scale"].default)
        return {"init_scale": min(max(origin.scale, 1.0), limit)}

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep the scale within [1, max_scale]."""
        self.logit_scale.clamp_(0.0, math.log(self.max_scale))


class LogitBias(LogitScale):
    """Mix-in: `LogitScale` and a learnable ``logit_bias``, as in SigLIP.

    Args:
        default_scale: See `LogitScale`.
        init_scale: See `LogitScale`.
        max_scale: See `LogitScale`.
        init_bias: Initial logit bias; None: -10; null in a configuration: see `begin`.
        more: See `LogitScale`.
    """

    def __init__(
        self,
        default_scale: float,
        init_scale: float | None = None,
        max_scale: float = math.inf,
        init_bias: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(default_scale, init_scale, max_scale, **more)
        self.logit_bias = nn.Parameter(torch.tensor(-10.0 if init_bias is None else init_bias))

    @classmethod
    def begin(cls, given: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
        """Temperature and bias of pretrained weights.

        If the weights have no bias, it is log(p/(1-p)) with p = 1/global_batch, the prior of a positive.
        """
        prior = math.log(1 / max(origin.global_batch - 1, 1))
        return super().begin(given, origin) | {"init_bias": prior if origin.bias is None else origin.bias}


class TiledLoss(ContrastiveLoss):
    """Base class of losses with tiled logits (`modiste.losses.tiles`); subclasses implement `compute`.

    All images and texts of a product are positives of each other, so duplicates are never negatives.

    Args:
        tile: Maximum side of a tile of the logits; memory grows with its square.
        matmul_dtype: ``float32``, or ``bfloat16``: matmul inputs in bf16, accumulation and logits in fp32.

    Raises:
        ModisteError: ``tile`` < 1 or ``matmul_dtype`` is unknown.
    """

    def __init__(self, tile: int, matmul_dtype: str = "float32") -> None:
        super().__init__()
        check_matmul_dtype(matmul_dtype)
        if tile < 1:
            raise ModisteError(f"loss.tile must be at least 1, not {tile}.")
        self.tile, self.matmul_dtype = tile, matmul_dtype

    def forward(self, image: Tensor, text: Tensor, product_id: Tensor | None = None) -> Tensor:
        """Loss of a batch of pairs.

        With several processes, each passes its shard of the batch. The value is that of the global batch on every
        process, and gradients are scaled by the number of processes, so that their average (DDP) is the gradient of
        the global batch.

        Args:
            image: Unit-norm image embeddings (B, D).
            text: Unit-norm text embeddings (B, D); row i belongs to row i of ``image``.
            product_id: Product of each pair (B,), int64; None: every pair is a separate product.

        Returns:
            Scalar, float32 (float64 for float64 input), also under autocast or for bfloat16 input.

        Raises:
            ValueError: The shapes do not match.
            ModisteError: The processes hold batches of different sizes.
        """
        gather.check_shapes(image, text)
        image, text, product_id = self.prepare(image, text, product_id)
        with torch.autocast(image.device.type, enabled=False):
            return self.compute(image, text, product_id)

    def prepare(self, image: Tensor, text: Tensor, product_id: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Check the input of `compute` and cast the features to full precision. A collective."""
        product_id = gather.checked_products(image, product_id)
        # bfloat16 rounds a logit near 100 to a multiple of 1/2.
        dtype = torch.promote_types(torch.promote_types(image.dtype, text.dtype), torch.float32)
        return image.to(dtype), text.to(dtype), product_id

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        """Loss, (), of checked input, all of it float32 or all float64."""
        raise NotImplementedError
