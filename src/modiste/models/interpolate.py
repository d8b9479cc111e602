"""Linear interpolation between the weights of two models of the same architecture, and its checks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from modiste.errors import ModisteError

REMEDY = "Only runs with the same model, image and text, or a model and its fine-tuned version, can be merged."


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Interpolate two state dicts, (1 − alpha)·first + alpha·second (WiSE-FT).

    Wortsman et al. 2022, arXiv:2109.01903, eq. 1. Floating-point parameters and buffers are interpolated in float64 and
    rounded once to their dtype. Running statistics of batch normalisation are then only estimates, as no data is seen.
    Integer and boolean tensors (counters, position ids) are copied from the nearer side, the second at alpha = 1/2. At
    alpha 0 and 1 the result is a copy of that side, bit for bit.

    Args:
        first: State dict of the first model, the pretrained one in the paper.
        second: State dict of the second model, the fine-tuned one in the paper.
        alpha: Fraction of ``second``, in [0, 1].

    Returns:
        A new state dict, in the order of ``first``.

    Raises:
        ModisteError: alpha is outside [0, 1], or names, shapes or dtypes differ.

    >>> import torch
    >>> a, b = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([1.0, 8.0])}
    >>> interpolate(a, b, 0.25)["w"].tolist()
    [0.25, 5.0]
    """
    check_alpha(alpha)
    check_same(first, second)
    if alpha in (0, 1):  # not by arithmetic, which turns -0.0 into 0.0
        return {name: (second if alpha else first)[name].detach().clone() for name in first}
    return {name: _between(tensor, second[name], alpha) for name, tensor in first.items()}


def _between(first: Tensor, second: Tensor, alpha: float) -> Tensor:
    if not first.is_floating_point():
        return (first if alpha < 0.5 else second).detach().clone()
    return ((1 - alpha) * first.detach().double() + alpha * second.detach().double()).to(first.dtype)


def check_alpha(alpha: float) -> None:
    """Raise ModisteError if ``alpha`` is outside [0, 1].

    >>> check_alpha(1.5)
    Traceback (most recent call last):
    modiste.errors.ModisteError: alpha=1.5 is outside [0, 1]: 0 is the first model, 1 the second.
    """
    if not 0 <= alpha <= 1:
        raise ModisteError(f"alpha={alpha:g} is outside [0, 1]: 0 is the first model, 1 the second.")


def check_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Raise ModisteError with the first difference in names, shapes or dtypes of two state dicts.

    >>> import torch
    >>> check_same({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
    Traceback (most recent call last):
    modiste.errors.ModisteError: The two models differ in architecture: 'w' is float32 (2,) in the first and float32 ...
    """
    for name in [*first, *(name for name in second if name not in first)]:
        one, other = (_described(side.get(name)) for side in (first, second))
        if one != other:
            raise ModisteError(
                f"The two models differ in architecture: '{name}' is {one} in the first and {other} in the second. "
                f"{REMEDY}"
            )


def _described(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def check_architecture(first: nn.Module, second: nn.Module) -> None:
    """Raise ModisteError if two models differ in architecture.

    Weights alone do not distinguish QuickGELU from GELU, so the modules' ``repr`` is compared, too; the rate of
    dropout, which only training uses, may differ.

    >>> check_architecture(nn.Sequential(nn.ReLU()), nn.Sequential(nn.GELU()))
    Traceback (most recent call last):
    modiste.errors.ModisteError: The two models differ in architecture: '(0): ReLU()' in the first is '(0): GELU(...
    """
    check_same(first.state_dict(), second.state_dict())
    lines = [re.sub(r"(Drop\w*\([a-z_]*=)[\d.e-]+", r"\1…", repr(model)).splitlines() for model in (first, second)]
    for one, other in zip(*lines, strict=False):
        if one != other:
            raise ModisteError(
                f"The two models differ in architecture: '{one.strip()}' in the first is '{other.strip()}' in the "
                f"second. {REMEDY}"
            )
