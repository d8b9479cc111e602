"""InfoNCE with targets softened by the similarity of the batch's texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modiste.errors import ModisteError
from modiste.losses.soft import soft_infonce
from modiste.terms.base import Term
from modiste.utils.ranges import Count, Fraction, NonNegative, Positive


class SoftLabels(Term):
    """(1 - mix) · InfoNCE + mix · KL(P ‖ Q), P the softmax of ``scale`` · cosine of the batch's texts.

    Gao et al., *SoftCLIP: Softer Cross-modal Alignment Makes CLIP Stronger*, arXiv:2303.17561, which softens targets by
    similarities within a modality; here within the texts, which name what products share. Positives are all pairs of
    one product, as in the contrastive loss. Up to a constant, ``loss=clip`` plus ``weight`` times this term is
    (1 + weight) times InfoNCE with the targets

        (1 - m) · (uniform over the product's pairs) + m · P,   m = mix · weight / (1 + weight).

    Args:
        weight: See `Term`.
        teacher: Source of the text embeddings: ``own`` (the student's, detached), ``start``, or a model; see `Term`.
        mix: Fraction of P in the targets, in (0, 1].
        scale: Inverse temperature of P: at 1/0.05, a text with cosine 0.9 has e⁻² times the weight of the pair's own.
        tile: Maximum side of the tiles in which the similarities are computed.

    Raises:
        ModisteError: ``mix`` or ``scale`` is out of range; in a step: the contrastive loss has no temperature.

    >>> SoftLabels(mix=0.0)
    Traceback (most recent call last):
    modiste.errors.ModisteError: term.soft_labels.mix=0 must lie in (0, 1]: remove the term for hard labels.
    """

    def __init__(
        self,
        weight: NonNegative = 1.0,
        teacher: str = "own",
        mix: Fraction = 0.5,
        scale: Positive = 20.0,
        tile: Count = 2048,
    ) -> None:
        super().__init__(weight, teacher)
        if not 0 < mix <= 1:
            raise ModisteError(f"term.soft_labels.mix={mix:g} must lie in (0, 1]: remove the term for hard labels.")
        if scale <= 0:
            raise ModisteError(f"term.soft_labels.scale={scale:g} is an inverse temperature: give a positive number.")
        self.mix, self.scale, self.tile = mix, scale, tile

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        if scale is None:
            raise ModisteError("term.soft_labels needs a loss with a temperature: choose loss=clip or loss=siglip.")
        texts = text.detach() if self.model is None else self.model.texts(batch)
        return soft_infonce(image, text, scale, texts, texts, self.scale, batch["product"], self.mix, self.tile)
