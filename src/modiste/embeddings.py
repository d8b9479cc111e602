"""Embeddings of a catalogue: computed once for a (model, data, preprocessing) and kept, or read from files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste import backends
from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.errors import ModisteError
from modiste.machine import usable_cores
from modiste.model import DualEncoder
from modiste.progress import Progress, silent
from modiste.rundir import cache_dir

log = logging.getLogger(__name__)
MIN_COSINE = {"image": 0.995, "text": 0.999}


def fingerprint(model: torch.nn.Module) -> str:
    """sha256 of the architecture, and of the names, shapes, types and bytes of every weight and buffer.

    The architecture is the model's ``repr``: weights alone do not tell QuickGELU from GELU, or mean pooling from CLS.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ModelEmbedder:
    """Embeds images and texts with a model; what it made before for the same weights and pixels comes from a cache.

    Args:
        model: The dual encoder; it is put into evaluation mode.
        batch_size: Images or texts at a time.
        precision: ``fp32``, or ``bf16`` for autocast on processors that are faster so.
        cache: Folder of the cache; null keeps nothing.
        progress: `progress_bar` or `silent`.
        decode: See `modiste.data.decode.Decoder`.
        backend: What runs the towers, a key of `modiste.backends.BACKENDS`, or ``auto``.
        min_cosine: ``{"image": …, "text": …}``, to torch's embeddings, of a backend other than torch.
    """

    def __init__(
        self,
        model: DualEncoder,
        batch_size: int = 128,
        precision: str = "fp32",
        cache: Path | None = None,
        progress: Progress = silent,
        decode: str = "pil",
        backend: str = "torch",
        min_cosine: Mapping[str, float] = MIN_COSINE,
    ) -> None:
        backends.check_name(backend)
        if precision not in ("fp32", "bf16"):
            raise ModisteError(f"precision={precision} is not known: choose fp32 or bf16.")
        self.model = model.eval()
        self.batch_size, self.precision, self.cache, self.progress = batch_size, precision, cache, progress
        self.fingerprint, self.decode = fingerprint(model), decode
        self.backend, self.min_cosine = backend, min_cosine
        self.taken: dict[str, tuple[str, Callable]] = {}

    def images(self, catalogue: Catalogue) -> Tensor:
        """Unit-norm embeddings (N, D), float32 on the CPU, of the catalogue's images, row by row."""
        facts = {"preprocess": self.model.preprocess.describe(), "pixels": catalogue.column("pixels")}
        facts |= Decoder(self.decode).identity(catalogue)
        return self._cached("images", facts, lambda: self._embed_images(catalogue))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm embeddings (M, D), float32 on the CPU."""
        return self._cached("texts", {"tokens": self._tokens(texts)}, lambda: self._embed_texts(list(texts)))

    def _tokens(self, texts: Sequence[str]) -> str:
        """sha256 of what the tokenizer makes of each text, without padding: another vocabulary is another key."""
        digest = hashlib.sha256()
        for start in range(0, len(texts), self.batch_size):
            tokens = self.model.tokenizer(texts[start : start + self.batch_size])
            lengths = tokens["attention_mask"].sum(1).tolist() if "attention_mask" in tokens else None
            for row in range(len(texts[start : start + self.batch_size])):
                for name, tensor in sorted(tokens.items()):
                    own = tensor[row] if lengths is None else tensor[row, : lengths[row]]
                    digest.update(f"{name} {tuple(own.shape)}".encode() + own.numpy().tobytes())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _cached(self, kind: str, facts: dict, compute: Callable[[], Tensor]) -> Tensor:
        if self.cache is None:
            return compute()
        described = {"kind": kind, "model": self.fingerprint, "precision": self.precision, **facts}
        if self.backend != "torch":
            described["backend"] = self.backend
        key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
        path = self.cache / f"{key}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path))
        embeddings = compute()
        self.cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as file:
            np.save(file, embeddings.numpy())
        unfinished.replace(path)
        return embeddings

    def _embed_images(self, catalogue: Catalogue) -> Tensor:
        starts = range(0, len(catalogue), self.batch_size)
        decoder = Decoder(self.decode)

        def load(index: int) -> Tensor:
            return decoder.pixels(catalogue, index, self.model.preprocess)

        def batches() -> Iterable[Tensor]:
            with ThreadPoolExecutor(usable_cores()) as pool:
                ahead = None
                for start in starts:  # decode the next batch while the model works on this one
                    indices = range(start, min(start + self.batch_size, len(catalogue)))
                    coming = [pool.submit(load, index) for index in indices]
                    if ahead is not None:
                        yield torch.stack([future.result() for future in ahead])
                    ahead = coming
                if ahead is not None:
                    yield torch.stack([future.result() for future in ahead])

        bar = self.progress(batches(), len(starts), f"Embedding {len(catalogue)} images")
        return self._stack(self._run("image", pixels.to(self.device)) for pixels in bar)

    def _embed_texts(self, texts: list[str]) -> Tensor:
        # Texts of like length share a batch, so that little of it is padding; the order is put back.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        starts = range(0, len(texts), self.batch_size)
        parts = []
        for start in self.progress(starts, len(starts), f"Embedding {len(texts)} texts"):
            chosen = [texts[index] for index in order[start : start + self.batch_size]]
            tokens = {name: tensor.to(self.device) for name, tensor in self.model.tokenizer(chosen).items()}
            parts.append(self._run("text", tokens))
        return self._stack(parts)[torch.tensor(order).argsort()] if texts else self._stack([])

    @torch.inference_mode()
    def _run(self, tower: str, inputs: Any) -> Tensor:
        if self.backend != "torch":
            return self._encoder(tower, inputs)(inputs)
        encode: Any = self.model.encode_image if tower == "image" else self.model.encode_text
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return encode(inputs).float().cpu()

    def _encoder(self, tower: str, inputs: Any) -> Callable[[Any], Tensor]:
        """The backend of a tower, chosen on the first batch of the job."""
        if tower not in self.taken:
            with torch.inference_mode(False):
                example = backends.Tower(self.model, tower, _head(inputs))
                self.taken[tower] = backends.choose(example, self.backend, self.min_cosine[tower])
            log.info("The %s tower runs on %s.", tower, self.taken[tower][0])
        return self.taken[tower][1]

    def _stack(self, parts: Iterable[Tensor]) -> Tensor:
        # clone: tensors of inference mode cannot be used with autograd later
        return torch.cat([torch.empty(0, self.model.embed_dim), *parts]).clone()


def _head(inputs: Any, count: int = 32) -> Any:
    """The first few of a batch, as tensors of their own."""
    if isinstance(inputs, Tensor):
        return inputs[:count].clone()
    return {name: tensor[:count].clone() for name, tensor in inputs.items()}


class MatrixEmbedder:
    """Embeddings that exist already: one row of ``images`` and of ``texts`` for every row of the catalogue.

    Args:
        catalogue: The whole catalogue that the rows belong to.
        images: Matrix (N, D).
        texts: Matrix (N, D) of the catalogue's texts, or of ``captions``.
        captions: The texts that the rows of ``texts`` stand for; null takes the catalogue's text column.
        encode: Embeds a text that is not among them; null makes such a text an error.

    Raises:
        ModisteError: The shapes do not fit the catalogue, or a value is not finite.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        images: Tensor,
        texts: Tensor,
        captions: Sequence[str] | None = None,
        encode: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        captions = catalogue.column("text") if captions is None else captions
        for name, matrix, rows in (("image", images, len(catalogue)), ("text", texts, len(captions))):
            if matrix.ndim != 2 or len(matrix) != rows:
                raise ModisteError(
                    f"The {name} embeddings have shape {tuple(matrix.shape)}, but there are {rows} rows to embed."
                )
            if not torch.isfinite(matrix).all():
                raise ModisteError(f"The {name} embeddings hold values that are not finite: make them anew.")
        if images.shape[1] != texts.shape[1]:
            raise ModisteError(f"Image and text embeddings differ in size: {images.shape[1]} and {texts.shape[1]}.")
        self.matrix = F.normalize(images.float(), dim=-1)
        self.position = {row: position for position, row in enumerate(catalogue.column("row"))}
        normalised = F.normalize(texts.float(), dim=-1)
        self.known = dict(zip(captions, normalised, strict=True))
        self.encode = encode
        digest = hashlib.sha256(self.matrix.numpy().tobytes())
        digest.update(normalised.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def images(self, catalogue: Catalogue) -> Tensor:
        """The rows (N, D) of ``catalogue``, a part of the one it was made for."""
        return self.matrix[torch.tensor([self.position[row] for row in catalogue.column("row")], dtype=torch.long)]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (M, D) of texts. Raises ModisteError for a text that is not known and cannot be encoded."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new and self.encode is None:
            raise ModisteError(
                f"There is no embedding of the text '{new[0]}' ({len(new)} such): embeddings from files serve "
                "retrieval between the catalogue's own images and texts; other tasks need a model."
            )
        if new and self.encode is not None:
            self.known |= dict(zip(new, self.encode(new), strict=True))
        return torch.stack([self.known[text] for text in texts])


def read_matrix(path: Path) -> Tensor:
    """A matrix from a ``.npy`` file or a ``.pt`` tensor. Raises ModisteError when it is missing or neither."""
    if not path.is_file():
        raise ModisteError(f"There is no embedding file {path}: give the path of a .npy or .pt file.")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        return torch.load(path, map_location="cpu", weights_only=True).float()
    except Exception as error:  # numpy and torch raise many kinds for a file that is not what it should be
        raise ModisteError(
            f"{path} does not hold a matrix: save a numpy array (.npy) or a torch tensor (.pt)."
        ) from error


def default_cache() -> Path:
    """Where embeddings are kept between runs."""
    return cache_dir() / "embeddings"
