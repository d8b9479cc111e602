"""Embedders: compute and cache embeddings by model, data and preprocessing, or read them from files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modiste.data.catalogue import Catalogue
from modiste.data.decode import Decoder
from modiste.embedding import backends
from modiste.embedding.transfer import fetched, to_device
from modiste.errors import MissingEmbeddingError, ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokens
from modiste.utils.archives import check_stored
from modiste.utils.atomic import read_cache, write_cache
from modiste.utils.foreign import check_tensors
from modiste.utils.hardware import installed, is_out_of_memory, processor, usable_cores
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import cache_dir, write_json

log = logging.getLogger(__name__)
MIN_COSINE = {"image": 0.995, "text": 0.999}
# Texts tokenised and sorted by length at a time.
GROUP = 65536
# Inputs of the job on which a backend is checked and timed.
EXAMPLES = 32


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of the architecture and of the names, shapes, dtypes and bytes of all weights and buffers.

    The architecture is the model's ``repr``: weights alone do not distinguish QuickGELU from GELU, or mean from CLS
    pooling.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class ModelEmbedder:
    """Embed images and texts with a model, cached by weights and pixels.

    Args:
        model: The dual encoder; it is put into evaluation mode.
        batch_size: Images or texts per batch.
        precision: ``fp32``, ``bf16`` (autocast), or ``int8`` (OpenVINO only).
        cache: Cache folder; None: no caching.
        progress: `progress_bar` or `silent`.
        decode: See `modiste.data.decode.Decoder`.
        backend: Inference backend, a key of `modiste.embedding.backends.BACKENDS`, or ``auto``: the
            fastest backend and precision within ``min_cosine``.
        min_cosine: ``{"image": …, "text": …}``, minimum cosine between another backend's embeddings and torch's.

    Attributes:
        taken: ``image`` and ``text`` → name and function of the backend in use, once checked.
        used: ``image`` and ``text`` → backend of the latest embeddings.

    Raises:
        ModisteError: The backend or precision is unknown, not installed, or they exclude each other.
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
        backends.check_name(backend, precision)
        if backend == "auto" and precision != "fp32":
            raise ModisteError(f"backend=auto also chooses the precision: remove precision={precision}.")
        self.model = model.eval()
        self.batch_size, self.precision, self.cache, self.progress = batch_size, precision, cache, progress
        self.fingerprint, self.decode = fingerprint(model), decode
        self.backend, self.min_cosine = backend, min_cosine
        self.taken: dict[str, tuple[str, Callable[[Any], Tensor]]] = {}
        self.used: dict[str, str] = {}

    def images(self, catalogue: Catalogue) -> Tensor:
        """Return unit-norm embeddings (N, D) of the catalogue's images, one per row, float32 on the CPU."""
        pixels = catalogue.column("pixels")
        facts: dict[str, object] = {"preprocess": self.model.preprocess.describe(), "pixels": pixels}
        facts |= Decoder(self.decode).identity(catalogue)
        rows, place = _distinct(pixels)
        part = catalogue.select(rows=rows) if len(rows) < len(pixels) else catalogue
        return self._cached("image", facts, self._image_example(part), lambda: self._embed_images(part)[place])

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (M, D) of texts, float32 on the CPU; repeated texts are embedded once."""
        rows, place = _distinct(texts)
        distinct = [texts[row] for row in rows]
        groups = [self.model.tokenizer(distinct[start : start + GROUP]) for start in range(0, len(distinct), GROUP)]
        facts = {"tokens": _digest(groups)}
        return self._cached("text", facts, lambda: _text_example(groups), lambda: self._embed_tokens(groups))[place]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _cached(
        self, tower: str, facts: Mapping[str, object], example: Callable[[], Any], compute: Callable[[], Tensor]
    ) -> Tensor:
        if self.cache is None:
            self.take(tower, example)
            self.used[tower] = self.taken[tower][0] if tower in self.taken else "torch"
            return compute()
        described = {"kind": f"{tower}s", "model": self.fingerprint, "precision": self.precision, **facts}
        self.used[tower] = self._expected(tower)
        path = self._entry(described, self.used[tower])
        known = read_cache(path, np.load, f"{tower.capitalize()} embeddings")
        if known is not None:
            return torch.from_numpy(known)
        self.take(tower, example)
        self.used[tower] = self._expected(tower)
        path = self._entry(described, self.used[tower])
        embeddings = compute()
        write_cache(path, lambda file: save_array(file, embeddings.numpy()), f"{tower.capitalize()} embeddings")
        return embeddings

    def _entry(self, described: dict[str, object], backend: str) -> Path:
        assert self.cache is not None
        facts = described if backend == "torch" else described | {"backend": backend}
        return self.cache / f"{hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()}.npy"

    def _image_example(self, catalogue: Catalogue) -> Callable[[], Tensor]:
        def example() -> Tensor:
            decoder = Decoder(self.decode)
            rows = [*range(min(EXAMPLES, len(catalogue)))] * (2 if len(catalogue) == 1 else 1)
            return torch.stack([decoder.pixels(catalogue, row, self.model.preprocess) for row in rows])

        return example

    def _embed_images(self, catalogue: Catalogue) -> Tensor:
        starts = range(0, len(catalogue), self.batch_size)
        rows = [torch.arange(start, min(start + self.batch_size, len(catalogue))) for start in starts]
        decoder = Decoder(self.decode)

        def load(index: int) -> Tensor:
            return decoder.pixels(catalogue, index, self.model.preprocess)

        def batches() -> Iterable[Tensor]:
            with ThreadPoolExecutor(usable_cores()) as pool:
                ahead = None
                for indices in rows:  # decode the next batch while the model works on this one
                    coming = [pool.submit(load, index) for index in indices.tolist()]
                    if ahead is not None:
                        yield torch.stack([future.result() for future in ahead])
                    ahead = coming
                if ahead is not None:
                    yield torch.stack([future.result() for future in ahead])

        bar = self.progress(batches(), len(rows), f"Embedding {len(catalogue)} images")
        parts = (self._run("image", to_device(pixels, self.device)) for pixels in bar)
        return self._filled(len(catalogue), zip(rows, parts, strict=True))

    def _embed_tokens(self, groups: Sequence[Tokens]) -> Tensor:
        """Embed texts sorted by length to minimise padding, and restore their order."""
        batches, offset = [], 0
        for group in groups:
            lengths = _lengths(group)
            for rows in lengths.argsort(stable=True).split(self.batch_size):
                batches.append((group, rows, offset))
            offset += len(lengths)

        def parts() -> Iterator[tuple[Tensor, Tensor]]:
            for group, rows, start in self.progress(batches, len(batches), f"Embedding {offset} texts"):
                tokens = backends.without_padding({name: tensor[rows] for name, tensor in group.items()})
                yield rows + start, self._run("text", to_device(tokens, self.device))

        return self._filled(offset, parts())

    def _run(self, tower: str, inputs: Any) -> Tensor:
        try:
            return self._encode(tower, inputs)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModisteError(
                f"Out of memory when embedding {self.batch_size} {tower}s at a time: lower batch_size, or use "
                "precision=bf16."
            ) from error

    @torch.inference_mode()
    def _encode(self, tower: str, inputs: Any) -> Tensor:
        if tower in self.taken:
            return self.taken[tower][1](inputs)
        encode: Any = self.model.encode_image if tower == "image" else self.model.encode_text
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return encode(inputs).float()

    def _expected(self, tower: str) -> str:
        """Return the backend whose embeddings may be cached: the one in use, named, or chosen last time."""
        if tower in self.taken:
            return self.taken[tower][0]
        if self.backend == "auto":
            try:
                return str(json.loads(self._choice(tower).read_text())["backend"])
            except (OSError, ValueError, KeyError):
                return "torch"
        return self.backend + (f"-{self.precision}" if self.precision != "fp32" and self.backend != "torch" else "")

    def _choice(self, tower: str) -> Path:
        """Return the file that records the choice of ``backend=auto`` for this tower on this machine."""
        assert self.cache is not None
        machine = [processor(), torch.get_num_threads(), str(self.device)]
        facts = [self.fingerprint, tower, self.model.preprocess.describe(), self.min_cosine[tower], *machine]
        facts += [
            *(installed(name) for name in ("torch", "onnxruntime", "openvino", "nncf")),
            *backends.candidates(tower, self.device.type),
        ]
        return self.cache / "backends" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.json"

    def take(self, tower: str, example: Callable[[], Any]) -> None:
        """Put a tower's backend into `taken`: the named one or ``auto``'s choice, checked on the job's inputs.

        Args:
            tower: ``image`` or ``text``.
            example: Returns pixels (B, 3, S, S) uint8, or tokens, each (B, L), with B ≥ 2.

        Raises:
            ModisteError: A named backend is too far from torch, or cannot run the tower.
        """
        if self.backend == "torch" or tower in self.taken:
            return
        inputs = to_device(example(), self.device)
        if not len(next(iter(_tensors(inputs)))):
            return  # nothing to embed
        folder = self.cache / "backends" if self.cache else None
        built = backends.Tower(self.model, tower, inputs, folder, self.fingerprint)
        if self.backend != "auto":
            self.taken[tower] = backends.choose(built, self._expected(tower), self.min_cosine[tower])
        else:
            self.taken[tower] = self._chosen(built)
        log.info("The %s tower uses backend %s.", tower, self.taken[tower][0])

    def _chosen(self, tower: backends.Tower) -> tuple[str, Callable[[Any], Tensor]]:
        """Return the last choice of ``auto`` if close enough on these inputs, else the fastest backend."""
        wanted = self.min_cosine[tower.kind]
        file = self._choice(tower.kind) if self.cache else None
        if file is not None and file.is_file():
            try:
                return backends.choose(tower, self._expected(tower.kind), wanted)
            except ModisteError as error:
                log.info("%s tower: %s Using another backend.", tower.kind, error)
        taken = backends.choose(tower, "auto", wanted)
        if file is not None:
            write_json(file, {"backend": taken[0]})
        return taken

    def _filled(self, count: int, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Assemble embeddings (count, D) from parts in place: stacking would need twice the memory."""
        embeddings = torch.empty(count, self.model.embed_dim)
        for rows, part in fetched(parts):
            embeddings[rows] = part
        return embeddings


def save_array(path: Path, array: np.ndarray) -> None:
    """Save an array in numpy's format under any file name."""
    with path.open("wb") as file:
        np.save(file, array)


def _distinct(values: Sequence[str]) -> tuple[list[int], Any]:
    """Return the first row of each distinct value, and the index that expands distinct values to all rows.

    >>> _distinct(["a", "b", "a"])
    ([0, 1], tensor([0, 1, 0]))
    """
    first: dict[str, int] = {}
    place = [first.setdefault(value, len(first)) for value in values]
    if len(first) == len(values):
        return list(range(len(values))), slice(None)
    rows = dict(zip(reversed(place), range(len(values) - 1, -1, -1), strict=True))
    return [rows[index] for index in range(len(first))], torch.tensor(place)


def _lengths(tokens: Tokens) -> Tensor:
    """Return the number of tokens (B,) of each text, with padding only without an attention mask."""
    if "attention_mask" in tokens:
        return tokens["attention_mask"].sum(1)
    any_of_them = next(iter(tokens.values()))
    return torch.full((len(any_of_them),), any_of_them.shape[1])


def _digest(groups: Iterable[Tokens]) -> str:
    """SHA-256 of each text's tokens without padding: vocabulary and maximum length change the key."""
    digest = hashlib.sha256()
    for tokens in groups:
        mask = tokens["attention_mask"].bool() if "attention_mask" in tokens else None
        for row in range(len(next(iter(tokens.values())))):
            for name, tensor in sorted(tokens.items()):
                own = tensor[row] if mask is None else tensor[row][mask[row]]  # padding may be on either side
                digest.update(f"{name} {tuple(own.shape)}".encode() + own.numpy().tobytes())
    return digest.hexdigest()


def _text_example(groups: Sequence[Tokens]) -> Tokens:
    """Return at least two texts whose lengths range from the shortest to the longest."""
    if not groups:
        return {"input_ids": torch.empty(0, 0)}
    order = _lengths(groups[0]).argsort(stable=True)
    rows = order[torch.linspace(0, len(order) - 1, max(2, min(EXAMPLES, len(order)))).round().long()]
    return backends.without_padding({name: tensor[rows] for name, tensor in groups[0].items()})


def _tensors(inputs: Any) -> list[Tensor]:
    return [inputs] if isinstance(inputs, Tensor) else list(inputs.values())


class MatrixEmbedder:
    """Look up precomputed embeddings, which are normalised to unit norm.

    Args:
        catalogue: The full catalogue.
        images: Image embeddings (N, D), one per catalogue row.
        texts: Text embeddings (M, D) of ``captions``.
        captions: The M embedded texts; None: the catalogue's text column, so M = N.
        encode: Embeds texts that are not among ``captions``; None makes such a text an error.

    Raises:
        ModisteError: The shapes do not fit the catalogue or each other, or a value is not finite.
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
                    f"The {name} embeddings have shape {tuple(matrix.shape)}: give a matrix with {rows} rows."
                )
            if not torch.isfinite(matrix).all():
                raise ModisteError(f"The {name} embeddings contain non-finite values: recompute them.")
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
        """Return unit-norm embeddings (N, D) of the rows of ``catalogue``, a subset of the full catalogue."""
        return self.matrix[torch.tensor([self.position[row] for row in catalogue.column("row")], dtype=torch.long)]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (M, D) of texts. Raises MissingEmbeddingError without ``encode`` for new texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new and self.encode is None:
            raise MissingEmbeddingError(
                f"The text '{new[0]}' has no embedding ({len(new)} missing): embeddings from files support "
                "only retrieval between the catalogue's images and texts; other tasks need a model."
            )
        if new and self.encode is not None:
            self.known |= dict(zip(new, self.encode(new), strict=True))
        return torch.stack([self.known[text] for text in texts])


class PrefixEmbedder:
    """Truncate another embedder's embeddings to ``dim`` dimensions and renormalise (loss=matryoshka).

    The full embeddings are cached, so all prefixes share one forward pass.

    Args:
        embedder: A `ModelEmbedder` or `MatrixEmbedder`.
        dim: Size d of the prefix.

    Raises:
        ModisteError: ``dim`` is below 1 or, when embedding, above D; or a task needs the model.
    """

    def __init__(self, embedder: ModelEmbedder | MatrixEmbedder, dim: int) -> None:
        if dim < 1:
            raise ModisteError(f"dim={dim} must be at least 1: null keeps the full embeddings.")
        self.embedder, self.dim = embedder, dim
        self.fingerprint: str = embedder.fingerprint  # of the full embeddings

    def images(self, catalogue: Catalogue) -> Tensor:
        """Unit-norm embeddings (N, d)."""
        return self._cut(self.embedder.images(catalogue))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-norm embeddings (M, d)."""
        return self._cut(self.embedder.texts(texts))

    @property
    def used(self) -> Mapping[str, str]:
        """See `ModelEmbedder`."""
        return getattr(self.embedder, "used", {})

    @property
    def model(self) -> DualEncoder:
        """Unavailable: code that uses the model directly would ignore the truncation."""
        raise ModisteError(f"dim={self.dim} truncates embeddings, but this task needs the model itself: remove dim.")

    def _cut(self, embeddings: Tensor) -> Tensor:
        if self.dim > embeddings.shape[1]:
            raise ModisteError(f"dim={self.dim} exceeds the {embeddings.shape[1]} dimensions of the embeddings.")
        return F.normalize(embeddings[:, : self.dim], dim=1)


def read_matrix(path: Path) -> Tensor:
    """Load a float32 matrix from ``.npy`` or ``.pt``. Raises ModisteError if it is missing or invalid."""
    if not path.is_file():
        raise ModisteError(f"Embedding file {path} does not exist: give the path of a .npy or .pt file.")
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False)).float()
        check_stored(path)
        matrix = torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(matrix)
        return matrix.float()
    except Exception as error:  # numpy and torch raise many kinds of errors for invalid files
        raise ModisteError(
            f"{path} does not contain a matrix: save a numpy array (.npy) or a torch tensor (.pt)."
        ) from error


def default_cache() -> Path:
    """Cache folder of embeddings."""
    return cache_dir() / "embeddings"
