"""Learning without forgetting: keep the student close to a frozen teacher's similarities and features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modiste.errors import ModisteError
from modiste.losses.soft import soft_infonce
from modiste.models.dual_encoder import DualEncoder
from modiste.terms.base import Term, TrainingInputs
from modiste.terms.teacher import OWN, Teacher
from modiste.utils.ranges import Count, NonNegative, Positive


class Distill(Term):
    """Batch mean of similarities · KL + image_features · (1 - cos) + text_features · (1 - cos).

    KL is the divergence of the student's image-to-text and text-to-image distributions over the batch from the
    teacher's, averaged, at one fixed temperature: learning without forgetting (Li & Hoiem 2016, arXiv:1606.09282) for a
    dual encoder, as in the contrastive relational distillation of Yang et al., *CLIP-KD*, arXiv:2307.12732; the cosine
    is their feature distillation. The targets are the teacher's alone and ignore the products.

    Args:
        weight: See `Term`.
        teacher: ``start``, or a run directory, hub id or local directory; see `Term`.
        similarities: Weight of the KL.
        image_features: Weight of 1 - cosine between the two models' image embeddings.
        text_features: The same for text embeddings.
        scale: Inverse temperature of both distributions; null: that of the teacher's weights, or else 1/0.07.
        tile: Maximum side of the tiles in which the similarities are computed.

    Raises:
        ModisteError: A weight is negative or all are 0, or the teacher is ``own``; in `bind`: ``image_features`` or
            ``text_features`` is set, but the teacher's embeddings have another size.

    >>> Distill(similarities=0.0)
    Traceback (most recent call last):
    modiste.errors.ModisteError: term.distill has no effect: set similarities, image_features or text_features.
    """

    def __init__(
        self,
        weight: NonNegative = 1.0,
        teacher: str = "start",
        similarities: NonNegative = 1.0,
        image_features: NonNegative = 0.0,
        text_features: NonNegative = 0.0,
        scale: Positive | None = None,
        tile: Count = 2048,
    ) -> None:
        super().__init__(weight, teacher)
        if min(similarities, image_features, text_features) < 0:
            raise ModisteError("term.distill: similarities, image_features and text_features must be at least 0.")
        if not (similarities or image_features or text_features):
            raise ModisteError("term.distill has no effect: set similarities, image_features or text_features.")
        if teacher == OWN:
            raise ModisteError("term.distill.teacher=own would have no effect: use start, or name a model or a run.")
        self.similarities, self.image_features, self.text_features = similarities, image_features, text_features
        self.scale, self.tile = scale, tile

    def bind(self, student: DualEncoder, teacher: Teacher | None, inputs: TrainingInputs | None = None) -> None:
        super().bind(student, teacher)
        assert teacher is not None
        if (self.image_features or self.text_features) and teacher.model.embed_dim != student.embed_dim:
            raise ModisteError(
                f"term.distill: the teacher's embeddings have {teacher.model.embed_dim} dimensions and the student's "
                f"{student.embed_dim}, so their features cannot be compared: set image_features and text_features to 0."
            )

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        assert self.model is not None
        value = image.new_zeros(())
        if self.similarities:
            images, texts = self.model.images(batch), self.model.texts(batch)
            fixed = self.scale or self.model.scale or 1 / 0.07
            kl = soft_infonce(image, text, fixed, images, texts, fixed, batch["product"], tile=self.tile)
            value = value + self.similarities * kl
        if self.image_features:
            value = value + self.image_features * (1 - (image * self.model.images(batch)).sum(1)).mean()
        if self.text_features:
            value = value + self.text_features * (1 - (text * self.model.texts(batch)).sum(1)).mean()
        return value
