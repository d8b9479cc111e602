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
    """Inputs from the training run for a term with its own data.

    Attributes:
        catalogue: The training rows.
        seed: Seed of the run.
        encode_patches: `DualEncoder.encode_patches` of pixels (B, 3, S, S), with gradients and gradient caching.
        cache: `modiste.training.feature_cache.FeatureCache`; None: features are not cached.
    """

    catalogue: Catalogue
    seed: int
    encode_patches: Callable[[Tensor], Tensor]
    cache: Any = None


class Term:
    """Base class of terms: adds ``weight`` · value to the loss and logs value as ``train/<term>``.

    A subclass implements `__call__`. A term gets the embeddings of a process's whole batch, with or without gradient
    caching, and has no parameters.

    Args:
        weight: Weight of the term in the total loss.
        teacher: ``start``: the model before training. ``own``: the model itself, if the term allows it. Otherwise a run
            directory, hub id or local directory of a model.

    Attributes:
        trains_patches: Whether the term trains `TwoTower.patch_head`.
        epoch: Current epoch, from 0; training sets it.

    Raises:
        ModisteError: ``weight`` is negative.
    """

    model: Teacher | None = None
    trains_patches = False
    epoch = 0

    def __init__(self, weight: float, teacher: str) -> None:
        if weight < 0:
            raise ModisteError(f"weight={weight} of a term must be at least 0.")
        self.weight, self.teacher = weight, teacher

    def bind(self, student: DualEncoder, teacher: Teacher | None, inputs: TrainingInputs | None = None) -> None:
        """Bind the term to a training run, before the first step.

        Args:
            student: The model to train.
            teacher: The term's teacher; None: ``own``.
            inputs: Training rows and caches; None: training streams its rows.

        Raises:
            ModisteError: The term cannot work with these models or these data.
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
