"""transformers: published families as their own class, two-tower models as one of ours.

Two-tower models load with remote code, or after `register`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.export.towers import cast, common_steps, logit_scale, max_length, save_tokenizer, two_tower
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.models.preprocess import Preprocess
from modiste.pretrained import remote
from modiste.pretrained.transformers import TransformersDualEncoder
from modiste.texts.hf import drop_code

if TYPE_CHECKING:
    from modiste.models.dual_encoder import TwoTower

PRECISIONS = ("fp32", "bf16")
REMEDY = "Use another format, or accept it with min_cosine."
MODEL = "modeling_modiste.ModisteModel"
CONFIG = "configuration_modiste.ModisteConfig"
PROCESSOR = "processing_modiste.ModisteProcessor"
IMAGES = "image_processing_modiste.ModisteImageProcessor"
# Load in float32 whatever the dtype on disk: image processors return float32.
IN_FLOAT32 = {"dtype": "float32"}


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write configuration, weights, tokenizer and preprocessing.

    Where it is needed, also the code of `modiste.pretrained.remote`.
    """
    if isinstance(model, TransformersDualEncoder):
        save_published(model, folder, job.precision)
        return
    towers: Any = two_tower(model, "transformers")
    save_tokenizer(model, folder, "transformers")
    for file in Path(str(remote.__file__)).parent.glob("*_modiste.py"):
        shutil.copy(file, folder / file.name)
    code = {"AutoProcessor": PROCESSOR, "AutoImageProcessor": IMAGES}
    config = {
        "model_type": "modiste",
        "architectures": ["ModisteModel"],
        "auto_map": {
            "AutoConfig": CONFIG, "AutoModel": MODEL, "AutoModelForZeroShotImageClassification": MODEL, **code
        },
        "image": {
            "architecture": towers.image.architecture, "arguments": towers.image.arguments, "dim": towers.image.dim
        },
        "text": text_config(towers),
        "pooling": towers.text.pooling,
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": float(logit_scale(model)),
        "logit_bias": model.initial_bias,
        **IN_FLOAT32,
    }  # fmt: skip
    images = {"image_processor_type": "ModisteImageProcessor", "processor_class": "ModisteProcessor"}
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", images | {"auto_map": code} | model.preprocess.describe())
    limit(folder / "tokenizer_config.json", max_length(model), {"processor_class": "ModisteProcessor"})
    state = {**model.state_dict(), "logit_scale": logit_scale(model)}
    save_file(cast(state, job.precision), folder / "model.safetensors", metadata={"format": "pt"})


def text_config(model: TwoTower) -> dict[str, Any]:
    """Return the text trunk's configuration without its provenance."""
    plain = json.loads(json.dumps(model.text.trunk.config.to_dict(), default=str))
    return {name: v for name, v in plain.items() if not name.startswith("_") and name != "transformers_version"}


def limit(file: Path, length: int, more: dict[str, Any] | None = None) -> None:
    """Make a saved tokenizer truncate at ``length`` tokens."""
    update_json(file, {"model_max_length": length} | (more or {}))


def update_json(file: Path, values: dict[str, Any]) -> None:
    """Set keys of a JSON file."""
    write_json(file, json.loads(file.read_text("utf-8")) | values)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def save_published(model: TransformersDualEncoder, folder: Path, precision: str) -> None:
    """Save a transformers model with its own class, and with the trained logit scale and bias."""
    own: Any = model.model
    if getattr(own, "logit_scale", None) is not None and model.initial_scale:
        own.logit_scale.data.copy_(logit_scale(model))
    if getattr(own, "logit_bias", None) is not None and model.initial_bias is not None:
        own.logit_bias.data.fill_(model.initial_bias)
    own = own.to(torch.bfloat16) if precision == "bf16" else own
    drop_code(own.config)
    own.save_pretrained(folder)
    update_json(folder / "config.json", IN_FLOAT32)
    tokenizer: Any = model.tokenizer
    drop_code(tokenizer.tokenizer).save_pretrained(folder)
    limit(folder / "tokenizer_config.json", tokenizer.max_length)
    write_json(folder / "preprocessor_config.json", image_processor(model.preprocess, own.config.model_type))


def image_processor(preprocess: Preprocess, model_type: str) -> dict[str, Any]:
    """Convert the transform to the settings of CLIP's or SigLIP's image processor.

    The inverse of ``preprocess_of``.
    """
    size = preprocess.size
    common = common_steps(preprocess)
    if preprocess.resize == "squash":
        kind = "SiglipImageProcessor" if model_type.startswith("siglip") else "ViTImageProcessor"
        return {"image_processor_type": kind, "size": {"height": size, "width": size}, **common}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "size": {"shortest_edge": int(size / preprocess.crop_pct)},
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        **common,
    }


def register() -> None:
    """Register the classes with transformers' Auto classes, so that ``trust_remote_code`` is not needed."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor

    from modiste.pretrained.remote.configuration_modiste import ModisteConfig
    from modiste.pretrained.remote.image_processing_modiste import ModisteImageProcessor
    from modiste.pretrained.remote.modeling_modiste import ModisteModel
    from modiste.pretrained.remote.processing_modiste import ModisteProcessor

    AutoConfig.register("modiste", ModisteConfig, exist_ok=True)
    AutoModel.register(ModisteConfig, ModisteModel, exist_ok=True)
    AutoImageProcessor.register(ModisteConfig, image_processor_classes={"pil": ModisteImageProcessor}, exist_ok=True)
    AutoProcessor.register(ModisteConfig, ModisteProcessor, exist_ok=True)


def read(folder: Path) -> Reader:
    """Load with ``AutoModel``, its processor and tokenizer.

    No code runs but Modiste's own, which `write` copied.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    source = Path(str(remote.__file__)).parent
    for file in folder.rglob("*.py"):
        ours = source / file.name
        if not ours.is_file() or file.read_bytes() != ours.read_bytes():
            raise ModisteError(f"'{file}' is code that Modiste did not write: choose another out=DIR.")
    own = {"trust_remote_code": (folder / "modeling_modiste.py").is_file()}
    model = AutoModel.from_pretrained(folder, **own).eval()
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **own)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    siglip = model.config.model_type.startswith("siglip")

    def images(images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
        return F.normalize(model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)

    def texts(texts: Sequence[str]) -> torch.Tensor:
        padding = "max_length" if siglip else True
        words = [text.lower() for text in texts] if siglip else list(texts)
        tokens = tokenizer(words, padding=padding, truncation=True, return_tensors="pt")
        names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        features = model.get_text_features(**{name: tokens[name] for name in names}).pooler_output
        return F.normalize(features.float(), dim=-1)

    return Reader(images, texts)
