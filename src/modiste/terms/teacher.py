"""Frozen models whose embeddings of a batch a term compares with the student's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens

START = "start"
OWN = "own"


class Teacher:
    """Frozen model in evaluation mode; each tower runs at most once per batch, without gradients.

    It is not a submodule of the trained module: checkpoints, the optimizer and weight averages exclude it.

    Args:
        model: The model, which is frozen here.
        same_inputs: True: it takes the student's pixels and tokens, as an earlier state of the student. False: it
            tokenises the texts itself, and pixels are resized to its input size.
        micro_batch: Pairs per forward pass; None: the whole batch.

    Attributes:
        scale: exp(logit scale) of its weights, or None.
    """

    def __init__(self, model: DualEncoder, same_inputs: bool, micro_batch: int | None = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.same_inputs, self.micro_batch = same_inputs, micro_batch
        self.scale = model.initial_scale
        self._batch: Any = None
        self._known: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self  # weight averaging copies the trained module; a second frozen copy would waste memory

    def images(self, batch: Mapping[str, Any]) -> Tensor:
        """Unit-norm embeddings (B, E) of a batch's images."""
        return self._once("image", batch, lambda: self._run(self.model.encode_image, self._pixels(batch["pixels"])))

    def texts(self, batch: Mapping[str, Any]) -> Tensor:
        """Unit-norm embeddings (B, E) of a batch's texts."""
        return self._once("text", batch, lambda: self._run(self.model.encode_text, self._tokens(batch)))

    def _once(self, tower: str, batch: Mapping[str, Any], compute: Callable[[], Tensor]) -> Tensor:
        if batch is not self._batch:
            self._batch, self._known = batch, {}
        if tower not in self._known:
            self._known[tower] = compute()
        return self._known[tower]

    @torch.no_grad()
    def _run(self, encode: Callable[[Any], Tensor], inputs: Any) -> Tensor:
        tensors = inputs if isinstance(inputs, Mapping) else {"": inputs}
        first = next(iter(tensors.values()))
        self.model.to(first.device)
        size = self.micro_batch or len(first)
        parts = zip(*(tensor.split(size) for tensor in tensors.values()), strict=True)
        if isinstance(inputs, Mapping):
            return torch.cat([encode(dict(zip(tensors, part, strict=True))) for part in parts])
        return torch.cat([encode(part[0]) for part in parts])

    def _pixels(self, pixels: Tensor) -> Tensor:
        if self.same_inputs:
            return pixels
        if pixels.ndim != 4:
            raise ModisteError(
                "A teacher other than the initial weights needs pixels, not cached features: set features.cache=false."
            )
        side = self.model.preprocess.size
        if pixels.shape[-2:] == (side, side):
            return pixels
        resized = F.interpolate(pixels.float(), (side, side), mode="bicubic", antialias=True)
        return resized.round().clamp(0, 255).to(torch.uint8)

    def _tokens(self, batch: Mapping[str, Any]) -> Tokens:
        if self.same_inputs:
            return batch["tokens"]
        return {
            name: tensor.to(batch["pixels"].device) for name, tensor in self.model.tokenizer(batch["texts"]).items()
        }
