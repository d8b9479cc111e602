"""`modiste.embed`: the embeddings of a catalogue, in memory or in a folder of resumable shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig

from modiste.config import load_overrides, load_run_config, validate
from modiste.config.inherit import from_run
from modiste.config.invocation import Invocation
from modiste.config.overrides import of_data, override_key
from modiste.data.argument import Entry, compose_for
from modiste.data.build import bind_captions, load
from modiste.data.catalogue import Catalogue
from modiste.embedding.build import EmbedderOptions, build_embedder, check_options, choose_device, decode_of
from modiste.embedding.distributed import Job, default_number, embed_shards
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder
from modiste.models.load import Loaded, as_model, build_model, run_of
from modiste.models.load import load as load_model
from modiste.utils import arrow
from modiste.utils.atomic import atomic
from modiste.utils.hardware import usable_cores
from modiste.utils.lock import held
from modiste.utils.progress import progress_bar
from modiste.utils.run_dir import RunDir
from modiste.utils.texts import check_texts

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

IDS = "ids.parquet"
"""Table next to the matrices: ``row``, ``product_id``, ``split`` and ``text`` of each row."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a catalogue, one row per catalogue row.

    Attributes:
        image: Unit-norm image embeddings (N, D), float32.
        text: Unit-norm text embeddings (N, D), float32.
        ids: ``row``, ``product_id``, ``split`` and ``text`` of each row.
        fingerprint: sha256 of the model.
    """

    image: Tensor
    text: Tensor
    ids: pa.Table
    fingerprint: str


def embed(
    model: DualEncoder | Loaded | RunDir | str | Path,
    data: Catalogue | Entry | None = None,
    captions: Sequence[str] | None = None,
    **options: Unpack[EmbedderOptions],
) -> Embeddings:
    """Embed the images and texts of a catalogue.

    Args:
        model: A model, what `modiste.load` or `modiste.train` returns, a run directory, or a hub id or local directory
            of a published model.
        data: A catalogue; a data set's name; config groups and keys of `modiste embed` with their values
            (``{"data": "kagl", "data/split": "marqo"}``); None: that of the run.
        captions: The text of each row; None: from the caption templates of the named data set, of the run for a
            catalogue or None, or of ``data=table`` for a catalogue without a run.
        options: Keyword arguments of `modiste.embedding.build.build_embedder`: ``batch_size``, ``precision``,
            ``backend``, ``device``, …

    Raises:
        ModisteError: The model is missing or refused, ``data`` is no catalogue or name, data are missing, ``captions``
            are not one text per row, or an option is unknown or has an unknown value.

    >>> from modiste.data.synthetic import Synthetic
    >>> from modiste.config import compose
    >>> model = build_model(compose("embed", ["image=timm", "image.name=test_efficientnet", "image.size=32",
    ...     "image.pretrained=false", "model.embed_dim=16"]))
    >>> embeddings = embed(model, Synthetic(products=10, views=1, size=32)(), cache=False, progress=False)
    >>> embeddings.image.shape, embeddings.ids.column_names
    (torch.Size([10, 16]), ['row', 'product_id', 'split', 'text'])
    """
    check_options(options)
    dual_encoder, composed = as_model(model), compose_for("embed", data, run_of(model))
    catalogue = load(composed.config.data) if composed.catalogue is None else composed.catalogue
    if captions is None:
        texts = bind_captions(composed.config.data, catalogue).texts()
    else:
        texts = _checked_captions(captions, len(catalogue))
    embedder = build_embedder(dual_encoder, **options)
    return Embeddings(embedder.images(catalogue), embedder.texts(texts), _ids(catalogue, texts), embedder.fingerprint)


def _checked_captions(captions: object, count: int) -> list[str]:
    texts = list(captions) if isinstance(captions, Iterable) and not isinstance(captions, str) else []
    if len(texts) != count:
        raise ModisteError(f"captions: give a list of {count:,} texts, one per row of the catalogue.")
    check_texts(texts)
    return texts


@dataclass(frozen=True)
class EmbeddedFolder:
    """A folder of embeddings written by `embed_config`: ``image.npy``, ``text.npy`` and ``ids.parquet``.

    Attributes:
        folder: The folder.
        made: Number of shards computed by this call.
        data: Overrides of the embedded data set, for `modiste evaluate`.
    """

    folder: Path
    made: int
    data: list[str]

    def read(self) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """Return image and text embeddings (N, D), float32 and memory-mapped, and the table of ids."""
        image, text = (np.load(self.folder / f"{side}.npy", mmap_mode="r") for side in ("image", "text"))
        return image, text, arrow.read_parquet(self.folder / IDS)


def embed_config(cfg: DictConfig, line: Invocation) -> EmbeddedFolder:
    """Embed a catalogue as configured by ``embed``, into a folder of shards; an interrupted job resumes.

    Args:
        cfg: The composed configuration.
        line: The command line that it was composed from.

    Raises:
        ModisteError: The configuration is invalid, the folder contains other embeddings, or another process writes to
            it.
    """
    model, cfg = _model(cfg, line)
    validate(cfg)
    catalogue = load(cfg.data)
    texts = bind_captions(cfg.data, catalogue).texts()
    folder, device = Path(cfg.out), choose_device(cfg.device)
    number = default_number(device, usable_cores()) if cfg.number is None else cfg.number
    job = Job(
        model, catalogue, texts, folder, cfg.shard_rows, cfg.batch_size, cfg.precision, decode_of(cfg.data),
        cfg.backend, device, cfg.threads, cfg.min_cosine,
    )  # fmt: skip
    with held(folder):
        made = embed_shards(job, cfg.workers, number, progress_bar)
        with atomic(folder / IDS) as unfinished:
            pq.write_table(_ids(catalogue, texts), unfinished)
    return EmbeddedFolder(folder, made, _data_overrides(cfg, line))


def _data_overrides(cfg: DictConfig, line: Invocation) -> list[str]:
    own = of_data(line.overrides)
    if cfg.run and not any(override_key(override) == "data" for override in own):
        own = [*of_data(load_overrides(RunDir.find(cfg.run).path / "overrides.yaml")), *own]
    return own or [f"data={cfg.data.name}"]


def _model(cfg: DictConfig, line: Invocation) -> tuple[DualEncoder, DictConfig]:
    """Load the run's model, or build the ``model`` node; return it with the completed configuration."""
    if cfg.run:
        run = RunDir.find(cfg.run)
        trained = load_run_config(run.config)
        return load_model(run.path, cfg.checkpoint).model, from_run(cfg, trained, line.overrides)
    import torch

    torch.manual_seed(cfg.seed)  # model=two_tower has randomly initialised weights
    return build_model(cfg), cfg


def _ids(catalogue: Catalogue, texts: list[str]) -> pa.Table:
    columns: Mapping[str, Any] = {name: catalogue.column(name) for name in ("row", "product_id", "split")}
    return pa.table({**columns, "text": texts})
