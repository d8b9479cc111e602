"""Configuration of a dual encoder that modiste exported."""

from typing import Any

from transformers import PretrainedConfig


class ModisteConfig(PretrainedConfig):
    """A timm image encoder and a text encoder of transformers, each with a linear projection.

    Attributes:
        image: ``{"architecture": timm's name, "arguments": of timm.create_model, "dim": features}``.
        text: The text encoder's configuration as a dictionary.
        pooling: ``mean`` or ``cls``.
        projection_dim: Size of the shared space.
        logit_scale_init_value: log of the inverse temperature.
        logit_bias: Of a sigmoid loss, or None.
    """

    model_type = "modiste"

    def __init__(
        self,
        image: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        pooling: str = "mean",
        projection_dim: int = 256,
        logit_scale_init_value: float = 2.6592,
        logit_bias: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.image = image or {}
        self.text = text or {}
        self.pooling = pooling
        self.projection_dim = projection_dim
        self.logit_scale_init_value = logit_scale_init_value
        self.logit_bias = logit_bias
        super().__init__(**kwargs)
