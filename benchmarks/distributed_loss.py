"""Row 15: the contrastive loss over two processes, against open_clip's local loss with gathered gradients."""

from __future__ import annotations

import functools
import os
import socket
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from harness import Row
from torch.nn import functional as F

D = 512
WORLD = 2
KINDS = {"float32": 1e-4, "bfloat16": 2e-2}
"""``matmul_dtype`` of ours, and by how much their gradients may differ from the peer's, which are in float32."""


def loopback_bytes() -> int:
    """Bytes that the loopback interface has received since the start: gloo's processes of one machine talk over it."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def process(rank: int, port: int, pairs: int, rounds: int, out: Any) -> None:
    """One of the two processes: takes turns between the losses, on one thread."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    from open_clip.loss import ClipLoss as PeerLoss

    from modiste.losses.clip import ClipLoss
    from modiste.utils.hardware import keep_pages

    keep_pages()
    generator = torch.Generator().manual_seed(rank)
    image = torch.randn(pairs, D, generator=generator)
    text = F.normalize(image + 4 * torch.randn(pairs, D, generator=generator), dim=-1).requires_grad_()
    image = F.normalize(image, dim=-1).requires_grad_()
    product = torch.arange(pairs) + rank * pairs
    losses = {kind: ClipLoss(init_scale=14.0, matmul_dtype=kind) for kind in KINDS}
    peer = PeerLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=WORLD)
    scale = torch.tensor(14.0, requires_grad=True)
    works = {kind: functools.partial(loss, image, text, product) for kind, loss in losses.items()}
    works["peer"] = functools.partial(peer, image, text, scale)
    times: dict[str, list[float]] = {name: [] for name in works}
    moved, gradients = {}, {}
    for index in range(rounds + 1):
        for name in works if index % 2 else reversed(works):
            image.grad = text.grad = None
            dist.barrier()
            before, start = loopback_bytes(), time.perf_counter()
            works[name]().backward()
            dist.barrier()
            if index:  # the first round warms up
                times[name].append(time.perf_counter() - start)
            moved[name] = loopback_bytes() - before
            gradients[name] = torch.cat([image.grad, text.grad]).clone()  # type: ignore[list-item]
    errors = {kind: float((gradients[kind] - gradients["peer"]).norm() / gradients["peer"].norm()) for kind in KINDS}
    if rank == 0:
        out.put((times, moved, errors))
    dist.destroy_process_group()


def rows(quick: bool) -> Iterator[Row]:
    """Time and bytes of a forward and a backward pass."""
    from modiste.losses.matmul import has_bfloat16

    pairs, rounds = (256, 1) if quick else (4096, 5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = mp.get_context("spawn").SimpleQueue()
    context = mp.spawn(process, (port, pairs, rounds, out), nprocs=WORLD, join=False)
    times, moved, errors = out.get()
    while not context.join():
        pass
    peer = "open_clip ClipLoss(local_loss=True, gather_with_grad=True)"
    for kind, bound in KINDS.items():
        if not has_bfloat16("cpu") and kind == "bfloat16":
            continue  # float32 under another name
        error = errors[kind]
        assert error < bound, f"the gradients of matmul_dtype={kind} differ by {error}"
        what = f"clip loss, two gloo processes of one thread, {pairs:,} pairs each, D = {D}, matmul_dtype={kind}"
        ratio = statistics.median(b / a for a, b in zip(times[kind], times["peer"], strict=True))
        seconds = [statistics.median(times[name]) for name in (kind, "peer")]
        yield Row(
            15, what, peer, "time", *seconds, "s", ratio, 1.2, 1.5, f"gradients differ by {error:.0e}; peer in fp32"
        )
        mib = [moved[name] / 2**20 for name in (kind, "peer")]
        note = "all that the loopback interface carried, both ways; peer in fp32"
        yield Row(15, what, peer, "bytes", *mib, "MiB", mib[1] / mib[0], 2, 2, note)


if __name__ == "__main__":
    harness.main(__file__, rows)
