"""Configuration of a dual encoder exported by modiste."""

from typing import Any

from transformers import PretrainedConfig


class ModisteConfig(PretrainedConfig):
    """Configuration of a timm image and a transformers text encoder, each with a linear projection.

    Attributes:
        image: ``architecture`` (timm's name), ``arguments`` of ``timm.create_model``, and ``dim``, its output size.
        text: The text encoder's configuration as a dictionary.
        pooling: ``mean`` or ``cls``.
        projection_dim: Dimension of the embeddings.
        logit_scale_init_value: Log of the inverse temperature.
        logit_bias: Logit bias of a sigmoid loss, or None.
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
