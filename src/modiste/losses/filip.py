"""Token-wise late interaction (FILIP): each patch with its best token, each token with its best patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from modiste.errors import ModisteError
from modiste.losses import gather
from modiste.losses.base import ContrastiveLoss, LogitScale
from modiste.utils.ranges import Count, NonNegative, Positive

Similarity = Callable[[Tensor, Tensor, Tensor], Tensor]


class TokenEmbeddings(NamedTuple):
    """Unit-norm embeddings of patches and text tokens.

    Attributes:
        image: Patch embeddings (B, N, D).
        text: Token embeddings (B, L, D).
        mask: False for padding (B, L), bool; each text has at least one token.
    """

    image: Tensor
    text: Tensor
    mask: Tensor


class FilipLoss(LogitScale, ContrastiveLoss):
    """InfoNCE of patch–token late interaction, plus ``global_weight`` times that of global embeddings.

    Yao et al., *FILIP: Fine-grained Interactive Language-Image Pre-Training*, arXiv:2111.07783, eq. 4 and 5: the
    similarity of an image to a text is the mean over its patches of each one's largest cosine with a token, that of a
    text to an image the mean over its tokens of each one's largest cosine with a patch; padding is excluded. FILIP has
    no global embedding; the second summand trains the one that retrieval uses. Targets are uniform over the pairs of a
    product, as in `ClipLoss`.

    Training embeds patches and tokens in separate passes, so a step costs about twice that of `ClipLoss`.

    Args:
        init_scale: See `LogitScale`; both summands share it; 1/0.07 by default.
        max_scale: See `LogitScale`.
        global_weight: Weight of the InfoNCE of global embeddings.
        tile: Images per tile of similarities; tiles are recomputed in the backward pass.

    Raises:
        ModisteError: See `LogitScale`; ``global_weight`` < 0 or ``tile`` < 1.

    With a single patch and a single token, it is CLIP's loss:

    >>> from modiste.losses.clip import ClipLoss
    >>> image, text = torch.tensor([[0.6, 0.8], [0.8, 0.6]]), torch.eye(2)
    >>> tokens = TokenEmbeddings(image[:, None], text[:, None], torch.ones(2, 1, dtype=torch.bool))
    >>> loss = FilipLoss(global_weight=0.0)
    >>> torch.allclose(loss(image, text, tokens=tokens), ClipLoss()(image, text))
    True
    """

    needs_tokens = True

    def __init__(
        self,
        init_scale: Positive | None = None,
        max_scale: Positive = 100.0,
        global_weight: NonNegative = 1.0,
        tile: Count = 32,
    ) -> None:
        super().__init__(1 / 0.07, init_scale, max_scale)
        if global_weight < 0 or tile < 1:
            raise ModisteError("loss.global_weight must be at least 0, and loss.tile at least 1.")
        self.global_weight, self.tile = global_weight, tile

    def forward(
        self, image: Tensor, text: Tensor, product_id: Tensor | None = None, tokens: TokenEmbeddings | None = None
    ) -> Tensor:
        """Loss of a batch of pairs, exact on several processes.

        Args:
            image: Unit-norm global image embeddings (B, D).
            text: Unit-norm global text embeddings (B, D).
            product_id: Product of each pair (B,), int64; None: every pair is a separate product.
            tokens: Embeddings of patches and tokens; None, as in validation: only the InfoNCE of global embeddings,
                with weight 1.

        Returns:
            Scalar.

        Raises:
            ValueError: The shapes do not match.
            ModisteError: The processes hold batches of different sizes.
        """
        gather.check_shapes(image, text)
        mine = gather.checked_products(image, product_id)
        products = gather.all_gather(mine)
        value = image.new_zeros(())
        if tokens is None or self.global_weight:
            images, texts = gather.all_gather_with_grad(image), gather.all_gather_with_grad(text)
            weight = 1.0 if tokens is None else self.global_weight
            value = value + weight * self._infonce(image @ texts.T, text @ images.T, mine, products)
        if tokens is not None:
            value = value + self._infonce(*self._late(tokens), mine, products)
        return value

    def _infonce(self, of_images: Tensor, of_texts: Tensor, mine: Tensor, products: Tensor) -> Tensor:
        """Mean of both cross-entropies of this process's rows (n, B)."""
        positive = (mine[:, None] == products).to(of_images.dtype)
        target = positive / positive.sum(1, keepdim=True)
        return (F.cross_entropy(self.scale * of_images, target) + F.cross_entropy(self.scale * of_texts, target)) / 2

    def _late(self, tokens: TokenEmbeddings) -> tuple[Tensor, Tensor]:
        """Similarities of this process's images to all texts (n, B), and of its texts to all images (n, B)."""
        image, text, mask = tokens
        longest = int(gather.all_reduce_max(torch.tensor(text.shape[1], device=text.device)))
        missing = longest - text.shape[1]
        text, mask = F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        images, texts = gather.all_gather_with_grad(image), gather.all_gather_with_grad(text)
        masks = gather.all_gather(mask.to(torch.uint8)).bool()
        to_texts = [self._tiled(patches_to_tokens, part, texts, masks) for part in image.split(self.tile)]
        to_images = [self._tiled(tokens_to_patches, part, text, mask) for part in images.split(self.tile)]
        return torch.cat(to_texts), torch.cat(to_images).T

    @staticmethod
    def _tiled(similarity: Similarity, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        tile: Any = checkpoint(similarity, image, text, mask, use_reentrant=False)
        return tile


def patches_to_tokens(image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Mean over patches (I, N, D) of the largest cosine with a token (B, L, D) in ``mask``, (I, B)."""
    cosines = torch.einsum("ind,bld->ibnl", image, text)
    return cosines.masked_fill(~mask[None, :, None, :], -torch.inf).amax(3).mean(2)


def tokens_to_patches(image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens (B, L, D) in ``mask`` of the largest cosine with a patch (I, N, D), (I, B)."""
    largest = torch.einsum("ind,bld->ibnl", image, text).amax(2)
    return (largest * mask).sum(2) / mask.sum(1)
