"""A contrastive loss on nested prefixes of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.losses.base import ContrastiveLoss
from modiste.utils.ranges import Count, NonNegative


class MatryoshkaLoss(ContrastiveLoss):
    """Matryoshka loss: Σ w_d · inner(normalise(image[:, :d]), normalise(text[:, :d])) over prefixes d.

    Kusupati et al., *Matryoshka Representation Learning*, arXiv:2205.13147, eq. 1. All prefixes share the temperature
    (and bias) of the inner loss.

    Args:
        inner: A contrastive loss.
        dims: Sizes of the prefixes; the full embedding is trained only if its size is among them.
        weights: Weight of each prefix; empty: 1 each, as in the paper.

    Raises:
        ModisteError: ``dims`` is empty, has duplicates or sizes below 1, or ``weights`` is not one positive number per
            prefix; in ``forward``: a prefix is longer than the embeddings.

    With the full size as its only prefix, it is the inner loss:

    >>> import torch
    >>> from modiste.losses.clip import ClipLoss
    >>> image, text = torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.eye(2)
    >>> whole, first = ClipLoss(), MatryoshkaLoss(ClipLoss(), dims=[2])
    >>> bool(first(image, text) == whole(image, text))
    True
    """

    local_negatives = False  # the inner loss warns itself

    def __init__(self, inner: ContrastiveLoss, dims: Sequence[Count], weights: Sequence[NonNegative] = ()) -> None:
        super().__init__()
        if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
            raise ModisteError(f"loss.dims={list(dims)} must be distinct sizes of at least 1, for example [64,256].")
        if weights and (len(weights) != len(dims) or min(weights) <= 0):
            raise ModisteError(f"loss.weights={list(weights)} must be one positive weight for each of {list(dims)}.")
        self.inner, self.dims = inner, list(dims)
        self.weights = list(weights) or [1.0] * len(dims)
        for name, parameter in inner.named_parameters():  # checkpoints hold the temperature as loss.logit_scale
            self.register_parameter(name, parameter)

    def inverse_temperature(self) -> Tensor | None:
        """Inverse temperature of the inner loss."""
        return self.inner.inverse_temperature()

    def clamp(self) -> None:
        """See `modiste.losses.base.ContrastiveLoss.clamp`."""
        self.inner.clamp()

    def forward(self, image: Tensor, text: Tensor, *more: Any) -> Tensor:
        """Weighted sum over the prefixes, (); ``more``, such as ``product_id`` (B,), goes to the inner loss."""
        if max(self.dims) > image.shape[1]:
            raise ModisteError(f"loss.dims={self.dims} exceed the {image.shape[1]} dimensions of the embeddings.")
        losses = [
            weight * self.inner(F.normalize(image[:, :dim], dim=1), F.normalize(text[:, :dim], dim=1), *more)
            for dim, weight in zip(self.dims, self.weights, strict=True)
        ]
        return sum(losses[1:], losses[0])

    @staticmethod
    def validate_config(node: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
        """Raise ModisteError if a prefix is longer than ``model.embed_dim``."""
        size = cfg["model"].get("embed_dim") if "model" in cfg else None
        if size is not None and node.get("dims") and max(node["dims"]) > size:
            raise ModisteError(f"dims={list(node['dims'])} exceed model.embed_dim={size}.")
