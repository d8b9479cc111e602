"""FSDP2 over two gloo processes: loss and gradients are those of one process with the whole batch."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from helpers.tiny_models import two_tower
from helpers.two_processes import on_two_processes
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss
from modiste.training.fsdp import shard
from modiste.training.module import ContrastiveModule

WORLD, LOCAL = 2, 4
LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss}


def made(kind):
    """A model without dropout and batch normalisation, a loss and a batch."""
    torch.manual_seed(0)
    model, loss = two_tower().eval(), LOSSES[kind]()
    torch.manual_seed(1)
    pixels = torch.randint(256, (WORLD * LOCAL, 3, model.preprocess.size, model.preprocess.size), dtype=torch.uint8)
    tokens = model.tokenizer([f"a red dress {number}" for number in range(WORLD * LOCAL)])
    return model, loss, pixels, tokens


def step(model, loss, pixels, tokens, mine=slice(None)):
    """Value and gradients by name, whole."""
    product = torch.arange(WORLD * LOCAL)[mine]
    image, text = model(pixels[mine], {name: tensor[mine] for name, tensor in tokens.items()})
    value = loss(image, text, product)
    value.backward()
    named = [*model.named_parameters(), *loss.named_parameters()]
    gradients = {name: parameter.grad for name, parameter in named if parameter.grad is not None}
    return {"value": value.detach()} | {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in gradients.items()}  # fmt: skip # noqa: E501


def work(rank):
    seen = {}
    for kind in LOSSES:
        model, loss, pixels, tokens = made(kind)
        whole = sum(parameter.numel() for parameter in model.parameters())
        shard(model, loss, "cpu")
        own = sum(parameter.to_local().numel() for parameter in model.parameters())
        seen[kind] = step(model, loss, pixels, tokens, slice(rank * LOCAL, (rank + 1) * LOCAL))
        seen[kind]["share"] = torch.tensor(own / whole)
    return seen


@pytest.fixture(scope="module")
def seen():
    return on_two_processes(work)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOSSES)
def test_a_sharded_step_equals_that_of_one_process(seen, kind):
    expected = step(*made(kind))
    for found in (process[kind] for process in seen):
        assert 0.4 < found.pop("share") < 0.6  # each process holds half the weights
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_the_mesh_is_of_the_trainers_devices_though_the_module_is_still_on_the_cpu(monkeypatch):
    class Strategy(ModelParallelStrategy):
        root_device = torch.device("cuda", 0)

        def __init__(self):
            """Without processes."""

    sharded = []
    monkeypatch.setattr("modiste.training.module.shard", lambda model, loss, device: sharded.append(device))
    monkeypatch.setattr(ContrastiveModule, "trainer", SimpleNamespace(strategy=Strategy()))
    ContrastiveModule(two_tower(), ClipLoss()).configure_model()
    assert sharded == ["cuda"]
