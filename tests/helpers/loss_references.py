"""Slow, obvious full-matrix losses in the textbook's words, and batches to hold the tiled losses against."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.losses.base import ContrastiveLoss
from modiste.losses.matmul import Matmul


def clip_reference(image: Tensor, text: Tensor, scale: Tensor, product_id: Tensor | None) -> Tensor:
    """Cross-entropy against the uniform distribution over the pairs of one product, both ways, averaged."""
    logits = scale * image @ text.T
    ids = torch.arange(len(image)) if product_id is None else product_id
    same = (ids[:, None] == ids[None, :]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def siglip_reference(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, product_id: Tensor | None) -> Tensor:
    """SigLIP eq. 1 with every pair of one product labelled +1."""
    ids = torch.arange(len(image)) if product_id is None else product_id
    label = torch.where(ids[:, None] == ids[None, :], 1.0, -1.0)
    return -F.logsigmoid(label * (scale * image @ text.T + bias)).sum() / len(image)


def unit_pairs(n: int, dim: int = 8, seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Correlated unit-norm image and text embeddings (n, dim), float64."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    text = image + noise * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return F.normalize(image, dim=1), F.normalize(text, dim=1)


def twenty_steps(loss: ContrastiveLoss) -> list[float]:
    """The loss before each of 20 steps of SGD, of two linear towers that learn to pair two views of the same points."""
    torch.manual_seed(0)
    points = torch.randn(48, 12)
    towers = torch.nn.ModuleList([torch.nn.Linear(12, 8), torch.nn.Linear(12, 8)])
    optimizer = torch.optim.SGD([*towers.parameters(), *loss.parameters()], lr=0.1)
    values = []
    for _ in range(20):
        value = loss(*(F.normalize(tower(points), dim=1) for tower in towers), torch.arange(48) // 2)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        loss.clamp()
        values.append(value.item())
    return values


def product_ids(n: int, products: int, seed: int = 0) -> Tensor:
    """Ids (n,) of ``products`` products, arbitrary large integers, in no order."""
    return torch.randint(products, (n,), generator=torch.Generator().manual_seed(seed)) * 1_000_003 - 7


def value_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """``function``'s value and its gradient with respect to each input."""
    inputs = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    value = function(*inputs)
    return [value.detach(), *torch.autograd.grad(value, inputs)]


def rounded(a: Tensor) -> Tensor:
    """The nearest bfloat16 numbers, in float32."""
    return a.bfloat16().float()


# What a bf16 unit does, on any machine: inputs are rounded, their products are exact, accumulation is in fp32.
# What is added to a gradient is rounded once more.
UNIT = Matmul(
    lambda a, b, out: torch.mm(rounded(a), rounded(b), out=out),
    lambda c, a, b: c.add_(rounded(torch.mm(rounded(a), rounded(b)))),
    torch.bfloat16,
)
