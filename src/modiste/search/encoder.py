"""The model of an index: its identity, and query embeddings, by an exported text tower if possible."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from modiste.errors import ModisteError
from modiste.utils import onnx
from modiste.utils.atomic import make_folder, quick_digest, read_cache, write_checked, write_text
from modiste.utils.tokenizer_files import check_tokenizer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from PIL.Image import Image

    from modiste.models.dual_encoder import DualEncoder

Tokenize = Callable[[list[str]], dict[str, np.ndarray]]
MIN_COSINE = 0.9999
"""Minimum cosine of the exported text tower's embeddings to torch's, on texts of the catalogue."""


@dataclass(frozen=True)
class ModelCard:
    """Identity of the model that embedded an index.

    Attributes:
        name: Display name.
        fingerprint: Hash of architecture and weights (`modiste.embedding.embedder.fingerprint`).
        preprocess: Image preprocessing, as plain values.
        embed_dim: Embedding dimension D.
        source: A run directory or a Hub id.
        prefixes: Sizes of the prefixes that ``loss=matryoshka`` trained, without the full size.
    """

    name: str
    fingerprint: str
    preprocess: dict[str, Any] = field(default_factory=dict)
    embed_dim: int = 0
    source: str = ""
    prefixes: list[int] = field(default_factory=list)

    def check(self, other: ModelCard, place: Path) -> None:
        """Raise ModisteError if ``other`` has another fingerprint or another preprocessing."""
        remedy = (
            f"Re-index with another out=, or use the model that {place} was made with ({self.source or self.name})."
        )
        if other.fingerprint != self.fingerprint:
            raise ModisteError(
                f"{place} was embedded by another model: its fingerprint is {self.fingerprint}, "
                f"that of {other.name} is {other.fingerprint}. {remedy}"
            )
        if _digest(other.preprocess) != _digest(self.preprocess):
            differing = [
                k for k in {**self.preprocess, **other.preprocess} if self.preprocess.get(k) != other.preprocess.get(k)
            ]
            raise ModisteError(
                f"{place} was embedded with another preprocessing: its fingerprint is {_digest(self.preprocess)}, "
                f"that of {other.name} is {_digest(other.preprocess)} ({', '.join(sorted(differing))} differ). {remedy}"
            )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Encoder:
    """Embed texts and images with the model stored in ``folder`` (`save`).

    >>> Encoder(Path("nowhere")).exists
    False
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether the folder has a model; an index built from embeddings on disk may have none."""
        return (self.folder / "config.yaml").is_file()

    @functools.cached_property
    def model(self) -> DualEncoder:
        """The dual encoder (`modiste.models.dual_encoder.DualEncoder`), loaded on first access.

        Raises:
            ModisteError: The index has no model, or its weights are not those that embedded the index.
        """
        if not self.exists:
            raise ModisteError(
                "This index was made of embeddings without a model: it answers like=, but no text= or image=. "
                "Re-index with run=RUN or model=NAME alongside vectors=."
            )
        from modiste.config import load_config
        from modiste.embedding.embedder import fingerprint
        from modiste.models.load import build_model, load_weights

        cfg = load_config(self.folder / "config.yaml", ("model", "tune", "name", "fingerprint"))
        model = build_model(cfg).eval()
        if (self.folder / "weights.ckpt").is_file():
            load_weights(model, self.folder / "weights.ckpt")
        if fingerprint(model) != cfg.fingerprint:
            raise ModisteError(
                f"The model of the index has changed: {cfg.name} has the fingerprint {fingerprint(model)}, "
                f"the index was embedded by {cfg.fingerprint}. Re-index."
            )
        return model

    def use(self, model: DualEncoder) -> None:
        """Use a loaded model instead of the stored one."""
        self.__dict__["model"] = model

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm embeddings (N, D), float32."""
        exported = self._text
        if exported is not None:
            return exported(texts)
        from modiste.embedding.build import build_embedder

        return build_embedder(self.model, device=None, cache=False, progress=False).texts(list(texts)).numpy()

    def pictures(self, images: Sequence[Image]) -> np.ndarray:
        """Unit-norm embeddings (N, D), float32, of PIL images."""
        import torch

        with torch.inference_mode():
            pixels = torch.stack([self.model.preprocess(image) for image in images])
            return self.model.encode_image(pixels.to(next(self.model.parameters()).device)).float().cpu().numpy()

    @functools.cached_property
    def _text(self) -> TextTower | None:
        return TextTower.read(self.folder / "text")

    def save(self, model: DualEncoder, name: str, node: dict[str, Any], weights: bool) -> None:
        """Write a model into ``folder``.

        Args:
            model: The dual encoder.
            name: Display name.
            node: ``model`` and ``tune`` of the configuration that builds it.
            weights: Store the weights here; a published model is loaded from its source instead.
        """
        from omegaconf import OmegaConf

        from modiste.embedding.embedder import fingerprint
        from modiste.models.load import save_weights

        if weights:
            save_weights(model, self.folder / "weights.ckpt")
        facts = {"name": name, "fingerprint": fingerprint(model), **node}
        write_text(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(facts)))

    def export(self, model: DualEncoder, texts: Sequence[str]) -> None:
        """Export the text tower to ONNX if possible, checked on ``texts`` of the catalogue."""
        TextTower.write(self.folder / "text", model, texts)


class TextTower:
    """ONNX text tower with its tokenizer: embeds queries without importing torch or transformers."""

    def __init__(self, session: InferenceSession, tokenize: Tokenize) -> None:
        self.session, self.tokenize = session, tokenize
        self.names = [node.name for node in session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (N, D), float32."""
        tokens = self.tokenize(list(texts))
        return self.session.run(None, {name: tokens[name] for name in self.names})[0]

    @classmethod
    def read(cls, folder: Path) -> TextTower | None:
        """Read the tower in ``folder``.

        None if it is missing, a file is damaged (which is logged), or ONNX Runtime is not installed.
        """

        def checked(name: str, read: Callable[[Path], Any]) -> Any:
            then = "is not used: torch embeds the queries until the index is rebuilt"
            return read_cache(folder / name, read, "The exported text tower", quick_digest, then)

        try:
            # The graph was optimised when written; doing it again would take longer than a short text.
            session = checked("tower.onnx", lambda path: onnx.session(path, onnx.options(optimise="none")))
        except ImportError:
            return None
        if session is None:
            return None
        settings = checked("tokenizer_settings.json", lambda path: json.loads(path.read_text()))
        if settings is None:
            return None
        tokenize = _hashing(settings) if settings["kind"] == "hash" else checked("tokenizer.json", _fast(settings))
        return None if tokenize is None else cls(session, tokenize)

    @classmethod
    def write(cls, folder: Path, model: DualEncoder, texts: Sequence[str]) -> None:
        """Export the text tower if the model, its tokenizer and the installed packages allow it."""
        from importlib.util import find_spec

        settings = _settings(model.tokenizer)
        if settings is None or any(find_spec(name) is None for name in ("onnxruntime", "onnx", "onnxscript")):
            return
        import torch

        from modiste.embedding.backends import Tower, _onnx

        make_folder(folder)
        sample = [*texts, "shoe", "a red dress with long sleeves and a belt"]
        tokens = model.tokenizer(sample)
        try:
            content = _onnx(Tower(model, "text", tokens))
        except Exception:  # exporters raise many types for unsupported towers
            return
        write_checked(folder / "tower.onnx", lambda path: _optimised(content, path), quick_digest)
        if settings["kind"] == "huggingface":
            backend: Any = cast(Any, model.tokenizer).tokenizer.backend_tokenizer
            write_checked(folder / "tokenizer.json", lambda path: backend.save(str(path)), quick_digest)
        described = json.dumps(settings)
        write_checked(folder / "tokenizer_settings.json", lambda path: path.write_text(described), quick_digest)
        with torch.inference_mode():
            expected = model.encode_text(tokens).float().numpy()
        written = cls.read(folder)
        if written is None or (written(sample) * expected).sum(1).min() < MIN_COSINE:
            (folder / "tower.onnx").unlink()


def _optimised(content: bytes, path: Path) -> None:
    """Write an ONNX graph with ONNX Runtime's optimisations for any CPU."""
    settings = onnx.options(optimise="extended")
    settings.optimized_model_filepath = str(path)
    onnx.session(content, settings)


def _settings(tokenizer: Any) -> dict[str, Any] | None:
    """Settings of a tokenizer that works without transformers; None if unsupported."""
    kind = type(tokenizer).__name__
    if kind == "HfTokenizer" and getattr(tokenizer.tokenizer, "is_fast", False):
        return {"kind": "huggingface", "max_length": tokenizer.max_length}
    if kind == "HashTokenizer":
        return {"kind": "hash", "buckets": tokenizer.buckets, "max_length": tokenizer.max_length}
    return None


def _hashing(settings: dict[str, Any]) -> Tokenize:
    from modiste.texts.words import HashTokenizer

    hashing = HashTokenizer(settings["buckets"], settings["max_length"])
    return lambda texts: _padded(hashing.ids(texts))


def _fast(settings: dict[str, Any]) -> Callable[[Path], Tokenize]:
    """Reader of a Hugging Face tokenizer."""

    def read(path: Path) -> Tokenize:
        from tokenizers import Tokenizer

        check_tokenizer(path)
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(settings["max_length"])
        tokenizer.no_padding()
        return lambda texts: _padded([encoding.ids for encoding in tokenizer.encode_batch(texts)])

    return read


def _padded(rows: list[list[int]]) -> dict[str, np.ndarray]:
    length = max(1, max(map(len, rows)))
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int64)
    ids = np.array([row + [0] * (length - len(row)) for row in rows], np.int64)
    return {"input_ids": ids, "attention_mask": mask}
