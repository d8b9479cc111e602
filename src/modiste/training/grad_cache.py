"""Gradient caching: the exact step of a large batch in the memory of a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modiste.errors import ModisteError
from modiste.losses.filip import TokenEmbeddings
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.finetune import parameters
from modiste.utils.ranges import Count


class GradCache:
    """Embed a batch in micro-batches, which the backward pass recomputes one by one.

    Gao et al., *Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup* (GradCache), arXiv:2101.06983.
    The first pass keeps no activations, the loss gets the embeddings of the whole batch, and the backward pass
    recomputes each micro-batch with the random state and autocast of the first pass (``torch.utils.checkpoint``).
    Parameter and temperature gradients are those of a plain step, from one backward pass, so DDP synchronises once.

    Dropout is sampled per micro-batch, and batch normalisation in training mode uses the statistics of the micro-batch,
    as with a batch of that size; each micro-batch updates the running statistics once. A frozen tower is embedded once,
    without a graph. Gradients need ``backward()``; ``torch.autograd.grad`` with respect to parameters fails.

    Args:
        micro_batch: Pairs per micro-batch in each process; null: the whole batch, a plain step.
        kept_micro_batches: Micro-batches per tower that keep their activations and are not recomputed, as many as fit
            in memory. The very last one always does: the backward pass begins with it.

    Raises:
        ModisteError: ``micro_batch`` < 1 or ``kept_micro_batches`` < 0.

    >>> GradCache(micro_batch=0)
    Traceback (most recent call last):
    modiste.errors.ModisteError: grad_cache.micro_batch=0 must be at least 1: null disables gradient caching.
    """

    def __init__(self, micro_batch: Count | None = None, kept_micro_batches: int = 0) -> None:
        if micro_batch is not None and micro_batch < 1:
            raise ModisteError(
                f"grad_cache.micro_batch={micro_batch} must be at least 1: null disables gradient caching."
            )
        if kept_micro_batches < 0:
            raise ModisteError(f"grad_cache.kept_micro_batches={kept_micro_batches} must be at least 0.")
        self.micro_batch, self.kept_micro_batches = micro_batch, kept_micro_batches

    def __call__(self, model: DualEncoder, pixels: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Image and text embeddings, (B, D) and (U, D), of pixels (B, 3, H, W) and tokens, each (U, L)."""
        size = self.micro_batch
        number = len(next(iter(tokens.values())))
        if size is None or size >= max(len(pixels), number):
            return model(pixels, tokens)
        order = length_order(tokens)
        texts = [{name: tensor[rows] for name, tensor in tokens.items()} for rows in order.split(size)]
        image_trains, text_trains = (tower_trains(model, tower) for tower in ("image", "text"))
        text = self._embed(model, model.encode_text, texts, text_trains, last=not image_trains)
        image = self._embed(model, model.encode_image, pixels.split(size), image_trains, last=True)
        return image, text[order.argsort()]

    def patches(self, model: DualEncoder, pixels: Tensor) -> Tensor:
        """Patch embeddings (B, h, w, D) of square pixels (B, 3, S, S) of any size, unit norm."""
        model = model.at_size(pixels.shape[-1])
        parts = pixels.split(self.micro_batch or len(pixels))
        return self._embed(model, model.encode_patches, parts, tower_trains(model, "image"), last=False)

    def tokens(self, model: DualEncoder, pixels: Tensor, tokens: Tokens) -> TokenEmbeddings:
        """Unit-norm embeddings of patches and tokens, for losses that compare them.

        Raises:
            ModisteError: The batch holds cached features, or the model has no patch or token embeddings.
        """
        if pixels.ndim != 4 or "attention_mask" not in tokens:
            raise ModisteError(
                "The loss compares patches with tokens, which cached features do not have: set features.cache=false."
            )
        size = self.micro_batch or len(pixels)
        parts = zip(*(tensor.split(size) for tensor in tokens.values()), strict=True)
        texts = [dict(zip(tokens, part, strict=True)) for part in parts]
        try:
            text = self._embed(model, model.encode_tokens, texts, tower_trains(model, "text"), last=False)
            return TokenEmbeddings(self.patches(model, pixels).flatten(1, 2), text, tokens["attention_mask"].bool())
        except NotImplementedError as error:
            raise ModisteError(f"This loss needs a model with patch and token embeddings: {error}.") from error

    def _embed(
        self, model: DualEncoder, encode: Callable[[Any], Tensor], parts: Sequence[Any], trains: bool, last: bool
    ) -> Tensor:
        """Embeddings of one tower; ``last``: no other trainable tower is embedded after it."""
        if not trains:
            with torch.no_grad():
                return torch.cat([encode(part) for part in parts])
        # The backward pass begins with the very last micro-batch: keeping its activations does not raise the peak.
        cached = len(parts) - self.kept_micro_batches - last
        again = checkpointed(model, encode)
        embeddings = []
        for index, part in enumerate(parts):
            if index >= cached and not in_group():
                torch.clear_autocast_cache()  # every micro-batch casts the weights itself, as recomputation does
            embeddings.append(again(part) if index < cached else encode(part))
        return torch.cat(embeddings)


def tower_trains(model: DualEncoder, tower: str) -> bool:
    """Whether a parameter of the ``tower``, "image" or "text", needs a gradient."""
    return any(parameter.requires_grad for parameter in parameters(model.layer_groups(tower)))


def checkpointed(model: DualEncoder, encode: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """``encode`` with checkpointing: the backward pass recomputes its activations.

    In a single process, each micro-batch has a nested backward pass (reentrant), and nothing is kept in between. DDP
    needs one backward pass: there the graph of all micro-batches is kept (non-reentrant), without its saved tensors.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), without_running_statistics(model)

    def by_itself(part: Any, _: Tensor) -> Tensor:
        second = torch.is_grad_enabled()
        with without_running_statistics(model) if second else nullcontext():
            return encode(part)

    if in_group():
        return lambda part: checkpoint(encode, part, use_reentrant=False, context_fn=contexts)
    anchor = torch.zeros((), requires_grad=True)  # one input must require a gradient
    return lambda part: checkpoint(by_itself, part, anchor, use_reentrant=True)


def in_group() -> bool:
    """Whether this process exchanges gradients with others, which needs a single backward pass."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def length_order(tokens: Tokens) -> Tensor:
    """Order (U,) in which texts of similar length share a micro-batch, to reduce padding.

    >>> length_order({"attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1]])}).tolist()
    [1, 0, 2]
    """
    if "attention_mask" in tokens:
        return tokens["attention_mask"].sum(1).argsort(stable=True)
    first = next(iter(tokens.values()))
    return torch.arange(len(first), device=first.device)


@contextmanager
def without_running_statistics(model: nn.Module) -> Iterator[None]:
    """Keep batch normalisation in training mode from updating its running statistics."""
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.training and layer.track_running_stats
    ]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        # Not track_running_stats=False: it saves fewer tensors, and recomputation must save as many as the first pass.
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, counted) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, counted
