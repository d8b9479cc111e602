"""Two processes of `torch.distributed` with gloo, started once for all tests of this process."""

import functools
import io
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import torch
import torch.distributed as dist


def on_two_processes(work):
    """What ``work(rank)``, a function of a module, returns on each of them, in a group of its own."""
    with tempfile.TemporaryDirectory() as folder:
        running = [_pool().submit(_process, work, rank, f"{folder}/store") for rank in range(2)]
        return [torch.load(io.BytesIO(future.result()), weights_only=True) for future in running]


@functools.cache
def _pool():
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


def _process(work, rank, store):
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=limit)
    try:
        found = work(rank)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    written = io.BytesIO()
    torch.save(found, written)
    return written.getvalue()
