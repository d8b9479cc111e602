"""Processor of images and texts for a dual encoder exported by modiste."""

from typing import Any

from transformers import ProcessorMixin
from transformers.tokenization_utils_base import BatchEncoding


class ModisteProcessor(ProcessorMixin):
    """Processor with CLIPProcessor's interface: ``processor(text=[…], images=[…], return_tensors="pt")``."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer)

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        return_tensors: str | None = None,
        padding: bool | str = True,
        truncation: bool = True,
        **kwargs: Any,
    ) -> BatchEncoding:
        """Return ``input_ids`` and ``attention_mask`` of ``text``, and ``pixel_values`` of ``images``."""
        data: dict[str, Any] = {}
        if text is not None:
            tokens = self.tokenizer(text, padding=padding, truncation=truncation, return_tensors=return_tensors)
            data |= {name: tokens[name] for name in ("input_ids", "attention_mask")}
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        return BatchEncoding(data, tensor_type=return_tensors)
