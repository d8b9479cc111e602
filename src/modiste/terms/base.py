"""Base class of terms added to the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from modiste.data.catalogue import Catalogue
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder
from modiste.terms.teacher import Teacher


@dataclass(frozen=True)
class TrainingInputs:
    """Input from the training run for a term with its own data.

    Attributes:
        catalogue: The rows that train.
        seed: Of the run.
        encode_patches: Pixels (B, 3, S, S) to `DualEncoder.encode_patches`, with gradients as training embeds a batch.
        cache: `modiste.training.feature_cache.FeatureCache`; None: features are not cached.
    """

    catalogue: Catalogue
    seed: int
    encode_patches: Callable[[Tensor], Tensor]
    cache: Any = None


class Term:
    """Base class of terms: adds ``weight`` · value to the loss and logs value as ``train/<term>``.

    A subclass implements `__call__`. A term sees the embeddings of the whole batch of a process, whether gradient
    caching made them or not, and has no parameters.

    Args:
        weight: Of the term in the loss that is minimised.
        teacher: ``start``: the model as it was before training. ``own``: the model itself, where a term allows it. Else
            a run directory, hub id or local directory of a model.

    Attributes:
        trains_patches: Whether the term trains `TwoTower.patch_head`.

    Raises:
        ModisteError: ``weight`` is negative.
    """

    model: Teacher | None = None
    trains_patches = False

    def __init__(self, weight: float, teacher: str) -> None:
        if weight < 0:
            raise ModisteError(f"weight={weight} of a term must be at least 0.")
        self.weight, self.teacher = weight, teacher

    def prepare(self, student: DualEncoder, inputs: TrainingInputs) -> None:
        """Take what the term needs for its own data, before `begin`; by default a no-op.

        Raises:
            ModisteError: The term cannot work with this model or these data.
        """

    def begin(self, student: DualEncoder, teacher: Teacher | None) -> None:
        """Take the teacher, before the first step. None: ``own``.

        Raises:
            ModisteError: The term cannot work with this pair of models.
        """
        self.model = teacher

    def __call__(self, image: Tensor, text: Tensor, batch: Mapping[str, Any], scale: Tensor | None) -> Tensor:
        """The term's value, ().

        Args:
            image: The student's unit-norm image embeddings (B, D).
            text: The student's unit-norm text embeddings (B, D).
            batch: The batch: pixels, tokens, product (B,), texts.
            scale: The contrastive loss's inverse temperature, (); None where it has none.
        """
        raise NotImplementedError
