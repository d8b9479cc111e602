"""Generalised contrastive learning (GCL): several weighted text fields per product, weighted pairs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.base import LogitScale, TiledLoss
from modiste.losses.clip import LOGITS_CACHE_MIB, checked_cache, infonce
from modiste.utils.ranges import Count, NonNegative, Positive


class GclLoss(LogitScale, TiledLoss):
    """Weighted InfoNCE of images against each text field and against the mean of the fields.

    Zhu, Jung and Clark, *Generalized Contrastive Learning for Multi-Modal Retrieval and Ranking* (GCL),
    arXiv:2404.08535: each pair's cross-entropy is weighted by its ranking score, and a product with several fields is
    represented by the weighted average of their embeddings. Marqo-FashionCLIP and Marqo-FashionSigLIP apply it to
    fashion; their training code is not published, but their author describes it as "L_total = L(description, image) +
    L(materials, image) + …" over seven fields (marqo-ai/marqo-FashionCLIP, issue 5) and "all combinations of img and
    text as well as the mean of the text vectors (i.e. fused)" (marqo-ai/marqo-ecommerce-embeddings, issue 7).

    With L(x, y; w) the symmetric cross-entropy of `modiste.losses.clip.ClipLoss`, averaged with weight w_i of pair i,
    field weights a_f, and t̄ the normalised Σ_f a_f t_f over the fields that a product has:
    loss = (Σ_f a_f L(image, t_f; w) + fused · L(image, t̄; w)) / (Σ_f a_f + fused).

    A product that lacks a field is excluded from that field's term, as a positive and as a negative. Products that
    share a field's text need no special treatment: identical columns give the same value and gradients, up to the
    pairs' weights, whether or not they are positives of each other.

    For a field with a vocabulary (all its texts in the training split), the cross-entropy of each image over the whole
    vocabulary, as in zero-shot classification, replaces L: few batches contain a rare value, so little would push the
    other images away from its text. The B·V logits are stored in full precision.

    Every other term takes the time and memory of a `ClipLoss`. Without fields the loss is a weighted `ClipLoss`.

    Args:
        init_scale: Initial exp(logit scale); None: that of the pretrained weights, or else 1/0.07.
        max_scale: Upper limit of the scale.
        fused: Weight of the term of t̄, relative to ``data.fields.NAME.weight``; 0 disables it.
        tile: Maximum side of a tile of the logits.
        matmul_dtype: See `modiste.losses.base.TiledLoss`.
        logits_cache_mib: Keep the logits of a term for the backward pass if they take at most this many MiB.

    Raises:
        ModisteError: ``fused`` or ``logits_cache_mib`` is negative; or see `LogitScale` and `TiledLoss`.

    Two products, the second without a colour: its mean is its title, and the colour's only pair has loss 0:

    >>> loss = GclLoss(init_scale=1.0)
    >>> image = torch.eye(2)
    >>> title, colour = torch.tensor([0, 1]), torch.tensor([0, -1])
    >>> fields = {"index": torch.stack([title, colour], dim=1), "weight": torch.tensor([1.0, 1.0])}
    >>> round(loss(image, image, fields=fields).item(), 4), round(2 / 3 * loss(image, image).item(), 4)
    (0.2088, 0.2088)
    """

    weighs_pairs = True  # takes `fields` and `weight`

    def __init__(
        self,
        init_scale: Positive | None = None,
        max_scale: Positive = 100.0,
        fused: NonNegative = 1.0,
        tile: Count = 2048,
        matmul_dtype: str = "float32",
        logits_cache_mib: NonNegative = LOGITS_CACHE_MIB,
    ) -> None:
        super().__init__(1 / 0.07, init_scale, max_scale, tile=tile, matmul_dtype=matmul_dtype)
        self.logits_cache_mib = checked_cache(logits_cache_mib)
        if fused < 0:
            raise ModisteError(f"loss.fused={fused:g} is a weight: give 0 or more.")
        self.fused = fused

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        product_id: Tensor | None = None,
        fields: dict[str, Tensor] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Loss of a batch of products; for several processes see `TiledLoss.forward`.

        Args:
            image: Unit-norm image embeddings (B, D).
            text: Unit-norm embeddings (U, D) of the batch's distinct texts; without ``fields`` (B, D), one per image.
            product_id: Product of each image (B,), int64; None: every image is a separate product.
            fields: ``index`` (B, F), int64: row in ``text`` of each field of each product, -1 if it has none;
                ``weight`` (F,) of each field, at least 0; optionally ``vocabulary`` (F, V), int64: the rows in ``text``
                of all texts of each field, ascending, padded with -1; only -1 for a field without a vocabulary.
            weight: Weight of each pair (B,), at least 0; None: 1 each.

        Returns:
            Scalar, float32 (float64 for float64 input).

        Raises:
            ValueError: The shapes do not match.
            ModisteError: The processes hold batches of different sizes.
        """
        if fields is None and weight is None:
            return super().forward(image, text, product_id)
        _check_shapes(image, text, fields, weight)
        image, text, product_id = self.prepare(image, text, product_id)
        with torch.autocast(image.device.type, enabled=False):
            if fields is None:
                return self._term(image, text, product_id, weight)
            return self._all_terms(image, text, product_id, fields, weight)

    def compute(self, image: Tensor, text: Tensor, product_id: Tensor) -> Tensor:
        return self._term(image, text, product_id)

    def _term(
        self,
        image: Tensor,
        text: Tensor,
        product_id: Tensor,
        weight: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        scale = self.scale.to(image.dtype)
        options = self.tile, self.matmul_dtype, weight, present, self.logits_cache_mib
        return infonce(image, text, scale, product_id, *options)

    def _all_terms(
        self,
        image: Tensor,
        text: Tensor,
        product_id: Tensor,
        fields: dict[str, Tensor],
        weight: Tensor | None,
    ) -> Tensor:
        index, field_weight = fields["index"], fields["weight"].to(image.dtype)
        vocabulary = [words[words >= 0] for words in fields.get("vocabulary", ())] or [None] * len(field_weight)
        present = index >= 0
        total, mean = image.new_zeros(()), torch.zeros_like(image)
        for field, row in enumerate(index.clamp_min(0).unbind(1)):
            field_text, there, words = text[row], present[:, field], vocabulary[field]
            if words is None or not len(words):
                term = self._term(image, field_text, product_id, weight, there)
            else:
                term = self._among(image, text, row, words, weight, there)
            total = total + field_weight[field] * term
            mean = mean + (field_weight[field] * there)[:, None] * field_text
        if self.fused:
            known = present[:, field_weight > 0].any(1)
            total = total + self.fused * self._term(image, F.normalize(mean, dim=1), product_id, weight, known)
        return total / (field_weight.sum() + self.fused)

    def _among(
        self, image: Tensor, text: Tensor, row: Tensor, words: Tensor, weight: Tensor | None, present: Tensor
    ) -> Tensor:
        """Weighted mean cross-entropy of images over ``words``, ascending rows of ``text``; target ``row``."""
        logits = self.scale.to(image.dtype) * image @ text[words].T
        each = F.cross_entropy(logits, torch.searchsorted(words, row.contiguous()), reduction="none")
        share = present.to(image.dtype) if weight is None else present * weight.to(image.dtype)
        whole = gather.all_reduce_sum(share.sum())
        return gather.sum_over_processes((each * share).sum() / torch.where(whole > 0, whole, 1.0))


def _check_shapes(image: Tensor, text: Tensor, fields: dict[str, Tensor] | None, weight: Tensor | None) -> None:
    size = len(image)
    if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1]:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must be (B, D) and (U, D)")
    if fields is None and len(text) != size:
        raise ValueError(f"text {tuple(text.shape)} must have a row for each of the {size} images, without fields")
    if fields is not None and fields["index"].shape != (size, len(fields["weight"])):
        raise ValueError(
            f"index {tuple(fields['index'].shape)} must be ({size}, {len(fields['weight'])}): products by fields"
        )
    if fields is not None and "vocabulary" in fields and len(fields["vocabulary"]) != len(fields["weight"]):
        raise ValueError(f"vocabulary has {len(fields['vocabulary'])} rows for {len(fields['weight'])} fields")
    if weight is not None and weight.shape != (size,):
        raise ValueError(f"weight {tuple(weight.shape)} must be ({size},), one per pair")
