"""open_clip: a folder for ``local-dir:`` or the hub, with configuration, weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.export.towers import cast, logit_scale, max_length, save_tokenizer, two_tower
from modiste.export.writing import Job, Reader
from modiste.models.dual_encoder import DualEncoder
from modiste.models.preprocess import Preprocess
from modiste.pretrained.openclip import DIRECTORY_PREFIX, OpenClipDualEncoder, quiet
from modiste.pretrained.source import explained
from modiste.texts.hf import drop_code

if TYPE_CHECKING:
    from modiste.models.dual_encoder import TwoTower

PRECISIONS = ("fp32", "bf16")
REMEDY = "open_clip knows no crop_pct: train with image.crop_pct=1, image.resize=squash or pad, or lower min_cosine."
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# Text encoders whose width open_clip can determine.
TEXT_TYPES = ("bert", "roberta", "xlm-roberta")
POOLERS = {"mean": "mean_pooler", "cls": "cls_lasthidden_pooler"}
HARMLESS = ("drop_rate", "drop_path_rate", "patch_drop_rate")


def write(model: DualEncoder, folder: Path, job: Job) -> None:
    """Write configuration, weights and tokenizer."""
    if isinstance(model, OpenClipDualEncoder):
        config, state = _published(model, folder)
    else:
        config, state = _two_tower(two_tower(model, "open_clip"), folder)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(cast(state, job.precision), folder / WEIGHTS)


def _two_tower(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    save_tokenizer(model, folder, "open_clip")
    check(model)
    if model.text.pooling not in POOLERS:
        raise ModisteError(
            f"open_clip has no pooling '{model.text.pooling}': choose format=sentence_transformers or transformers."
        )
    trunk, tokenizer = model.text.trunk, model.tokenizer.tokenizer
    settings = trunk.config.to_dict()
    settings["pad_token_id"] = tokenizer.pad_token_id  # open_clip derives the attention mask from it
    (folder / "config.json").write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")
    preprocess = model.preprocess
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_model_pretrained": False,
        "hf_proj_type": "linear",
        "hf_pooler_type": POOLERS[model.text.pooling],
        "context_length": max_length(model),
        "vocab_size": trunk.config.vocab_size,
    }
    vision = {
        "timm_model_name": model.image.architecture,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": preprocess.size,
    }
    config: dict[str, Any] = {"embed_dim": model.embed_dim, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    prefixes = {
        "visual.trunk.": model.image.trunk,
        "visual.head.proj.": model.image_projection,
        "text.transformer.": trunk,
        "text.proj.": model.text_projection,
    }
    state = {f"{prefix}{name}": t for prefix, part in prefixes.items() for name, t in part.state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith("text.transformer.pooler.")}
    state["logit_scale"] = logit_scale(model)
    if model.initial_bias is not None:
        config["init_logit_bias"] = model.initial_bias
        state["logit_bias"] = torch.tensor(model.initial_bias)
    return {"model_cfg": config, "preprocess_cfg": preprocess_cfg(preprocess)}, state


def check(model: TwoTower) -> None:
    """Raise ModisteError for towers that open_clip's configuration cannot describe."""
    kind = model.text.trunk.config.model_type
    if kind not in TEXT_TYPES:
        raise ModisteError(
            f"format=open_clip supports text encoders of {', '.join(TEXT_TYPES)}, not {kind}: use another format."
        )
    arguments = {name: value for name, value in model.image.arguments.items() if name not in HARMLESS}
    standard = model.image.trunk.pretrained_cfg.get("input_size", (3, 0, 0))[-1]
    if arguments.pop("img_size", standard) != standard or arguments:
        raise ModisteError(
            "format=open_clip makes timm's models without arguments, and this image encoder was made with "
            f"{model.image.arguments}: use format=sentence_transformers, transformers or onnx."
        )


def preprocess_cfg(preprocess: Preprocess) -> dict[str, Any]:
    """Convert the transform to open_clip's terms.

    A ``crop_pct`` other than 1 is lost, which verification detects.

    Raises:
        ModisteError: The interpolation is neither bilinear nor bicubic, or the padding is not grey.
    """
    if preprocess.interpolation not in ("bilinear", "bicubic") or len(set(preprocess.fill)) > 1:
        raise ModisteError(
            f"format=open_clip has no interpolation={preprocess.interpolation} with fill={list(preprocess.fill)}: "
            "use another format."
        )
    return {
        "size": preprocess.size,
        "mode": "RGB",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": "longest" if preprocess.resize == "pad" else preprocess.resize,
        "fill_color": preprocess.fill[0],
    }


def _published(model: OpenClipDualEncoder, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    import open_clip

    source = Path(model.source.removeprefix(DIRECTORY_PREFIX)).expanduser()
    config: Any = json.loads((source / CONFIG).read_text("utf-8")) if (source / CONFIG).is_file() else None
    built_in = None if ":" in model.source else open_clip.get_model_config(model.source.replace("/", "-"))
    config = config or {"model_cfg": built_in}
    if config["model_cfg"] is None:
        raise ModisteError(f"format=open_clip needs a local copy of {model.source}: load the model from a directory.")
    tokenizer: Any = getattr(model.tokenizer.tokenizer, "tokenizer", None)  # type: ignore[attr-defined]
    if hasattr(tokenizer, "save_pretrained"):
        drop_code(tokenizer).save_pretrained(folder)
    preprocess: Any = model.model.visual.preprocess_cfg
    state = dict(model.model.state_dict())
    state["logit_scale"] = logit_scale(model)
    return {**config, "preprocess_cfg": dict(preprocess)}, state


def read(folder: Path) -> Reader:
    """Load with open_clip's own loader, transform and tokenizer.

    That is ``open_clip.create_model_from_pretrained("local-dir:…")``.
    """
    import open_clip

    name = f"{DIRECTORY_PREFIX}{folder}"
    with explained(str(folder), "open_clip cannot hold this model: use another format."):
        model, transform = open_clip.create_model_from_pretrained(name)
        tokenizer = open_clip.get_tokenizer(name, **quiet(name))
    model.eval()

    def images(images: Sequence[Image.Image]) -> torch.Tensor:
        return F.normalize(model.encode_image(torch.stack([transform(image) for image in images])), dim=-1)

    def texts(texts: Sequence[str]) -> torch.Tensor:
        return F.normalize(model.encode_text(tokenizer(list(texts))), dim=-1)

    return Reader(images, texts)


def relocate(folder: Path, final: Path, repo_id: str) -> None:
    """Write the location of the text encoder's config.

    open_clip reads that config from the hub or an absolute path.
    """
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    text = config["model_cfg"].get("text_cfg", {})
    if "hf_model_name" in text and (folder / "config.json").is_file():
        text["hf_model_name"] = text["hf_tokenizer_name"] = repo_id or str(final)
        (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
