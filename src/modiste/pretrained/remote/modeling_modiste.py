"""A dual encoder exported by modiste, as a transformers model."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from .configuration_modiste import ModisteConfig


@dataclass
class ModisteOutput(ModelOutput):
    """Logits and unit-norm embeddings of N images and M texts.

    Attributes:
        logits_per_image: (N, M).
        logits_per_text: (M, N).
        image_embeds: (N, D).
        text_embeds: (M, D).
    """

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None


class Tower(nn.Module):
    """Holds ``trunk``, to match the names in the state dict."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk


class ModisteModel(PreTrainedModel):
    """Dual encoder with the interface of CLIPModel."""

    config_class = ModisteConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"

    def __init__(self, config: ModisteConfig) -> None:
        super().__init__(config)
        image = config.image
        settings = dict(config.text)
        text = AutoConfig.for_model(settings.pop("model_type"), **settings)
        poolers = ("bert", "mpnet", "roberta", "xlm-roberta")
        pooler = {"add_pooling_layer": False} if text.model_type in poolers else {}
        self.image = Tower(timm.create_model(image["architecture"], num_classes=0, **image["arguments"]))
        self.text = Tower(AutoModel.from_config(text, **pooler))
        self.image_projection = nn.Linear(image["dim"], config.projection_dim, bias=False)
        self.text_projection = nn.Linear(text.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def get_image_features(self, pixel_values: torch.Tensor | None = None, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Features (B, D), not normalised, as ``pooler_output``."""
        return BaseModelOutputWithPooling(pooler_output=self.image_projection(self.image.trunk(pixel_values)))

    def get_text_features(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Features (B, D), not normalised, as ``pooler_output``."""
        if attention_mask is None:
            assert input_ids is not None
            attention_mask = torch.ones_like(input_ids)
        hidden = self.text.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.config.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.config.pooling == "last":
            places = torch.arange(hidden.shape[1], device=hidden.device)
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), (places * attention_mask).argmax(1)]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return BaseModelOutputWithPooling(pooler_output=self.text_projection(pooled))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> ModisteOutput | tuple[Any, ...]:
        """Return the scaled similarities of all images with all texts, and their embeddings."""
        image = self.get_image_features(pixel_values).pooler_output
        text = self.get_text_features(input_ids, attention_mask).pooler_output
        assert image is not None
        assert text is not None
        image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
        logits = image @ text.T * self.logit_scale.exp()
        if self.config.logit_bias is not None:
            logits = logits + self.config.logit_bias
        output = ModisteOutput(logits, logits.T, image, text)
        return output if return_dict else output.to_tuple()
