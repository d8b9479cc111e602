"""Fine-tuning modes of a tower: full, frozen, last layers, or low-rank adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.utils.ranges import Count

TOWERS = ("image", "text")
# peft adapts it as a whole; a second adapter on its output layer would get no gradient.
ATTENTION = nn.MultiheadAttention


@dataclass(frozen=True)
class Tuning:
    """Fine-tuning mode of one tower.

    Attributes:
        train: ``full``; ``frozen``; ``last_n`` (the last ``layers`` layer groups, including the projection); ``lora``
            (adapters, Hu et al. 2021, arXiv:2106.09685, on every linear layer and 1×1 convolution, and the whole
            projection).
        layers: Number of layer groups that ``last_n`` trains.
        rank: Rank of the adapters.
    """

    train: Literal["full", "frozen", "last_n", "lora"] = "full"
    layers: Count = 2
    rank: Count = 8

    def apply(self, model: DualEncoder, tower: str) -> None:
        """Set ``requires_grad`` of the tower's parameters; add the adapters of ``lora``.

        Raises:
            ModisteError: Unknown mode, or more layers than the tower has.
        """
        modes = {"full": self._full, "frozen": self._frozen, "last_n": self._last_n, "lora": self._lora}
        if self.train not in modes:
            raise ModisteError(f"tune.{tower}.train={self.train} is not known. {did_you_mean(self.train, modes)}")
        modes[self.train](model, tower)

    def _full(self, model: DualEncoder, tower: str) -> None:
        require_grad(model.layer_groups(tower), True)

    def _frozen(self, model: DualEncoder, tower: str) -> None:
        require_grad(model.layer_groups(tower), False)

    def _last_n(self, model: DualEncoder, tower: str) -> None:
        groups = model.layer_groups(tower)
        if not 1 <= self.layers <= len(groups):
            raise ModisteError(
                f"tune.{tower}.layers={self.layers} is out of range: the tower has {len(groups)} layer groups."
            )
        require_grad(groups[: -self.layers], False)
        require_grad(groups[-self.layers :], True)

    def _lora(self, model: DualEncoder, tower: str) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        groups = model.layer_groups(tower)
        head = {id(parameter) for parameter in parameters(groups[-1:])}
        body = {id(parameter) for parameter in parameters(groups[:-1])}
        modules = dict(model.named_modules())
        targets = [
            name
            for name, module in modules.items()
            if adaptable(module) and owned(module, body) and called(name, modules[name.rpartition(".")[0]])
        ]
        if not targets:
            raise ModisteError(f"tune.{tower}.train=lora found no linear layer to adapt: use last_n or full.")
        inject_adapter_in_model(LoraConfig(r=self.rank, lora_alpha=2 * self.rank, target_modules=targets), model)
        adapters = {id(p) for name, p in model.named_parameters() if ".lora_" in name and p.requires_grad}
        for parameter in model.parameters():
            if id(parameter) in body - adapters:
                parameter.requires_grad_(False)
            elif id(parameter) in head:
                parameter.requires_grad_(True)


def adaptable(module: nn.Module) -> bool:
    """Whether peft can put a low-rank adapter on ``module``."""
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    transposed = type(module).__name__ == "Conv1D"  # GPT-2's linear layer; transformers is not imported for its type
    return pointwise or transposed or isinstance(module, (nn.Linear, ATTENTION))


def called(name: str, parent: nn.Module) -> bool:
    """Whether ``parent`` calls the layer ``name``, instead of using its weight, which bypasses an adapter.

    `ATTENTION` uses the weight of its output layer, timm's EVA-02 and BEiT that of ``qkv`` if they keep its biases.
    """
    past = name.rpartition(".")[2] == "qkv" and getattr(parent, "q_bias", None) is not None
    return not past and not isinstance(parent, ATTENTION)


def owned(module: nn.Module, allowed: set[int]) -> bool:
    """Whether all direct parameters of the module are among ``allowed``."""
    own = [id(parameter) for parameter in module.parameters(recurse=False)]
    return bool(own) and all(parameter in allowed for parameter in own)


def parameters(groups: Sequence[Sequence[nn.Module | nn.Parameter]]) -> Iterator[nn.Parameter]:
    """Iterate over the parameters of layer groups."""
    for group in groups:
        for item in group:
            yield from [item] if isinstance(item, nn.Parameter) else item.parameters()


def require_grad(groups: Sequence[Sequence[nn.Module | nn.Parameter]], value: bool) -> None:
    """Set ``requires_grad`` of every parameter of ``groups``."""
    for parameter in parameters(groups):
        parameter.requires_grad_(value)


def freeze_rest(model: DualEncoder) -> None:
    """Freeze parameters in no layer group, such as an unused pooler: DDP would wait for their gradients."""
    grouped = {id(parameter) for tower in TOWERS for parameter in parameters(model.layer_groups(tower))}
    for parameter in model.parameters():
        if id(parameter) not in grouped:
            parameter.requires_grad_(False)


def rest_frozen(module: nn.Module) -> None:
    """Put frozen modules in evaluation mode: no dropout, and batch normalisation with stored statistics."""
    for child in module.children():
        own = list(child.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            child.eval()
        else:
            rest_frozen(child)


def fold_adapters(model: nn.Module) -> None:
    """Merge the adapters of ``lora`` into the weights, W + (α/r)·B·A, and remove them from ``model``.

    Outputs stay the same (up to rounding), with the names and shapes of a model without adapters.
    """
    if not any(".lora_" in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, without_adapter(module))


def without_adapter(layer: Any) -> nn.Module:
    """The layer that peft's ``layer`` adapts, with the adapter merged into its weights."""
    if hasattr(layer, "unload_and_optionally_merge_module"):  # attention, whose weights are not a separate layer
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    layer.merge()
    return layer.get_base_layer()
