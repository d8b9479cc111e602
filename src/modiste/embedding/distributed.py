"""Embed a catalogue as independent shards with a manifest, in local processes or on Ray."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modiste.data.catalogue import Catalogue
from modiste.data.storage.preprocessed import MANIFEST, is_whole, read_manifest
from modiste.embedding.backends import check_name
from modiste.embedding.build import build_embedder
from modiste.embedding.embedder import MIN_COSINE, fingerprint, save_array
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.utils.atomic import atomic, check_space, file_digest, reserve
from modiste.utils.hardware import keep_pages
from modiste.utils.interrupts import delayed
from modiste.utils.orphans import end_with_parent, obey_parent_only
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import write_json

FORMAT = 1
SIDES = ("image", "text")
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Everything that determines the content of the shards: data, model and batches.

    Attributes:
        model: The dual encoder.
        catalogue: The catalogue; all rows are embedded, in order.
        texts: The text of each row.
        folder: Output folder, accessible to every worker.
        shard_rows: Rows per shard; a batch never spans two shards.
        batch_size: Images or texts per batch.
        precision: See `modiste.embedding.embedder.ModelEmbedder`.
        decode: See `modiste.data.decode.Decoder`.
        backend: See `modiste.embedding.embedder.ModelEmbedder`; not ``auto``, since workers might choose differently.
        device: Device of the model; ``cuda`` assigns the machine's GPUs to the workers in turn.
        min_cosine: See `modiste.embedding.embedder.ModelEmbedder`.
        threads: Torch threads per worker; the number may affect rounding.

    Raises:
        ModisteError: An option is invalid, or ``backend`` is ``auto``.
    """

    model: DualEncoder
    catalogue: Catalogue
    texts: Sequence[str]
    folder: Path
    shard_rows: int = 4096
    batch_size: int = 128
    precision: str = "fp32"
    decode: str = "pil"
    backend: str = "torch"
    device: str = "cpu"
    threads: int = 1
    min_cosine: Mapping[str, float] = field(default_factory=lambda: MIN_COSINE)

    def __post_init__(self) -> None:
        for name in ("shard_rows", "batch_size", "threads"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ModisteError(f"{name} must be an integer of at least 1, not {getattr(self, name)!r}.")
        check_name(self.backend, self.precision)
        if self.backend == "auto":
            raise ModisteError("backend=auto is chosen by a benchmark that may differ between workers: name a backend.")

    def identity(self, fingerprint: str) -> Record:
        """Return what determines the content of the shards, for the manifest."""
        return {
            "format": FORMAT,
            "data": self.catalogue.card.name,
            "data_fingerprint": self.catalogue.fingerprint(),
            "texts": _digest(self.texts),
            "rows": len(self.catalogue),
            "model_fingerprint": fingerprint,
            "preprocess": self.model.preprocess.describe(),
            "embed_dim": self.model.embed_dim,
            **{name: getattr(self, name) for name in ("shard_rows", "batch_size", "precision", "decode", "backend")},
            "threads": self.threads,
        }


class Worker:
    """Embed shards of a job in this process."""

    def __init__(self, job: Job, number: int = 0) -> None:
        keep_pages()
        torch.set_num_threads(job.threads)
        self.job = job
        self.embedder = build_embedder(
            job.model, batch_size=job.batch_size, precision=job.precision, backend=job.backend,
            min_cosine=job.min_cosine, device=device_of(job.device, number), cache=False, decode=job.decode,
            progress=False,
        )  # fmt: skip

    def __call__(self, index: int) -> Record:
        """Write shard ``index``; return its record for the manifest."""
        job = self.job
        rows = np.arange(len(job.catalogue))[index * job.shard_rows :][: job.shard_rows]
        vectors = {
            "image": self.embedder.images(job.catalogue.select(rows=rows)),
            "text": self.embedder.texts([job.texts[row] for row in rows]),
        }
        record: Record = {"index": index, "first": int(rows[0]), "rows": len(rows)}
        return record | {side: _save(job.folder / f"{side}-{index:05}.npy", vectors[side].numpy()) for side in SIDES}


def device_of(device: str, number: int) -> str:
    """Return the device of worker ``number``: one GPU each, shared if there are more workers than GPUs.

    >>> device_of("cpu", 3)
    'cpu'
    """
    return f"cuda:{number % max(torch.cuda.device_count(), 1)}" if device == "cuda" else device


def default_number(device: str, cores: int) -> int:
    """Default number of workers: one per GPU, or one per core."""
    return max(torch.cuda.device_count(), 1) if device.startswith("cuda") else cores


def embed_shards(job: Job, workers: str = "processes", number: int = 1, progress: Progress = silent) -> int:
    """Compute the missing shards, and concatenate all shards into ``image.npy`` and ``text.npy``.

    Args:
        job: The embedding job.
        workers: ``processes`` on this machine, or ``ray``.
        number: Number of workers; a single ``processes`` worker runs in this process.
        progress: `modiste.utils.progress.progress_bar` or `silent`.

    Returns:
        The number of shards computed.

    Raises:
        ModisteError: The folder contains other embeddings, ``workers`` is unknown, Ray is not installed, a worker was
            killed, or the disk is full.
    """
    if workers not in WORKERS:
        raise ModisteError(f"workers={workers} is not known. {did_you_mean(workers, WORKERS)}")
    if number < 1:
        raise ModisteError(f"The number of workers must be at least 1, not {number}.")
    identity = json.loads(json.dumps(job.identity(fingerprint(job.model)), default=str))
    known = _finished(job.folder, identity)
    total = -(-len(job.catalogue) // job.shard_rows)
    missing = [index for index in range(total) if index not in known]

    def note(complete: bool) -> None:
        shards = [known[index] for index in sorted(known)]
        write_json(job.folder / MANIFEST, identity | {"complete": complete, "shards": shards})

    if missing:
        rows = min(len(missing) * job.shard_rows, len(job.catalogue)) + len(job.catalogue)  # shards and full matrix
        check_space(job.folder, len(SIDES) * rows * job.model.embed_dim * 4, "Embedding")
        note(False)
        records = WORKERS[workers](job, missing, number)
        for record in progress(records, len(missing), f"Embedding {len(job.catalogue)} products"):
            known[record["index"]] = record
            note(False)
    for side in SIDES:
        _join(job, side, [known[index][side]["file"] for index in range(total)])
    note(True)
    return len(missing)


def _finished(folder: Path, identity: Record) -> dict[int, Record]:
    """Return the intact shards of an earlier, interrupted job by their index.

    Raises:
        ModisteError: They belong to another job.
    """
    earlier = read_manifest(folder)
    if earlier is None or not earlier["shards"]:
        return {}
    for name, value in identity.items():
        if earlier.get(name) != value:
            raise ModisteError(f"{folder} contains other embeddings ({name} differs): choose another out=…")
    whole = (s for s in earlier["shards"] if all(is_whole(folder, s[side], checksum=True) for side in SIDES))
    return {shard["index"]: shard for shard in whole}


def _with_processes(job: Job, indices: Sequence[int], number: int) -> Iterator[Record]:
    if number == 1:
        threads = torch.get_num_threads()
        try:
            yield from map(Worker(job), indices)
        finally:
            torch.set_num_threads(threads)
        return
    count = min(number, len(indices))
    context = get_context("spawn")
    numbers = context.Value("i", 0)
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(job, numbers))
    try:
        with delayed():  # interrupted while it starts, a process would print a traceback
            work = [pool.submit(_embed_shard, index) for index in indices]
        for done in as_completed(work):
            yield done.result()
    except BrokenProcessPool as error:
        raise ModisteError(
            "A worker was killed, perhaps because memory ran out; finished shards are kept: run the same command "
            "again, with a smaller number= or batch_size= if it happens again."
        ) from error
    except BaseException:  # also an interrupt: do not wait for running shards
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None
"""The worker of this process, if it is a worker process."""


def _start(job: Job, numbers: Any) -> None:
    global _worker
    obey_parent_only()
    parent = parent_process()
    end_with_parent(parent.pid if parent else None)
    with numbers.get_lock():
        number, numbers.value = numbers.value, numbers.value + 1
    _worker = Worker(job, number)


def _embed_shard(index: int) -> Record:
    assert _worker is not None
    return _worker(index)


class _Actor:
    """A worker of Ray Data; a row names a shard. Ray's object store holds the job, once per machine."""

    def __init__(self, reference: Any) -> None:
        import ray

        self.worker = Worker(ray.get(reference[0]))

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        return {"record": json.dumps(self.worker(int(row["item"])))}


def _with_ray(job: Job, indices: Sequence[int], number: int) -> Iterator[Record]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ModisteError("workers=ray needs Ray Data: pip install 'ray[data]', or use workers=processes.") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # its telemetry
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    shards: Any = ray.data.from_items(list(indices), override_num_blocks=len(indices))
    options = {"fn_constructor_args": ([ray.put(job)],), "concurrency": min(number, len(indices)), "num_cpus": 1}
    if job.device.startswith("cuda"):
        options["num_gpus"] = 1  # Ray makes a different GPU visible to each worker
    for row in shards.map(_Actor, **options).iter_rows():
        yield json.loads(row["record"])


WORKERS: dict[str, Callable[[Job, Sequence[int], int], Iterator[Record]]] = {
    "processes": _with_processes,
    "ray": _with_ray,
}


def _join(job: Job, side: str, files: Sequence[str]) -> None:
    """Concatenate all shards through a memory map, since the matrix may not fit into memory."""
    path = job.folder / f"{side}.npy"
    shape = (len(job.catalogue), job.model.embed_dim)
    with atomic(path) as unfinished:
        matrix = np.lib.format.open_memmap(unfinished, "w+", dtype=np.float32, shape=shape)
        reserve(unfinished)
        for index, file in enumerate(files):
            part = np.load(job.folder / file, mmap_mode="r")
            matrix[index * job.shard_rows :][: len(part)] = part
        matrix.flush()


def _save(path: Path, array: np.ndarray) -> Record:
    with atomic(path) as unfinished:
        save_array(unfinished, array)
        digest = file_digest(unfinished)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()
