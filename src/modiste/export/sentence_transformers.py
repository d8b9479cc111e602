"""sentence-transformers ≥ 6: a Router with a text and an image route, then Normalize.

The folder has no custom code.

Layout: https://sbert.net/docs/package_reference/sentence_transformer/modules.html. The image route is transformers'
timm wrapper. Its modality and output must be named, since the default is ``last_hidden_state``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from modiste.export import transformers
from modiste.export.towers import DTYPES, max_length, padding_processor, save_tokenizer, timm_data, two_tower
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.pretrained.transformers import TransformersDualEncoder

if TYPE_CHECKING:
    from modiste.models.dual_encoder import TwoTower

PRECISIONS = ("fp32", "bf16")
REMEDY = "Train with image.resize=shortest or squash, or accept it with min_cosine."
FEATURES = "sentence_embedding"


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write the folder with sentence-transformers itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    with tempfile.TemporaryDirectory() as parts:
        encoder = _whole(model, Path(parts)) if isinstance(model, TransformersDualEncoder) else _router(model, parts)
        wrapped = SentenceTransformer(modules=[encoder, Normalize()], device="cpu", similarity_fn_name="cosine")
        wrapped.to(DTYPES[job.precision]).save_pretrained(str(folder), create_model_card=False)
    if getattr(model.tokenizer, "lower", False):
        # The model's own tokenizer class builds its normaliser without the lower-casing in tokenizer.json.
        transformers.update_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    for file in folder.glob("**/sentence_bert_config.json"):
        _exact_pixels(file)
        transformers.update_json(file.with_name("config.json"), transformers.IN_FLOAT32)


def _whole(model: TransformersDualEncoder, parts: Path) -> Any:
    from sentence_transformers.sentence_transformer.modules import Transformer

    transformers.save_published(model, parts, "fp32")
    tokenizer: Any = model.tokenizer
    fixed = {"padding": "max_length", "max_length": tokenizer.max_length, "return_attention_mask": False}
    texts = fixed if tokenizer.fixed else {}
    return Transformer(
        str(parts),
        processor_kwargs={"backend": "pil"},
        processing_kwargs={"text": texts},
        do_lower_case=tokenizer.lower,
    )


def _router(model: Any, parts: str) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer

    model = two_tower(model, "sentence_transformers")
    image, text = Path(parts, "image"), Path(parts, "text")
    text.mkdir()
    save_tokenizer(model, text, "sentence_transformers")
    model.text.trunk.save_pretrained(text)
    save_image(model, image)
    modality = {"image": {"method": "forward", "method_output_name": "pooler_output"}}
    images = Transformer(
        str(image), modality_config=modality, module_output_name=FEATURES, processor_kwargs={"backend": "pil"}
    )
    texts = Transformer(str(text), max_seq_length=max_length(model))
    pooling = {"last": "lasttoken"}.get(model.text.pooling, model.text.pooling)
    routes = {
        "text": [texts, Pooling(model.text.dim, pooling), _dense(model.text_projection)],
        "image": [images, _dense(model.image_projection)],
    }
    return Router(routes, route_mappings={(None, "text"): "text", (None, "image"): "image"})


def _dense(projection: nn.Linear) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    dense = Dense(projection.in_features, projection.out_features, bias=False, activation_function=nn.Identity())
    dense.linear.weight.data.copy_(projection.weight.data)
    return dense


def save_image(model: TwoTower, folder: Path) -> None:
    """Save the image trunk in transformers' timm wrapper, with its preprocessing."""
    from transformers import TimmWrapperConfig, TimmWrapperModel

    encoder = model.image
    wrapper_config: Any = TimmWrapperConfig
    config = wrapper_config(
        architecture=encoder.architecture, do_pooling=True, num_classes=0, pretrained_cfg=timm_data(model.preprocess),
        model_args=encoder.arguments,
    )  # fmt: skip
    processor = padding_processor(model.preprocess)
    if processor:
        config.image_processor_type = processor["image_processor_type"]
    wrapper: Any = TimmWrapperModel(config)
    wrapper.timm_model.load_state_dict(encoder.trunk.state_dict())
    wrapper.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))


def _exact_pixels(file: Path) -> None:
    """Make an image processor always use PIL, as the model's own preprocessing does."""
    if any(file.parent.glob("*processor_config.json")):
        settings = json.loads(file.read_text())
        settings["processor_kwargs"] = {**settings.get("processor_kwargs", {}), "backend": "pil"}
        file.write_text(json.dumps(settings, indent=2))


def read(folder: Path) -> Reader:
    """Load with ``SentenceTransformer(folder)``."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(str(folder), device="cpu")

    def images(images: Sequence[Image.Image]) -> torch.Tensor:
        return loaded.encode(
            [image.convert("RGB") for image in images], convert_to_tensor=True, show_progress_bar=False
        ).float()

    def texts(texts: Sequence[str]) -> torch.Tensor:
        return loaded.encode(list(texts), convert_to_tensor=True, show_progress_bar=False).float()

    return Reader(images, texts)
