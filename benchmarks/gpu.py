"""On a GPU: whether everything works there and how fast, next to its peers, in at most eight minutes on one card.

python benchmarks/gpu.py                       # tests/gpu and all rows; writes results/gpu.json and the README's table
python benchmarks/gpu.py ranking               # one topic; the other rows stay, if they are of this card
python benchmarks/gpu.py --device cpu --quick  # rehearses every row in small; writes nothing

The topic `tests` runs `pytest -m gpu`. Each topic runs in a separate process with a time limit: one that fails, or
whose peer is not installed, is reported, and the others continue.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import torch
from harness import Work
from torch.nn import functional as F

from modiste.reporting.tables.sheets import formatted_table
from modiste.utils.hardware import environment, is_out_of_memory, usable_cores

README, RESULTS = Path(__file__).with_name("README.md"), harness.RESULTS / "gpu.json"
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
TOTAL = 480
"""Seconds of the whole command."""
LIMIT = 45
"""Seconds per topic, and of ``tests`` three times as many."""
TESTS = "tests"
NOT_RUN = "not run on a GPU"


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Attributes:
        what: What is done, with sizes.
        peer: What it is compared with.
        unit: Of both values.
        must: The ratio (how many times better ours is) that has to hold.
        aim: The ratio aimed at.
    """

    what: str
    peer: str
    unit: str
    must: float | None
    aim: float | None


CLIP = "clip loss, forward and backward, N = 32,768, D = 512, bf16 inputs"
SIGLIP = "siglip loss, forward and backward, N = 65,536, D = 768, bf16 inputs"
STEP = "training step of CLIP ViT-B/32, bf16"
CACHING = "gradient caching of CLIP ViT-B/32 in 16 micro-batches"
GOALS = {
    "clip/time": Goal(f"{CLIP}: time", "open_clip ClipLoss", "ms", 1, 2),
    "clip/memory": Goal(f"{CLIP}: peak memory", "open_clip ClipLoss", "MiB", 20, 60),
    "clip/rate": Goal("clip loss: operations per second", "the card's bf16 matmul", "TFLOP/s", 0.35, 0.6),
    "siglip/time": Goal(f"{SIGLIP}: time", "the faster of open_clip SigLipLoss and siglip-kernel", "ms", 1, 1.2),
    "siglip/h100": Goal(f"{SIGLIP}: time", "siglip-kernel on an H100, as it says", "ms", None, 1),
    "siglip/rate": Goal("siglip loss: operations per second", "the card's bf16 matmul", "TFLOP/s", 0.35, 0.6),
    "step/rate": Goal(f"{STEP}, batch 4,096, pixels on the card", "open_clip_train.train_one_epoch", "pairs/s", 1, 1.3),
    "jpeg/idle": Goal(f"{STEP}, batch 512, from 600×800 JPEGs: idle GPU", "open_clip's loader", "%", 1, None),
    "jpeg/aim": Goal(f"{STEP}, batch 512, from 600×800 JPEGs: idle GPU", "10 %", "%", None, 1),
    "caching/time": Goal(f"{CACHING}: time", "the plain step", "ms", 1 / 1.35, 1 / 1.2),
    "caching/memory": Goal(f"{CACHING}: peak memory", "the plain step", "MiB", 8, 12),
    "images/rate": Goal("embedding images in host memory, ViT-B/32", "eager fp16", "images/s", 1.3, 2),
    "texts/rate": Goal("embedding captions, MiniLM, with tokenising", "eager fp16", "texts/s", 1.3, 2),
    "ranking/time": Goal("ranking 100,000 × 100,000, D = 512, both directions", "mm and topk in blocks", "ms", 1, 2),
}


@dataclass(frozen=True)
class Found:
    """A measured row: its key in `GOALS`, both values, how many times better ours is, and what goes with it."""

    key: str
    ours: float
    theirs: float | None
    ratio: float | None
    note: str = ""


# ----------------------------------------------------------------------------------------------------------- measuring


def synced(work: Work, device: torch.device) -> Work:
    """``work`` until the card has done it."""

    def run() -> Any:
        result = work()
        synchronise(device)
        return result

    return run


def synchronise(device: torch.device) -> None:
    """Wait for the card."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mib(work: Work, device: torch.device) -> float:
    """Memory that ``work`` needs beyond what is held, MiB: of the card, or in a rehearsal of this process."""
    if device.type != "cuda":
        return max(harness._peak(work), 1e-3)
    synced(work, device)()  # libraries allocate their workspaces
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    synced(work, device)()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def forget(device: torch.device) -> None:
    """Frees what the last attempt held."""
    harness.release()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def compared(ours: Work, theirs: Work, device: torch.device, rounds: int) -> tuple[float, float, float]:
    """Median seconds of both in turns, and the median ratio."""
    return harness.interleave(synced(ours, device), synced(theirs, device), rounds)


def timed(key: str, ours: Work, theirs: Work, device: torch.device, rounds: int, note: str = "") -> Found:
    """A row of time in milliseconds."""
    a, b, ratio = compared(ours, theirs, device, rounds)
    return Found(key, 1e3 * a, 1e3 * b, ratio, note)


def or_out_of_memory(measure: Callable[[], Any], device: torch.device) -> Any:
    """What ``measure`` gives, or None where the memory does not suffice."""
    try:
        return measure()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    forget(device)
    return None


def profile(work: Work, device: torch.device) -> str:
    """Which fraction of the time the card works, and which of that goes into matmuls."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    on_card = device.type == "cuda"
    with profiler(activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]) as seen:
        seconds = harness.seconds(synced(work, device))
    kernels = [(e.key, e.self_device_time_total if on_card else e.self_cpu_time_total) for e in seen.key_averages()]
    busy = sum(duration for _, duration in kernels) / 1e6
    words = ("gemm", "cutlass", "nvjet", "xmma", "aten::mm", "aten::addmm")
    matmuls = sum(duration for name, duration in kernels if any(word in name for word in words)) / 1e6
    return f"busy {busy / seconds:.0%} of the time, matmuls {matmuls / max(busy, 1e-9):.0%} of that"


# -------------------------------------------------------------------------------------------------------------- losses


def features(pairs: int, dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-norm bf16 image and text features (N, D) that agree a little, as in training."""
    generator = torch.Generator(device).manual_seed(0)
    image = torch.randn(pairs, dim, generator=generator, device=device)
    text = image + 4 * torch.randn(pairs, dim, generator=generator, device=device)
    return tuple(F.normalize(x, dim=-1).bfloat16().requires_grad_() for x in (image, text))  # type: ignore[return-value]


def backward(image: torch.Tensor, text: torch.Tensor, loss: Callable[[], torch.Tensor]) -> None:
    """Value and gradients."""
    image.grad = text.grad = None
    loss().backward()


def our_loss(kind: str, tile: int, device: torch.device) -> Any:
    """Our loss with bf16 matmul inputs and float32 logits."""
    from modiste.losses.clip import ClipLoss
    from modiste.losses.siglip import SigLipLoss

    return {"clip": ClipLoss, "siglip": SigLipLoss}[kind](tile=tile, matmul_dtype="bfloat16").to(device)


def fastest_tile(kind: str, inputs: Any, tiles: Sequence[int], most: float, device: torch.device) -> tuple[Work, str]:
    """The work of the fastest tile whose peak memory is at most ``most`` MiB (of all, if none is), and all times."""
    tried = []
    for tile in tiles:
        loss = our_loss(kind, tile, device)
        work = functools.partial(backward, *inputs, functools.partial(loss, *inputs))
        memory = or_out_of_memory(functools.partial(peak_mib, work, device), device)
        if memory is not None:
            tried.append((memory > most, harness.seconds(synced(work, device)), tile, work))
    _, _, tile, work = min(tried, key=lambda entry: entry[:2])
    times = ", ".join(f"{tile:,} in {1e3 * seconds:.1f} ms" for _, seconds, tile, _ in tried)
    return work, f"tile={tile}; of {times}"


def matmul_rate(size: int, device: torch.device) -> float:
    """TFLOP/s of a bf16 matmul of two square matrices."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    work = synced(lambda: [a @ b for _ in range(10)], device)
    work()
    return 20 * size**3 / min(harness.seconds(work) for _ in range(5)) / 1e12


def loss_rate(kind: str, pairs: int, dim: int, milliseconds: float, work: Work, quick: bool, device: Any) -> Found:
    """Operations that our loss executes per second, against the card's matmul."""
    per_pair = {"clip": 8, "siglip": 6}[kind]  # the logits of clip are computed twice
    ours, card = per_pair * pairs**2 * dim / milliseconds / 1e9, matmul_rate(256 if quick else 8192, device)
    return Found(f"{kind}/rate", ours, card, ours / card, f"{per_pair}·N²·D operations; {profile(work, device)}")


def clip(quick: bool, device: torch.device) -> Iterator[Found]:
    """The contrastive loss."""
    from open_clip.loss import ClipLoss as Peer

    pairs, dim, tiles, rounds = (256, 32, (128, 64), 1) if quick else (32_768, 512, (2048, 4096, 8192), 5)
    image, text = features(pairs, dim, device)
    scale, peer = torch.tensor(100.0, device=device, requires_grad=True), Peer()
    theirs = functools.partial(backward, image, text, lambda: peer(image, text, scale))
    their_memory = or_out_of_memory(lambda: peak_mib(theirs, device), device)
    ours, note = fastest_tile("clip", (image, text), tiles, (their_memory or 1e9) / 20, device)
    our_memory = peak_mib(ours, device)
    if their_memory is None:
        time_ = Found("clip/time", 1e3 * harness.seconds(synced(ours, device)), None, None, "the peer is out of memory")
    else:
        time_ = timed("clip/time", ours, theirs, device, rounds, f"{note}; logits in float32, the peer's in bf16")
    yield time_
    yield Found("clip/memory", our_memory, their_memory, their_memory and their_memory / our_memory)
    yield loss_rate("clip", pairs, dim, time_.ours, ours, quick, device)


def siglip(quick: bool, device: torch.device) -> Iterator[Found]:
    """The sigmoid loss."""
    from open_clip.loss import SigLipLoss as Peer

    pairs, dim, tiles, rounds = (256, 32, (128, 64), 1) if quick else (65_536, 768, (2048, 4096, 8192), 3)
    image, text = features(pairs, dim, device)
    scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (10.0, -10.0))
    peer, peers = Peer(), {}
    peers["open_clip"] = functools.partial(backward, image, text, lambda: peer(image, text, scale, bias))
    times, said = {}, []
    try:
        from siglip_kernel import fused_siglip_loss  # triton looks for the card

        log_scale = torch.tensor(10.0, device=device).log().requires_grad_()
        peers["siglip-kernel"] = functools.partial(
            backward, image, text, lambda: fused_siglip_loss(image, text, log_scale, bias)
        )
    except (ImportError, RuntimeError) as error:
        said.append(f"siglip-kernel: {first_line(error)}")
    for name, work in peers.items():
        try:
            times[name] = [harness.seconds(synced(work, device)) for _ in range(2)][-1]
            said.append(f"{name} {1e3 * times[name]:.1f} ms")
        except Exception as error:  # the kernels of one peer are no reason to lose the other
            said.append(f"{name}: {'out of memory' if is_out_of_memory(error) else first_line(error)}")
        forget(device)
    ours, note = fastest_tile("siglip", (image, text), tiles, 1e9, device)
    note = f"{note}; {', '.join(said)}; ours {peak_mib(ours, device):,.0f} MiB"
    row = timed("siglip/time", ours, peers[min(times, key=times.__getitem__)], device, rounds, note)
    yield row
    yield Found("siglip/h100", row.ours, 49.0, 49.0 / row.ours, "on this card")
    yield loss_rate("siglip", pairs, dim, row.ours, ours, quick, device)


# ------------------------------------------------------------------------------------------------------------ training


TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def clip_name(quick: bool, folder: Path) -> str:
    """CLIP ViT-B/32, or a tiny one, by its name in open_clip."""
    if not quick:
        return "ViT-B-32"
    import open_clip

    (folder / "tiny_clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder)
    return "tiny_clip"


class Clocked:
    """Batches, and the seconds of a step between the one after ``warm`` others and the last."""

    def __init__(self, source: Iterable[Any], count: int, warm: int, device: torch.device) -> None:
        self.source, self.count, self.warm, self.device = source, count, warm, device
        self.num_batches = self.num_samples = count  # open_clip's names
        self.seconds = 0.0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        begin = 0.0
        for index, batch in enumerate(itertools.islice(self.source, self.count)):
            if index in (self.warm, self.count - 1):
                synchronise(self.device)
                begin, before = time.perf_counter(), begin
            if index == self.count - 1:
                self.seconds = (begin - before) / (self.count - 1 - self.warm)
            yield batch


def our_epoch(model: Any, batches: Clocked, micro_batch: int | None) -> None:
    """Lightning's trainer with our module over ``batches``."""
    from lightning.pytorch import Trainer

    from modiste.losses.clip import ClipLoss
    from modiste.training.grad_cache import GradCache
    from modiste.training.module import ContrastiveModule
    from modiste.training.optim import Optim

    optim = Optim(torch.optim.AdamW, lr=1e-5, schedule="constant", warmup=0)
    module = ContrastiveModule(
        model, ClipLoss(), optim, batches_per_epoch=len(batches), grad_cache=GradCache(micro_batch)
    )
    Trainer(
        max_epochs=1, accelerator="gpu" if batches.device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed",
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    ).fit(module.train(), batches)  # fmt: skip


def their_epoch(model: Any, batches: Clocked, batch: int, folder: Path) -> None:
    """open_clip's `train_one_epoch` over ``batches``."""
    import open_clip
    from open_clip_train.params import parse_args
    from open_clip_train.train import train_one_epoch

    class Data:
        dataloader = batches

        def set_epoch(self, epoch: int) -> None:
            pass

    args = parse_args(["--train-data", str(folder), "--batch-size", str(batch), "--precision", "amp_bf16"])
    args.device, args.rank, args.world_size, args.distributed, args.distill = str(batches.device), 0, 1, False, False
    args.horovod, args.skip_scheduler, args.wandb, args.local_rank = False, True, False, 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    train_one_epoch(model, {"train": Data()}, open_clip.ClipLoss(), 0, optimizer, None, None, None, args)


def our_batch(model: Any, pairs: int, device: torch.device) -> dict[str, Any]:
    """Random uint8 pixels and captions."""
    size = model.preprocess.size
    tokens = {name: tensor.to(device) for name, tensor in model.tokenizer(captions(pairs)).items()}
    pixels = torch.randint(0, 256, (pairs, 3, size, size), dtype=torch.uint8, device=device)
    rows = torch.arange(pairs, device=device)
    return {"pixels": pixels, "tokens": tokens, "product": rows, "row": rows}


def captions(count: int) -> list[str]:
    """Distinct titles of four to twelve words."""
    from training import captions as titles

    return [f"{title} {index}" for index, title in enumerate(titles(count))]


def towers(name: str, device: torch.device) -> tuple[Any, Any]:
    """Our wrapper of a model of open_clip, and such a model as open_clip trains it."""
    import open_clip

    from modiste.pretrained.openclip import OpenClipDualEncoder

    ours = OpenClipDualEncoder(name, pretrained="random").to(device)
    theirs = open_clip.create_model(name, output_dict=True).to(device)
    return ours, theirs


def that_fits(run: Callable[[Any], float], choices: Sequence[Any], device: torch.device) -> tuple[float, Any]:
    """Seconds by the first of ``choices`` for which the memory suffices, and that choice."""
    for choice in choices:
        seconds = or_out_of_memory(functools.partial(run, choice), device)
        if seconds is not None:
            return seconds, choice
    raise RuntimeError(f"the memory suffices for none of {list(choices)}")


def step(quick: bool, device: torch.device) -> Iterator[Found]:
    """A training step with pixels on the card."""
    batch, count, warm = (8, 3, 1) if quick else (4096, 8, 3)
    with tempfile.TemporaryDirectory() as folder:
        model, peer = towers(clip_name(quick, Path(folder)), device)
        mine = our_batch(model, batch, device)

        def ours(micro_batch: int | None) -> float:
            clock = Clocked(itertools.repeat(mine), count, warm, device)
            our_epoch(model, clock, micro_batch)
            return clock.seconds

        def theirs(checkpointing: bool) -> float:
            peer.set_grad_checkpointing(checkpointing)
            images = model.preprocess.normalise(mine["pixels"])
            clock = Clocked(itertools.repeat((images, mine["tokens"]["input_ids"])), count, warm, device)
            their_epoch(peer, clock, batch, Path(folder))
            return clock.seconds

        a, micro_batch = that_fits(ours, [None, batch // 2, batch // 4, batch // 8, batch // 16], device)
        model.to("cpu")
        forget(device)
        b, checkpointing = that_fits(theirs, [False, True], device)
    note = f"ours with grad_cache.micro_batch={micro_batch or 'null'}, the peer "
    note += "with --grad-checkpointing" if checkpointing else "without --grad-checkpointing"
    yield Found("step/rate", batch / a, batch / b, b / a, note)


def loader_workers(batch_mib: float) -> int:
    """Loading processes: one per core but one, and no more than shared memory holds batches of."""
    free = shutil.disk_usage("/dev/shm").free / 2**20 if os.path.exists("/dev/shm") else 2**20
    return max(1, min(usable_cores() - 1, int(free / (4 * batch_mib))))


def jpeg(quick: bool, device: torch.device) -> Iterator[Found]:
    """The same step from JPEG files: how long the card waits for the loader."""
    from training import write_photos

    batch, photos = (8, 8) if quick else (512, 128)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, peer = towers(clip_name(quick, folder), device)
        workers = loader_workers(batch * 3 * model.preprocess.size**2 * 4 / 2**20)
        warm, count = (1, 3) if quick else (2 * workers, 5 * workers)
        paths = (write_photos(folder, photos) * (-(-batch * count // photos)))[: batch * count]
        data = our_loader(model, paths, batch, workers)
        peers = their_loader(peer, paths, batch, workers, folder)
        found = {}
        for who, loader in (("ours", data), ("theirs", peers)):
            first = next(iter(loader))
            on_card = [t.to(device) for t in first] if who == "theirs" else our_batch(model, batch, device)
            seconds = []
            for source, steps, skipped in ((itertools.repeat(on_card), min(count, 12), 2), (loader, count, warm)):
                clock = Clocked(source, max(steps, skipped + 2), skipped, device)
                if who == "ours":
                    our_epoch(model, clock, None)
                else:
                    their_epoch(peer, clock, batch, folder)
                seconds.append(clock.seconds)
            found[who] = (max(1 - seconds[0] / seconds[1], 0.0), batch / seconds[1])
    (a, our_rate), (b, their_rate) = found["ours"], found["theirs"]
    note = f"{workers} loading processes; {our_rate:,.0f} pairs/s, the peer's {their_rate:,.0f}; data.decode=scaled; "
    note += "idle: 1 - step with pixels on the card / step from files"
    yield Found("jpeg/idle", 100 * a, 100 * b, b / max(a, 1e-3), note)
    yield Found("jpeg/aim", 100 * a, 10.0, 10.0 / max(100 * a, 0.1))


def our_loader(model: Any, paths: Sequence[Path], batch: int, workers: int) -> Any:
    """The training loader of our data module."""
    from modiste.data.catalogue import Card, Catalogue
    from modiste.data.module import FashionDataModule
    from modiste.data.sources import FolderImages

    rows, names = [str(index) for index in range(len(paths))], [path.name for path in paths]
    columns = {"product_id": rows, "image": names, "text": captions(len(paths)), "pixels": rows}
    columns["split"] = ["train"] * len(paths)
    catalogue = Catalogue.build(Card("photos"), columns, FolderImages(paths[0].parent))
    data = FashionDataModule(catalogue, model, batch_size=batch, num_workers=workers, decode="scaled")
    return data.train_dataloader()


def their_loader(model: Any, paths: Sequence[Path], batch: int, workers: int, folder: Path) -> Any:
    """open_clip's loader of the same pairs, from its CSV."""
    import csv

    import open_clip
    from open_clip_train.data import get_data
    from open_clip_train.params import parse_args

    table = folder / "pairs.csv"
    with table.open("w", newline="") as file:
        pairs = zip(map(str, paths), captions(len(paths)), strict=True)
        csv.writer(file, delimiter="\t").writerows([("filepath", "title"), *pairs])
    given = ["--train-data", str(table), "--dataset-type", "csv", "--batch-size", str(batch), "--workers", str(workers)]
    args = parse_args(given)
    args.distributed, args.rank, args.world_size = False, 0, 1
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=True)
    return get_data(args, (preprocess, preprocess), tokenizer=open_clip.tokenize)["train"].dataloader


def caching(quick: bool, device: torch.device) -> Iterator[Found]:
    """Gradient caching against the plain step."""
    from modiste.losses.clip import ClipLoss
    from modiste.training.grad_cache import GradCache

    total = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0
    pairs = 32 if quick else 2048 if total > 120 else 1024 if total > 60 else 512
    with tempfile.TemporaryDirectory() as folder:
        model, loss = towers(clip_name(quick, Path(folder)), device)[0].train(), ClipLoss().to(device)
    batch = our_batch(model, pairs, device)

    def work(micro_batch: int | None) -> None:
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(*GradCache(micro_batch)(model, batch["pixels"], batch["tokens"]))
        value.backward()

    cached, plain = (functools.partial(work, micro) for micro in (pairs // 16, None))
    note = f"{pairs:,} pairs"
    yield timed("caching/time", cached, plain, device, 1 if quick else 5, note)
    a, b = (peak_mib(run, device) for run in (cached, plain))
    yield Found("caching/memory", a, b, b / a, note)


# ------------------------------------------------------------------------------------------------- embedding, ranking


def small_text() -> Any:
    """A text tower that costs nothing."""
    from modiste.texts.hf import HfTextEncoder
    from modiste.texts.words import HashTokenizer

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = {"model_type": "bert", "vocab_size": 64, **sizes}
    return HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64))


def images(quick: bool, device: torch.device) -> Iterator[Found]:
    """Images in host memory to embeddings in host memory."""
    from modiste.embedding.backends import Tower, compiled, eager
    from modiste.embedding.transfer import fetched, to_device
    from modiste.images.timm import TimmEncoder
    from modiste.models.dual_encoder import TwoTower

    name, size, batch, count = ("test_vit", 160, 4, 3) if quick else ("vit_base_patch32_224", 224, 512, 24)
    model = TwoTower(TimmEncoder(name, size=size), small_text(), embed_dim=512).to(device).eval()
    distinct = [torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8) for _ in range(min(count, 4))]
    batches = list(itertools.islice(itertools.cycle(distinct), count))
    tower = Tower(model, "image", batches[0].to(device))
    half = copy.deepcopy(model).half()

    @torch.inference_mode()
    def ours(run: Any) -> torch.Tensor:
        parts = ((None, run(to_device(pixels, device))) for pixels in batches)
        return torch.cat([part for _, part in fetched(parts)])

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        parts = []
        for pixels in batches:
            normalised = half.preprocess.normalise(pixels.to(device)).half()
            parts.append(F.normalize(half.image_projection(half.image(normalised)).float(), dim=-1).cpu())
        return torch.cat(parts)

    works = {"eager bf16": functools.partial(ours, eager(tower, "bf16"))}
    start = time.perf_counter()
    program = compiled(tower, "bf16")
    works["compiled bf16"] = functools.partial(ours, program)
    said = ""
    try:
        program(tower.example)
        said = f"compiled in {time.perf_counter() - start:.0f} s; "
    except Exception as error:
        works.pop("compiled bf16")
        said = f"torch.compile failed: {first_line(error)}; "
    yield best("images/rate", works, theirs, batch * count, quick, device, said)


def texts(quick: bool, device: torch.device) -> Iterator[Found]:
    """Captions to embeddings in host memory."""
    from modiste.embedding.embedder import ModelEmbedder
    from modiste.images.timm import TimmEncoder
    from modiste.models.dual_encoder import TwoTower
    from modiste.texts.hf import minilm

    count, batch = (24, 8) if quick else (32_768, 512)
    model = TwoTower(TimmEncoder("test_vit", size=160), minilm(), embed_dim=384).to(device).eval()
    titles, half = captions(count), copy.deepcopy(model).half()
    embedder = ModelEmbedder(model, batch, "bf16")

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        parts = []
        for start in range(0, count, batch):
            tokens = half.tokenizer(titles[start : start + batch])
            features = half.text_projection(half.text({name: tensor.to(device) for name, tensor in tokens.items()}))
            parts.append(F.normalize(features.float(), dim=-1).cpu())
        return torch.cat(parts)

    works = {"precision=bf16": lambda: embedder.texts(titles)}
    yield best("texts/rate", works, theirs, count, quick, device, "texts of like length share a batch; ")


def best(key: str, works: dict[str, Work], theirs: Work, count: int, quick: bool, device: Any, said: str) -> Found:
    """The faster of our ways against the peer, after their embeddings were compared."""
    expected = theirs()
    cosines = {name: float(F.cosine_similarity(work(), expected).min()) for name, work in works.items()}
    rounds = {name: compared(work, theirs, device, 1 if quick else 3) for name, work in works.items()}
    name = min(rounds, key=lambda name: rounds[name][0])
    a, b, ratio = rounds[name]
    rates = ", ".join(f"{name} {count / rounds[name][0]:,.0f}" for name in rounds)
    return Found(key, count / a, count / b, ratio, f"{said}{rates}; cosine to the peer's {cosines[name]:.5f}")


def ranking(quick: bool, device: torch.device) -> Iterator[Found]:
    """Exact ranks of all relevant items in both directions, against the ten nearest."""
    import numpy as np

    from modiste.metrics.both_ranks import both_ranks
    from modiste.metrics.relevance import Relevance

    count, dim, block = (300, 32, 128) if quick else (100_000, 512, 4096)
    generator = torch.Generator(device).manual_seed(0)
    image = torch.randn(count, dim, generator=generator, device=device)
    text = F.normalize(image + 6 * torch.randn(count, dim, generator=generator, device=device), dim=-1)
    image = F.normalize(image, dim=-1)
    relevance = Relevance.from_ids(np.arange(count), np.arange(count))

    def theirs() -> list[float]:
        hits = []
        for queries, gallery in ((text, image), (image, text)):
            found = []
            for start in range(0, count, block):
                top = (queries[start : start + block] @ gallery.T).topk(10).indices
                found.append((top == torch.arange(start, start + len(top), device=device)[:, None]).any(1))
            hits.append(torch.cat(found).double().mean().item())
        return hits

    def ours() -> list[float]:
        return [float((ranks <= 10).mean()) for ranks in both_ranks(text, image, relevance)]

    differ = max(abs(a - b) for a, b in zip(ours(), theirs(), strict=True))
    note = f"ours every rank, the peer's the ten nearest; hit_rate@10 differs by {differ:.1e}; float32"
    yield timed("ranking/time", ours, theirs, device, 1 if quick else 3, note)


TOPICS: dict[str, Callable[[bool, torch.device], Iterator[Found]]] = {
    work.__name__: work for work in (clip, siglip, step, jpeg, caching, images, texts, ranking)
}


# ------------------------------------------------------------------------------------------------------------- command


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def run_topic(name: str, quick: bool, device: torch.device) -> None:
    """Measure one topic in this process, one JSON object per line of the standard output."""
    logging.disable(logging.INFO)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no NVIDIA card: --device cpu --quick rehearses without one")
    for found in TOPICS[name](quick, device):
        print(json.dumps(asdict(found)), flush=True)


def in_a_process(name: str, quick: bool, device: str, limit: float) -> tuple[list[dict[str, Any]], str]:
    """The rows of a topic, and why some are missing."""
    command = [sys.executable, __file__, "--topic", name, "--device", device, *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        printed, failure = done.stdout, (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        failure = failure if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        printed, failure = (expired.stdout or b"").decode(), f"not finished in {limit:.0f} s"
    return [json.loads(line) for line in printed.splitlines() if line.startswith('{"key"')], failure


def tests(quick: bool, device: str, limit: float) -> tuple[str, str]:
    """Run `pytest -m gpu`, a test per core: what it counted, and what failed (``quick``: only the losses)."""
    folder = Path(__file__).parents[1] / "tests" / "gpu"
    chosen = folder / "test_gpu_losses.py" if quick else folder
    # Processes that share the card must fit into its memory together.
    processes = str(min(usable_cores(), 8))
    command = [sys.executable, "-m", "pytest", "-m", "gpu", str(chosen), "-q", "-n", processes, "--no-header"]
    set_by = {**os.environ, "MODISTE_TEST_DEVICE": device, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=set_by, cwd=folder.parents[1])
    except subprocess.TimeoutExpired:
        return "", f"not finished in {limit:.0f} s"
    lines = (done.stdout.strip() or done.stderr.strip() or "pytest said nothing").splitlines()
    failed = [text.partition(" - ")[0].removeprefix("FAILED ") for text in lines if text.startswith("FAILED ")]
    counted = lines[-1].strip("= ")
    return counted, "; ".join(failed) or ("" if done.returncode == 0 else counted)


def table(results: dict[str, Any]) -> str:
    """All rows of `GOALS` as Markdown, measured or not."""
    found = {row["key"]: row for row in results.get("rows", [])}
    failed = results.get("failed", {})
    heads = ["what", "peer", "ours", "peer's", "ratio", "must", "aim", "holds"]
    rows = [cells(goal, found.get(key), failed.get(key.split("/")[0], "")) for key, goal in GOALS.items()]
    card = results.get("environment", {}).get("accelerators", [])
    where = f"Measured on {card[0]}." if card else f"{NOT_RUN[0].upper()}{NOT_RUN[1:]} yet: no card was at hand."
    checked = results.get(TESTS) or failed.get(TESTS) or NOT_RUN
    return f"{formatted_table(heads, 'l' * len(heads), rows)}\n\n{where} `pytest -m gpu`: {checked}."


def cells(goal: Goal, row: dict[str, Any] | None, failure: str) -> list[str]:
    """A row of the table."""
    must, aim = ("–" if value is None else f"{value:.3g}×" for value in (goal.must, goal.aim))
    if row is None:
        state = f"failed: {failure}" if failure else NOT_RUN
        return [goal.what, goal.peer, state, "", "", must, aim, "–"]
    what = f"{goal.what}; {row['note']}" if row["note"] else goal.what
    values = ("out of memory" if v is None else f"{v:.4g} {goal.unit}" for v in (row["ours"], row["theirs"]))
    ratio = "–" if row["ratio"] is None else f"**{row['ratio']:.3g}×**"
    return [what, goal.peer, *values, ratio, must, aim, holds(goal, row["ratio"])]


def holds(goal: Goal, ratio: float | None) -> str:
    """Which of the two targets is met; a peer that is out of memory has lost."""
    if ratio is None or (goal.aim is not None and ratio >= goal.aim):
        return "aim"
    if goal.must is None:
        return "–"
    return "must" if ratio >= goal.must else "**no**"


def write_table() -> None:
    """Put the table between its marks in the README."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def earlier(topics: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Stored rows of other topics, if they are of this machine."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if set(topics) == {TESTS, *TOPICS} or stored.get("environment") != facts:
        return {"rows": [], "failed": {}}
    kept = {TESTS: stored[TESTS]} if TESTS in stored and TESTS not in topics else {}
    return kept | {
        "rows": [row for row in stored["rows"] if row["key"].split("/")[0] not in topics],
        "failed": {name: why for name, why in stored["failed"].items() if name not in topics},
    }


def measure(name: str, chosen: argparse.Namespace, results: dict[str, Any], seconds_left: float) -> None:
    """Put what a topic found, or why it failed, into ``results``."""
    if name == TESTS:
        results[TESTS], failure = tests(chosen.quick, chosen.device, min(3 * chosen.limit, seconds_left))
        print(f"pytest -m gpu: {results[TESTS]}", flush=True)
        missing: set[str] = set()
    else:
        rows, failure = in_a_process(name, chosen.quick, chosen.device, min(chosen.limit, seconds_left))
        for row in rows:
            # A rehearsal must not look like the table, whose sizes are a card's.
            small = f"{row['key']}, rehearsed in small: {row['ours']:.4g} against {row['theirs']}; {row['note']}"
            print(small if chosen.quick else " | ".join(cells(GOALS[row["key"]], row, "")), flush=True)
        results["rows"] += rows
        missing = {key for key in GOALS if key.startswith(f"{name}/")} - {row["key"] for row in rows}
    if failure or missing:
        results["failed"][name] = failure or f"no {', '.join(sorted(missing))}"


def main() -> int:
    """Measure the topics, each in a process, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [TESTS, *TOPICS]
    parser.add_argument("topics", nargs="*", choices=[*choices, []], help=f"of {', '.join(choices)}; none: all")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small sizes, writes nothing: only to see that it runs")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds per topic")
    parser.add_argument("--table", action="store_true", help="only write the table of what was measured")
    parser.add_argument("--topic", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.topic:
        run_topic(chosen.topic, chosen.quick, torch.device(chosen.device))
        return 0
    if chosen.table:
        write_table()
        return 0
    if chosen.device == "cpu" and not chosen.quick:
        parser.error("on a CPU only --quick: the sizes of the table are a card's")
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("There is no NVIDIA card: --device cpu --quick rehearses without one.", file=sys.stderr)
        return 1
    topics, facts = chosen.topics or choices, environment()
    results = {"environment": facts, **earlier(topics, facts)}
    end = time.perf_counter() + TOTAL
    for name in topics:
        start = time.perf_counter()
        measure(name, chosen, results, max(end - start, 1))
        if name in results["failed"]:
            print(f"{name} failed: {results['failed'][name]}", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    if not chosen.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_table()
    return int(bool(results["failed"]))


if __name__ == "__main__":
    sys.exit(main())
