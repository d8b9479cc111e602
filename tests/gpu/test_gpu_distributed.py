"""DDP and FSDP2 on the card: one process over nccl, and two that share it where the driver allows."""

import csv
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from helpers.commands import TINY, modiste
from helpers.tiny_models import two_tower
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss
from modiste.training.fsdp import shard

SMALL = [*TINY, "image.name=test_vit", "trainer.max_epochs=1", "trainer.devices=1", "data.num_workers=0"]
LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss}
WORLD, LOCAL = 2, 4


def losses(cwd, name, *overrides):
    done = modiste("train", *SMALL, *overrides, f"hydra.run.dir={name}", cwd=cwd, NVIDIA_TF32_OVERRIDE="0")
    assert done.returncode == 0, done.stdout + done.stderr
    (metrics,) = (cwd / name).glob("csv/version_*/metrics.csv")
    return [float(row["train/loss"]) for row in csv.DictReader(metrics.open()) if row["train/loss"]]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_trains_as_without_a_strategy(strategy, trainer, device, tmp_path):
    chosen = [f"trainer={strategy}" if device.type == "cuda" else f"trainer={strategy}_cpu"]
    clip = ["trainer.gradient_clip_val=null", "trainer.precision=32-true"]
    plain = losses(tmp_path, "plain", *trainer, *clip)
    assert losses(tmp_path, strategy, *chosen, *clip) == pytest.approx(plain, rel=2e-3)


def made(kind, device):
    torch.manual_seed(0)
    model, loss = two_tower().eval().to(device), LOSSES[kind]().to(device)
    size = model.preprocess.size
    pixels = torch.randint(256, (WORLD * LOCAL, 3, size, size), dtype=torch.uint8)
    return model, loss, pixels, [f"a red dress {number}" for number in range(WORLD * LOCAL)]


def step(model, loss, pixels, texts, device, mine=slice(None)):
    """Value and gradients by name, whole."""
    tokens = {name: tensor[mine].to(device) for name, tensor in model.tokenizer(texts).items()}
    product = torch.arange(WORLD * LOCAL, device=device)[mine]
    value = loss(*model(pixels[mine].to(device), tokens), product)
    value.backward()
    gradients = {"value": value.detach()}
    for name, parameter in [*model.named_parameters(), *loss.named_parameters()]:
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    return {n: (g.full_tensor() if hasattr(g, "full_tensor") else g).cpu() for n, g in gradients.items()}


def work(rank, folder, device, backend, sharded):
    torch.set_num_threads(1)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    seen = {}
    for kind in LOSSES:
        model, loss, pixels, texts = made(kind, device)
        mine = slice(rank * LOCAL, (rank + 1) * LOCAL)
        if sharded:
            shard(model, loss, device)
        seen[kind] = step(model, loss, pixels, texts, device, mine)
        if not sharded:  # as DDP does
            for gradient in seen[kind].values():
                on_device = gradient.to(device)
                dist.all_reduce(on_device)
                gradient.copy_(on_device / WORLD)
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_that_share_the_card_have_the_gradients_of_one(sharded, device, tmp_path):
    refusals = []
    for backend in ("nccl", "gloo") if device.type == "cuda" else ("gloo",):
        folder = tmp_path / backend
        folder.mkdir()
        try:
            multiprocessing.spawn(work, (str(folder), device.type, backend, sharded), nprocs=WORLD)
            break
        except multiprocessing.ProcessRaisedException as error:
            # nccl wants a card for each process, and gloo has not every collective for tensors of a card.
            refusals.append(f"{backend}: {str(error).strip().splitlines()[-1]}")
            if device.type == "cpu":
                raise
    else:
        pytest.skip(f"two processes cannot share this card: {'; '.join(refusals)}")
    for kind in LOSSES:
        expected = step(*made(kind, device), device)
        for rank in range(WORLD):
            found = torch.load(folder / f"{rank}.pt", weights_only=True)[kind]
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=lambda t, n=name: f"{n}: {t}")
