"""Loading of models written by `modiste export` and of other model folders, by their layout."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from torch import Tensor, nn
from torch.nn import functional as F

from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder, check_name
from modiste.models.dual_encoder import DualEncoder, Tokenizer, Tokens, TwoTower
from modiste.models.preprocess import Preprocess
from modiste.pretrained.openclip import OpenClipDualEncoder
from modiste.pretrained.sentence_transformers import SentenceTransformersDualEncoder
from modiste.pretrained.source import HUB_PREFIX, explained, hub_remedy, local_path
from modiste.pretrained.transformers import CheckpointTokenizer, TransformersDualEncoder
from modiste.texts.hf import HfTextEncoder, HfTokenizer, drop_code
from modiste.texts.words import HashTokenizer
from modiste.utils import onnx
from modiste.utils.foreign import check_folder
from modiste.utils.hub import without_code
from modiste.utils.openvino import core, read_model
from modiste.utils.run_dir import read_json

FACTS = "modiste.json"
PIXELS = "pixels"
WEIGHTS = "model.safetensors"
INCOMPLETE = "Export the run again: modiste export run=RUN format=… out=DIR."


def load_exported(source: str) -> DualEncoder:
    """Load a model from a local folder in any supported layout, or a transformers model from the hub.

    A folder may be of `modiste export`, sentence-transformers, open_clip or transformers. It is checked before it is
    read (`modiste.utils.foreign.check_folder`).

    Args:
        source: A local directory, or the hub id of a transformers model.

    Raises:
        ModisteError: The folder does not exist, is a run directory, is refused, or cannot be loaded.
    """
    folder = local_path(source)
    if folder is None:
        return TransformersDualEncoder(source)
    if (folder / "checkpoints").is_dir():
        raise ModisteError(f"{source} is a run directory: give run={source}.")
    check_folder(folder)
    facts = read_facts(folder)
    if (folder / "open_clip_config.json").is_file():
        return OpenClipDualEncoder(str(folder))
    if (folder / "modules.json").is_file():
        return SentenceTransformersDualEncoder(str(folder))
    if facts.get("format") in ("onnx", "openvino", "transformers_js"):
        return Programs(folder)
    config = read_json(folder / "config.json")
    if facts.get("format") == "hub":
        with explained(source, INCOMPLETE):
            return HubModel.read(folder).eval().model
    if config.get("model_type") == "modiste":
        return from_transformers(folder, config)

    return TransformersDualEncoder(str(folder))


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts that `modiste export` recorded in a folder; empty for other folders."""
    return read_json(folder / FACTS)


def from_transformers(folder: Path, config: dict[str, Any]) -> DualEncoder:
    """Build the two-tower model of a ``format=transformers`` folder without running the folder's code."""
    from safetensors.torch import load_file

    transform, tokens = (read_json(folder / f"{name}_config.json") for name in ("preprocessor", "tokenizer"))
    with explained(str(folder), INCOMPLETE):
        node = {
            "image": {name: config["image"][name] for name in ("architecture", "arguments")},
            "preprocess": {name: transform[name] for name in Preprocess.__dataclass_fields__},
            "text": config["text"],
            "pooling": config["pooling"],
            "embed_dim": config["projection_dim"],
            "max_length": tokens["model_max_length"],
            "initial_scale": float(torch.tensor(config["logit_scale_init_value"]).exp()),
            "initial_bias": config["logit_bias"],
        }
        model = two_tower(folder, node)
        state = load_file(folder / WEIGHTS)
        state.pop("logit_scale")
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    return model


def preprocess_from(described: dict[str, Any]) -> Preprocess:
    """Rebuild the transform from the result of `Preprocess.describe`."""
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in described.items()}
    return Preprocess(**values)


def two_tower(folder: Path, node: dict[str, Any]) -> TwoTower:
    """Build a `TwoTower` with random weights from plain values, and the tokenizer files in ``folder``."""
    transform = preprocess_from(node["preprocess"])
    check_name(node["image"]["architecture"])  # not a location: an export contains its weights
    arguments = {name: value for name, value in node["image"]["arguments"].items() if name != "img_size"}
    stages = node["image"].get("patch_stages")
    image = TimmEncoder(node["image"]["architecture"], size=transform.size, options=arguments, patch_stages=stages)
    image.preprocess = transform
    text = HfTextEncoder(config=node["text"], tokenizer=tokenizer(folder, node), pooling=node["pooling"])
    model = TwoTower(image, text, node["embed_dim"])
    model.initial_scale, model.initial_bias = node["initial_scale"], node["initial_bias"]
    return model.eval()


def tokenizer(folder: Path, node: dict[str, Any]) -> Tokenizer:
    """Create the hashing tokenizer described in ``node``, or load the tokenizer files in ``folder``."""
    if node.get("buckets"):
        return HashTokenizer(node["buckets"], node["max_length"])
    return HfTokenizer(_tokenizer_files(folder), node["max_length"])


def _tokenizer_files(folder: Path) -> Any:
    """The tokenizer of transformers whose files lie in ``folder``."""
    from transformers import AutoTokenizer

    with without_code(folder.is_dir()):
        return drop_code(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


class HubModel(nn.Module, PyTorchModelHubMixin, library_name="modiste", tags=["modiste"]):
    """A `TwoTower` as a folder or hub repository: ``HubModel.from_pretrained("owner/name").model``.

    Args:
        folder: Folder with the tokenizer's files.
        node: See `modiste.export.hub.node_of`.

    Attributes:
        model: The dual encoder.
    """

    def __init__(self, folder: str, **node: Any) -> None:
        super().__init__()
        self.model = two_tower(Path(folder), node)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: Any, force_download: bool, local_files_only: bool,
        token: Any, map_location: str = "cpu", strict: bool = True, **node: Any,
    ) -> HubModel:  # fmt: skip
        folder = Path(model_id)
        with explained(model_id, INCOMPLETE if folder.is_dir() else hub_remedy(model_id, revision)):
            if not folder.is_dir():
                folder = Path(
                    snapshot_download(
                        model_id.removeprefix(HUB_PREFIX), revision=revision, cache_dir=cache_dir, token=token,
                        local_files_only=local_files_only, force_download=force_download,
                    )
                )  # fmt: skip
            loaded = cls.read(folder)
        return loaded.to(map_location).eval()

    @classmethod
    def read(cls, folder: Path) -> HubModel:
        """Load the model of a folder; huggingface_hub would also read its own arguments from ``config.json``."""
        from safetensors.torch import load_file

        check_folder(folder)
        loaded = cls(str(folder), **read_json(folder / "config.json"))
        state = load_file(folder / WEIGHTS)
        loaded.model.load_state_dict({k: t.float() if t.is_floating_point() else t for k, t in state.items()})
        return loaded


class Programs(DualEncoder):
    """Inference-only model from an export with ``format=onnx``, ``openvino`` or ``transformers_js``.

    Args:
        folder: The export.

    Raises:
        ModisteError: A file is missing or damaged, or the runtime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        facts = read_facts(folder)
        with explained(str(folder), INCOMPLETE):
            self.embed_dim = facts["embed_dim"]
            self.preprocess = preprocess_from(facts["preprocess"])
            self.tokenizer = program_tokenizer(folder, facts["tokenizer"])
            self.initial_scale, self.initial_bias = facts["initial_scale"], facts["initial_bias"]
            open_program = open_openvino if facts["format"] == "openvino" else open_onnx
            files = [program_file(folder, facts["format"], tower) for tower in ("image", "text")]
            self.programs = [open_program(file) for file in files]
        self.resizes = facts["format"] == "transformers_js"  # the image program resizes by itself
        digest = hashlib.sha256(b"".join(program_bytes(file) for file in files)).digest()
        # Identifies the programs in the fingerprint in place of weights; as a parameter, it also tells the device.
        self.digest = nn.Parameter(torch.tensor(list(digest), dtype=torch.uint8), requires_grad=False)

    def layer_groups(self, tower: str) -> list[list[nn.Module | nn.Parameter]]:
        """Return an empty list: a compiled program has no trainable weights."""
        return []

    def image_features(self, pixels: Tensor) -> Tensor:
        """Return embeddings (B, D) of pixels in the program's own format; see `encode_image`."""
        if self.resizes:
            pixels = F.pad(pixels.float(), self.preprocess.margins())
        return self.programs[0]({"pixel_values" if self.resizes else PIXELS: pixels})

    def encode_image(self, pixels: Tensor) -> Tensor:
        if pixels.dtype != torch.uint8:
            raise ModisteError("This program needs uint8 pixels: use the model's own preprocess.")
        return self.image_features(pixels)

    def text_features(self, tokens: Tokens) -> Tensor:
        return self.programs[1](tokens)

    def encode_text(self, tokens: Tokens) -> Tensor:
        return self.text_features(tokens)


def program_tokenizer(folder: Path, facts: dict[str, Any]) -> Tokenizer:
    """Rebuild the tokenizer from `modiste.export.towers.tokenizer_facts` and the folder's files."""
    if facts["kind"] == "words":
        return HashTokenizer(facts["buckets"], facts["max_length"])
    files = _tokenizer_files(folder)
    if facts["kind"] == "CheckpointTokenizer":
        return CheckpointTokenizer(files, facts["max_length"], facts["fixed"], facts["lower"])
    return HfTokenizer(files, facts["max_length"])


def program_file(folder: Path, format: str, tower: str) -> Path:
    """Return the path of a tower's program in a format."""
    if format != "transformers_js":
        return folder / f"{tower}.{'xml' if format == 'openvino' else 'onnx'}"
    name = {"image": "vision_model", "text": "text_model"}[tower]
    quantised = folder / "onnx" / f"{name}_quantized.onnx"
    return quantised if quantised.is_file() else folder / "onnx" / f"{name}.onnx"


def program_bytes(file: Path) -> bytes:
    """Return the bytes of a program and of the file with its weights."""
    weights = [file.with_suffix(".bin"), file.with_name(f"{file.name}.data")]
    return b"".join(path.read_bytes() for path in (file, *weights) if path.is_file())


def open_onnx(file: Path) -> Callable[[Tokens], Tensor]:
    """Open a program with ONNX Runtime as a function of named tensors, with as many threads as torch."""
    session = onnx.session(file, onnx.options(threads=torch.get_num_threads()))
    names = [node.name for node in session.get_inputs()]

    def run(inputs: Tokens) -> Tensor:
        return torch.from_numpy(session.run(None, {name: inputs[name].numpy() for name in names})[0])

    return run


def open_openvino(file: Path) -> Callable[[Tokens], Tensor]:
    """OpenVINO program as a function of named tensors. Raises as `modiste.utils.openvino.read_model`."""
    program = core().compile_model(read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Tokens) -> Tensor:
        answer = program({name: tensor.numpy() for name, tensor in inputs.items() if name in named})
        return torch.from_numpy(answer[program.output(0)].copy()).float()

    named: Sequence[str] = [port.get_any_name() for port in program.inputs]
    return run
