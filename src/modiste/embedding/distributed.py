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
from modiste.embedding.embedder import MIN_COSINE, ModelEmbedder, save_array
from modiste.errors import ModisteError, did_you_mean
from modiste.models.dual_encoder import DualEncoder
from modiste.utils.atomic import atomic, check_space, file_digest
from modiste.utils.interrupts import delayed
from modiste.utils.machine import keep_pages
from modiste.utils.orphans import end_with_parent, obey_parent_only
from modiste.utils.progress import Progress, silent
from modiste.utils.run_dir import write_json

FORMAT = 1
SIDES = ("image", "text")
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Embedding job: data, model and batches. A shard depends on nothing else.

    Attributes:
        model: The dual encoder.
        catalogue: All its rows are embedded, in their order.
        texts: The text of every row.
        folder: Where the shards go; every worker must see it.
        shard_rows: Rows of a shard; batches do not reach over its end.
        batch_size: Images or texts at a time.
        precision: As of `modiste.embedding.embedder.ModelEmbedder`.
        decode: As of `modiste.embedding.embedder.ModelEmbedder`.
        backend: As of `modiste.embedding.embedder.ModelEmbedder`, without ``auto``: each worker would choose its own.
        device: Of the model; ``cuda`` deals the GPUs of the machine to the workers in turn.
        min_cosine: As of `modiste.embedding.embedder.ModelEmbedder`.
        threads: Of torch in every worker. Other numbers of them may round otherwise.
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
        """What decides the shards' content, for the manifest."""
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
        model = job.model.to(device_of(job.device, number))
        self.embedder = ModelEmbedder(
            model, job.batch_size, job.precision, decode=job.decode, backend=job.backend, min_cosine=job.min_cosine
        )

    def __call__(self, index: int) -> Record:
        """Write shard ``index``; return its part of the manifest."""
        job = self.job
        rows = np.arange(len(job.catalogue))[index * job.shard_rows :][: job.shard_rows]
        vectors = {
            "image": self.embedder.images(job.catalogue.select(rows=rows)),
            "text": self.embedder.texts([job.texts[row] for row in rows]),
        }
        record: Record = {"index": index, "first": int(rows[0]), "rows": len(rows)}
        return record | {side: _save(job.folder / f"{side}-{index:05}.npy", vectors[side].numpy()) for side in SIDES}


def device_of(device: str, number: int) -> str:
    """The device of worker ``number``: each has one GPU, and a GPU several workers where there are more of them.

    >>> device_of("cpu", 3)
    'cpu'
    """
    return f"cuda:{number % max(torch.cuda.device_count(), 1)}" if device == "cuda" else device


def default_number(device: str, cores: int) -> int:
    """Default number of workers: one per GPU, or one per core."""
    return max(torch.cuda.device_count(), 1) if device.startswith("cuda") else cores


def embed_shards(job: Job, workers: str = "processes", number: int = 1, progress: Progress = silent) -> int:
    """Make the shards that are missing, and join all of them in ``image.npy`` and ``text.npy``.

    Args:
        job: What is embedded.
        workers: ``processes`` of this machine, or ``ray``.
        number: Of workers; one process is this one.
        progress: `modiste.utils.progress.progress_bar` or `silent`.

    Returns:
        The number of shards that had to be made.

    Raises:
        ModisteError: The folder holds other embeddings, ``workers`` is unknown, Ray is not installed, or a worker was
            killed.
    """
    if workers not in WORKERS:
        raise ModisteError(f"workers={workers} is not known. {did_you_mean(workers, WORKERS)}")
    if number < 1:
        raise ModisteError(f"The number of workers must be at least 1, not {number}.")
    identity = json.loads(json.dumps(job.identity(ModelEmbedder(job.model).fingerprint), default=str))
    known = _finished(job.folder, identity)
    total = -(-len(job.catalogue) // job.shard_rows)
    missing = [index for index in range(total) if index not in known]

    def note(complete: bool) -> None:
        shards = [known[index] for index in sorted(known)]
        write_json(job.folder / MANIFEST, identity | {"complete": complete, "shards": shards})

    if missing:
        rows = min(len(missing) * job.shard_rows, len(job.catalogue)) + len(job.catalogue)  # shards, and all joined
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
    """The shards of an earlier, interrupted job that are whole.

    Raises:
        ModisteError: They are of another job.
    """
    earlier = read_manifest(folder)
    if earlier is None or not earlier["shards"]:
        return {}
    for name, value in identity.items():
        if earlier.get(name) != value:
            raise ModisteError(f"{folder} holds other embeddings ({name} differs): choose another out=…")
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
        with delayed():  # a process that is being started would say so with a traceback
            work = [pool.submit(_embed_shard, index) for index in indices]
        for done in as_completed(work):
            yield done.result()
    except BrokenProcessPool as error:
        raise ModisteError(
            "A worker was killed, perhaps because memory ran out; finished shards are kept: run the same command "
            "again, with a smaller number= or batch_size= if it happens again."
        ) from error
    except BaseException:  # also an interrupt: what was started is not waited for
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_worker: Worker | None = None
"""Of a worker process."""


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
    """A worker of Ray Data: one row of its input names a shard. The job lies in Ray's store, once per machine."""

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
        options["num_gpus"] = 1  # Ray shows each worker its own
    for row in shards.map(_Actor, **options).iter_rows():
        yield json.loads(row["record"])


WORKERS: dict[str, Callable[[Job, Sequence[int], int], Iterator[Record]]] = {
    "processes": _with_processes,
    "ray": _with_ray,
}


def _join(job: Job, side: str, files: Sequence[str]) -> None:
    """One matrix of all shards, written through a memory map: it need not fit into memory."""
    path = job.folder / f"{side}.npy"
    shape = (len(job.catalogue), job.model.embed_dim)
    with atomic(path) as unfinished:
        matrix = np.lib.format.open_memmap(unfinished, "w+", dtype=np.float32, shape=shape)
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
