"""Published dual encoders of open_clip, by tag, hub repository, directory or checkpoint file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modiste.errors import ModisteError, did_you_mean
from modiste.images.timm import hook_trunk, resize_trunk
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.models.layers import Group, block_groups, freeze_all_but, shared_copy, with_module, with_weights
from modiste.models.preprocess import Preprocess
from modiste.pretrained.source import HUB_PREFIX, explained, hub_remedy, local_path
from modiste.texts.hf import drop_code, text_model
from modiste.utils.archives import check_stored
from modiste.utils.foreign import check_hub, check_source, check_tensors, downloaded, weights_alone
from modiste.utils.hub import without_code

DIRECTORY_PREFIX = "local-dir:"
# Keys under which training code stores the weights; OpenFashionCLIP uses "CLIP".
WRAPPERS = ("state_dict", "CLIP", "model")
# Options that a repository may pass to its tokenizer, in addition to numbers.
TOKENIZER_OPTIONS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "clean", "do_lower_case", "language", "legacy",
    "padding_side", "strip_sep_token", "truncation_side", "use_fast",
)  # fmt: skip
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")


class OpenClipDualEncoder(DualEncoder):
    """Any open_clip model (Ilharco et al. 2021, doi:10.5281/zenodo.5143773), its transform and tokenizer.

    Logit scale and bias belong to the loss and are frozen here. Weights are loaded in float32 from safetensors or a
    ``weights_only`` pickle.

    Args:
        source: ``hf-hub:owner/name``; a directory with ``open_clip_config.json``, optionally with the prefix
            ``local-dir:``; or an architecture of open_clip (``ViT-B-32``).
        pretrained: Weights of an architecture: a tag of open_clip (``laion2b_s34b_b79k``), a checkpoint file, or
            ``random`` for an untrained model. Directories and hub repositories contain their weights.

    Raises:
        ModisteError: The source, tag or file does not exist, cannot be reached, or does not fit the architecture.

    >>> OpenClipDualEncoder("./marqo-fashionSigLIP")
    Traceback (most recent call last):
    modiste.errors.ModisteError: File or directory './marqo-fashionSigLIP' does not exist: correct the path.
    """

    def __init__(self, source: str, pretrained: str | None = None) -> None:
        super().__init__()
        self.source = source
        self.pretrained = pretrained
        name = _name(source)
        if ":" in name and pretrained:
            raise ModisteError(f"'{source}' already includes its weights: remove model.pretrained.")
        self.model, tokenizer = _from_repository(source, name) if ":" in name else _from_architecture(name, pretrained)
        self.preprocess = preprocess_of(self.model.visual.preprocess_cfg)
        self.tokenizer = OpenClipTokenizer(tokenizer)
        self.initial_scale = math.exp(self.model.logit_scale.item())
        self.initial_bias = None if self.model.logit_bias is None else self.model.logit_bias.item()
        freeze_all_but(self.model, self.layer_groups("image") + self.layer_groups("text"))
        self.eval()
        with torch.no_grad():
            self.embed_dim = self.text_features(self.tokenizer(["a"])).shape[-1]

    def layer_groups(self, tower: str) -> list[Group]:
        """Embeddings or stem, each block or stage, then final norm, pooling and projection."""
        return with_weights(_image_groups(self.model.visual) if tower == "image" else _text_groups(self.model))

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def text_features(self, tokens: Tokens) -> Tensor:
        return self.model.encode_text(tokens["input_ids"])

    def patch_features(self, pixels: Tensor) -> Tensor:
        """Return patch features (B, h, w, D): the last layer's tokens after final norm and projection.

        With attention pooling (SigLIP), the pooling head is applied to each patch alone. This is the image's embedding
        if all attention of the head were on that patch.

        Raises:
            ModisteError: The image tower is not a vision transformer, or its pooling mixes patches (CoCa).
        """
        project = _patch_projection(self.model.visual)
        output = self.model.visual.forward_intermediates(
            pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NCHW"
        )
        patches = output["image_intermediates"][-1].permute(0, 2, 3, 1)
        return project(patches.flatten(0, 2)).unflatten(0, patches.shape[:3])

    def at_size(self, size: int) -> OpenClipDualEncoder:
        other = with_module(self, "model", shared_copy(self.model))
        other.preprocess = replace(self.preprocess, size=_resize(other.model, size))
        return other

    def feature_hook(self, keep: Callable[[Tensor], Tensor]) -> RemovableHandle:
        visual: Any = self.model.visual
        if hasattr(visual, "trunk"):
            return hook_trunk(visual.trunk, keep)
        layer = visual.layer4 if hasattr(visual, "layer4") else visual.transformer.resblocks[-1].ln_1
        return layer.register_forward_hook(lambda module, inputs, output: keep(output))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": self.source, "pretrained": self.pretrained}


class OpenClipTokenizer:
    """A model's open_clip tokenizer: captions → ``{"input_ids": (B, context length) int64}``; picklable."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> Tokens:
        return {"input_ids": self.tokenizer(list(texts))}


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """Convert open_clip's ``preprocess_cfg`` to a `Preprocess`.

    Raises:
        ModisteError: The input is not square.

    >>> preprocess_of({"size": (224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}).resize
    'squash'
    """
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ModisteError(f"The model needs images of {height}×{width}: only square inputs are supported.")
    return Preprocess(
        size=height,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        # "random" is a training augmentation; open_clip evaluates such models with bicubic.
        interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        resize="pad" if config.get("resize_mode") == "longest" else config.get("resize_mode") or "shortest",
        fill=(config.get("fill_color", 0),) * 3,
    )


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint file, without the wrappers of training code.

    Raises:
        ModisteError: The file contains anything but tensors in plain containers.
    """
    from safetensors.torch import load_file

    with explained(str(path), "Give a safetensors file, or one written by torch.save."):
        safe = path.suffix == ".safetensors"
        if not safe:
            check_stored(path)
        state: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(state)
    while wrapper := next(
        (key for key in WRAPPERS if isinstance(state, dict) and isinstance(state.get(key), dict)), None
    ):
        state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModisteError(
            f"'{path}' contains no state dict, neither directly nor under one of the keys {', '.join(WRAPPERS)}: save "
            "the state dict."
        )
    wrapped = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in state.items()}


def _name(source: str) -> str:
    """Return open_clip's name of ``source``; those of directories and hub repositories contain a colon."""
    try:
        from open_clip import list_models
    except ImportError:
        raise ModisteError("open_clip is not installed: pip install 'modiste[open-clip]'.") from None
    if source.startswith(HUB_PREFIX):
        return source
    # Architectures take precedence over paths such as a folder ViT-B-32.
    if (architecture := source.replace("/", "-")) in list_models():
        return architecture
    path = local_path(source.removeprefix(DIRECTORY_PREFIX))
    if path is None:
        raise ModisteError(
            f"'{source}' is not an architecture of open_clip. {did_you_mean(architecture, list_models())} "
            f"Write a hub repository as '{HUB_PREFIX}owner/name'."
        )
    if not (path / "open_clip_config.json").is_file():
        hint = " It is a transformers checkpoint: use model=pretrained." if (path / "config.json").is_file() else ""
        raise ModisteError(
            f"'{source}' has no open_clip_config.json.{hint} Give a bare checkpoint file as model.pretrained, and its "
            "architecture as model.source."
        )
    return f"{DIRECTORY_PREFIX}{path.absolute()}"


class Files(NamedTuple):
    """Checked folders from which an open_clip model is read.

    Attributes:
        folder: Contains the configuration and the weights.
        text_config: open_clip's configuration of the text tower.
        text_encoder: Contains the ``config.json`` of a transformers text encoder; None: open_clip's own text tower.
        tokenizer: Contains the files of a transformers tokenizer; None: open_clip's own.
    """

    folder: Path
    text_config: dict[str, Any]
    text_encoder: Path | None
    tokenizer: Path | None


def find_files(name: str) -> Files:
    """Check a directory or hub repository, and those that it names for text encoder and tokenizer.

    Hub files are downloaded at the commits that were checked.

    Raises:
        ModisteError: See `modiste.utils.foreign.check_folder`; or an option of the tokenizer names code or files.
        OSError: The hub cannot be reached.
    """
    local = name.startswith(DIRECTORY_PREFIX)
    place, commit = check_source(name.removeprefix(DIRECTORY_PREFIX if local else HUB_PREFIX))
    folder = Path(place) if local else downloaded(place, commit, ["open_clip_config.json"])
    content = json.loads((folder / "open_clip_config.json").read_text("utf-8"))
    text: dict[str, Any] = content.get("model_cfg", content).get("text_cfg") or {}
    for option, value in (text.get("tokenizer_kwargs") or {}).items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if option not in TOKENIZER_OPTIONS and not number and value is not None:
            raise ModisteError(
                f"tokenizer_kwargs.{option} of {name} is refused, as it may load code or files: remove it."
            )
    encoder = tokenizer = None
    if text.get("hf_model_name"):
        own = local and (folder / "config.json").is_file()
        encoder = folder if own else _other("hf_model_name", text, name, ["config.json"])
    if text.get("hf_tokenizer_name"):
        tokenizer = folder if local else _other("hf_tokenizer_name", text, name, TOKENIZER_FILES)
    if not local:
        _download_weights(place, commit)
    return Files(folder, text, encoder, tokenizer)


def _other(key: str, text: dict[str, Any], name: str, patterns: Sequence[str]) -> Path:
    """Check and download files of a hub repository named in the configuration of another."""
    other = text[key]
    if not isinstance(other, str) or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", other) or Path(other).exists():
        raise ModisteError(f"{key}={other} of {name} is not a hub id (owner/name): correct it in a local copy.")
    return downloaded(other, check_hub(other), patterns)


def _download_weights(repository: str, commit: str) -> None:
    """Download the first of `WEIGHTS` that the commit contains, as open_clip does."""
    for file in WEIGHTS:
        if (downloaded(repository, commit, [file]) / file).is_file():
            return


def _from_repository(source: str, name: str) -> tuple[Any, Any]:
    import open_clip
    from transformers import AutoConfig

    hub = name.startswith(HUB_PREFIX)
    remedy = (
        hub_remedy(name.removeprefix(HUB_PREFIX)) if hub else "The directory also needs weights and tokenizer files."
    )
    with explained(source, remedy), weights_alone():
        files = find_files(name)
        name = f"{DIRECTORY_PREFIX}{files.folder}"
        own: dict[str, Any] = {}
        with without_code():  # open_clip would prompt whether to run the repository's code
            if files.text_encoder:
                text_model(AutoConfig.from_pretrained(files.text_encoder, trust_remote_code=False))
                local = {"hf_model_name": str(files.text_encoder), "hf_model_pretrained": False}
                own = {"text_cfg": files.text_config | local}
            # Without require_pretrained open_clip continues with random weights and a log line.
            model = open_clip.create_model(name, require_pretrained=True, **own)
            return model, _tokenizer(files) if files.tokenizer else open_clip.get_tokenizer(name)


def _tokenizer(files: Files) -> Any:
    """Build open_clip's wrapper of a transformers tokenizer, as ``open_clip.get_tokenizer`` does."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

    text = files.text_config
    tokenizer = HFTokenizer(
        str(files.tokenizer),
        context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        **{**(text.get("tokenizer_kwargs") or {}), "trust_remote_code": False},
    )
    drop_code(tokenizer.tokenizer)
    return tokenizer


def _from_architecture(name: str, pretrained: str | None) -> tuple[Any, Any]:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise ModisteError(
            f"model.pretrained is missing for {name}: give a tag ({', '.join(tags[:5]) or 'this one has none'}), "
            "a checkpoint file, or 'random'."
        )
    remedy = (
        "If the hub is out of reach, download the model's repository (weights and tokenizer) on a machine with network "
        "and give its directory as model.source."
    )
    with explained(name, remedy), without_code(local=False):
        if pretrained in tags:
            model = open_clip.create_model(name, pretrained, require_pretrained=True)
        else:
            path = None if pretrained == "random" else _checkpoint_file(name, pretrained, tags)
            model = open_clip.create_model(name, pretrained_text=False)
            if path:
                _fill(model, path)
        return model, open_clip.get_tokenizer(name, **quiet(name))


def quiet(name: str) -> dict[str, bool]:
    """What keeps ``open_clip.get_tokenizer`` from running code; its own tokenizer takes no such argument."""
    from open_clip import get_model_config

    text = (get_model_config(name) or {}).get("text_cfg") or {}
    return {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}


def _checkpoint_file(name: str, pretrained: str, tags: Sequence[str]) -> Path:
    path = local_path(pretrained)
    if path is None or not path.is_file():
        raise ModisteError(f"'{pretrained}' is neither a file nor a tag of {name}. {did_you_mean(pretrained, tags)}")
    return path


def _fill(model: nn.Module, path: Path) -> None:
    from open_clip.model import convert_to_custom_text_state_dict

    state = read_checkpoint(path)
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    wrong = sorted(key for key in own.keys() & state.keys() if own[key].numel() != state[key].numel())
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if wrong or missing or extra:
        some = ", ".join((wrong + missing + extra)[:3])
        raise ModisteError(
            f"'{path}' does not fit the architecture ({len(wrong)} weights with another shape, {len(missing)} missing, "
            f"{len(extra)} unknown: {some}, …): correct model.source."
        )
    model.load_state_dict({key: value.reshape(own[key].shape) for key, value in state.items()})


def _resize(model: Any, size: int) -> int:
    """Resize the image tower of a model to ``size`` pixels, rounded down to a multiple of its patches.

    Returns:
        The new size in pixels.

    Raises:
        NotImplementedError: The tower is a ResNet with attention pooling, or its pooling has position embeddings.
    """
    from open_clip.model import resize_pos_embed

    visual = model.visual
    if hasattr(visual, "trunk"):
        return resize_trunk(visual.trunk, size)
    if not hasattr(visual, "transformer"):
        raise NotImplementedError(f"{type(visual).__name__} only takes images of {visual.image_size} pixels")
    patch = visual.patch_size[0]
    side = max(size // patch, 1)
    visual.image_size, visual.grid_size = (side * patch,) * 2, (side,) * 2
    state = {"visual.positional_embedding": visual.positional_embedding.detach()}
    resize_pos_embed(state, model)
    visual.positional_embedding = nn.Parameter(state["visual.positional_embedding"], requires_grad=False)
    return side * patch


def _image_groups(visual: Any) -> list[list[Any]]:
    if hasattr(visual, "trunk"):
        return [*_timm_groups(visual.trunk), [visual.head]]
    if hasattr(visual, "layer4"):
        stem = [visual.conv1, visual.bn1, visual.conv2, visual.bn2, visual.conv3, visual.bn3]
        return [stem, [visual.layer1], [visual.layer2], [visual.layer3], [visual.layer4], [visual.attnpool]]
    stem = [visual.conv1, visual.class_embedding, visual.positional_embedding, visual.ln_pre]
    pool = [visual.attn_pool, getattr(visual, "attn_pool_contrastive", None)]
    return [stem, *([block] for block in visual.transformer.resblocks), [*pool, visual.ln_post, visual.proj]]


def _timm_groups(trunk: Any) -> list[list[Any]]:
    from timm.models import group_parameters

    if not hasattr(trunk, "group_matcher"):
        return [[trunk]]
    groups = group_parameters(trunk, trunk.group_matcher())
    return [[trunk.get_parameter(name) for name in names] for _, names in sorted(groups.items())]


def _text_groups(model: Any) -> list[list[Any]]:
    text = getattr(model, "text", model)  # open_clip's CLIP has the text tower's layers in the model itself
    if not hasattr(text, "token_embedding"):
        return [list(group) for group in block_groups(text.transformer, text.proj)]
    stem = [text.token_embedding, text.positional_embedding, getattr(text, "cls_emb", None)]
    return [stem, *([block] for block in text.transformer.resblocks), [text.ln_final, text.text_projection]]


def _patch_projection(visual: Any) -> Callable[[Tensor], Tensor]:
    """Return the function from normalised patch tokens (N, C) to features (N, D)."""
    from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

    trunk = getattr(visual, "trunk", None)
    if isinstance(trunk, TimmVisionTransformer) and getattr(trunk.attn_pool, "pos_embed", None) is None:
        alone = [] if trunk.attn_pool is None else [nn.Unflatten(1, (1, -1)), trunk.attn_pool]
        return nn.Sequential(*alone, trunk.fc_norm, trunk.head_drop, trunk.head, visual.head)
    if trunk is None and hasattr(visual, "transformer") and visual.attn_pool is None:
        return lambda tokens: tokens @ visual.proj
    raise ModisteError(
        f"The image tower {type(trunk or visual).__name__} has no patch embeddings in the shared space: "
        "use a plain vision transformer, or SigLIP."
    )
