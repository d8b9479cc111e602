"""Two gloo processes: values and DDP-averaged gradients are those of one process with the whole batch."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from helpers.loss_references import UNIT
from helpers.two_processes import on_two_processes
from modiste.errors import ModisteError
from modiste.losses import gather, matmul
from modiste.losses.clip import ClipLoss
from modiste.losses.gcl import GclLoss
from modiste.losses.siglip import SigLipLoss
from modiste.losses.soft import soft_infonce

WORLD, LOCAL = 2, 11


class Soft(ClipLoss):
    """Half-soft targets that each process knows for its own pairs."""

    def compute(self, image, text, product_id):
        left, right = (F.normalize(part.detach()[:, :3], dim=1) for part in (image, text))
        return soft_infonce(image, text, self.scale, left, right, 5.0, product_id, 0.6, self.tile)


LOSSES = {"clip": ClipLoss, "siglip": SigLipLoss, "soft": Soft, "gcl": GclLoss}
# Products with pairs on one process, on both, and single ones.
IDS = {"multi": torch.tensor([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0, 0, 10, 11, 2, 12, 13, 14, 15, 16]), "single": None}


class Towers(nn.Module):
    """Two linear towers and a loss: all that trains."""

    def __init__(self, loss: str):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 5), nn.Linear(6, 5)
        # The tile divides neither the process's rows (11) nor all columns (22).
        self.loss = LOSSES[loss](init_scale=20.0, tile=4)
        self.double()

    def forward(self, image, text, product_id):
        return self.loss(F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1), product_id)


class FieldTowers(Towers):
    """The same with two text fields a product, of which some lack, and weights of pairs."""

    def forward(self, image, text, fields, weight, product_id):
        embedded = F.normalize(self.image(image), dim=1), F.normalize(self.text(text), dim=1)
        return self.loss(*embedded, product_id, fields, weight)


def field_inputs(slab):
    """Of the products in ``slab``: images, their distinct texts, fields, weights."""
    generator = torch.Generator().manual_seed(2)
    image, text = inputs()
    index = torch.randint(-6, WORLD * LOCAL, (WORLD * LOCAL, 2), generator=generator).clamp_min(-1)[slab]
    weight = torch.rand(WORLD * LOCAL, generator=generator, dtype=torch.float64)[slab]
    distinct, place = index.unique(return_inverse=True)  # -1 comes first
    return image[slab], text[distinct[1:]], {"index": place - 1, "weight": torch.tensor([1.0, 0.5])}, weight


def with_vocabulary(slab):
    """The same with a second field that has a vocabulary, so that a process embeds all its texts."""
    _, _, fields, weight = field_inputs(slice(None))
    image, text = inputs()
    index = fields["index"].clone()
    index[:, 1] %= 5
    index[0, 1] = -1
    words = torch.tensor([[-1] * 5, [*range(5)]])
    return image[slab], text, {**fields, "index": index[slab], "vocabulary": words}, weight[slab]


FIELDS = {"fields": field_inputs, "vocabulary": with_vocabulary}


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, WORLD * LOCAL, 6, generator=generator, dtype=torch.float64)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): parameter.grad for name, parameter in model.named_parameters()}


def with_inputs(loss: str, inputs: torch.dtype | None, image: torch.Tensor, text: torch.Tensor) -> tuple:
    """Value, gradients, and the types of the matrices that travel, with products of bf16 inputs."""
    matmul.has_bfloat16 = lambda device: True
    matmul.BFLOAT16_CPU = dataclasses.replace(UNIT, inputs=inputs)
    travelled, all_gather = [], gather.all_gather
    gather.all_gather = lambda tensor: travelled.append(str(tensor.dtype)) or all_gather(tensor)
    image, text = (F.normalize(features.float(), dim=1).requires_grad_() for features in (image, text))
    made = LOSSES[loss](init_scale=20.0, tile=4, matmul_dtype="bfloat16")
    value = made(image, text)
    value.backward()
    gather.all_gather = all_gather
    return value.detach(), image.grad, text.grad, made.logit_scale.grad, sorted({*travelled} - {"torch.int64"})


def work(rank: int) -> dict:
    """One process: the tests judge what it saw."""
    slab = slice(rank * LOCAL, (rank + 1) * LOCAL)
    image, text = inputs()[:, slab]
    seen = {}
    for loss in LOSSES:
        for positives, ids in IDS.items():
            own_ids = None if ids is None else ids[slab]
            model = DistributedDataParallel(Towers(loss))
            value = model(image, text, own_ids)
            value.backward()
            with torch.no_grad():
                quiet = model(image, text, own_ids)
            seen[loss, positives] = value.detach(), quiet, gradients(model)
        # Without DDP, twice through a retained graph: the collectives match up again.
        model = Towers(loss)
        value = model(image, text, None)
        value.backward(retain_graph=True)
        value.backward()
        for parameter in model.parameters():
            gather.all_reduce_sum(parameter.grad.div_(2 * WORLD))
        seen[loss, "twice"] = value.detach(), value.detach(), gradients(model)
        try:
            Towers(loss)(image[: LOCAL - rank], text[: LOCAL - rank], None)
        except ModisteError as error:
            seen[loss, "unequal"] = str(error)
    for (kind, make), (positives, ids) in itertools.product(FIELDS.items(), IDS.items()):
        model = DistributedDataParallel(FieldTowers("gcl"))
        value = model(*make(slab), None if ids is None else ids[slab])
        value.backward()
        seen[kind, positives] = value.detach(), gradients(model)
    for loss, dtype in itertools.product(("clip", "siglip"), (None, torch.bfloat16)):
        seen[loss, str(dtype)] = with_inputs(loss, dtype, image, text)
    seen["everywhere"] = [gather.everywhere(flag, torch.device("cpu")) for flag in (True, rank == 0, False)]
    seen["slab"] = gather.reduce_scatter_sum(torch.arange(8.0) * (rank + 1))
    return seen


@pytest.fixture(scope="module")
def processes():
    """What each process saw."""
    return on_two_processes(work)


@pytest.mark.parametrize("positives", ["multi", "single", "twice"])
@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_averaged_gradients_are_the_full_batch_s(processes, loss, positives):
    """For both towers, the scale and the bias; on every process, with and without gradients."""
    model = Towers(loss)
    value = model(*inputs(), IDS.get(positives))
    value.backward()
    expected = gradients(model)
    assert expected["loss.logit_scale"].abs() > 1e-3
    for process in processes:
        theirs, quiet, averaged = process[loss, positives]
        torch.testing.assert_close(theirs, value.detach())
        torch.testing.assert_close(quiet, value.detach())
        torch.testing.assert_close(averaged, expected, rtol=1e-9, atol=1e-12)


def test_the_texts_of_two_processes_differ_in_number():
    assert len(field_inputs(slice(LOCAL))[1]) != len(field_inputs(slice(LOCAL, None))[1])


@pytest.mark.parametrize("positives", IDS)
@pytest.mark.parametrize("kind", FIELDS)
def test_fields_and_weights_too_are_the_full_batch_s(processes, kind, positives):
    """Each process embeds the distinct texts of its own products, and the vocabulary."""
    whole = FIELDS[kind](slice(None))
    assert -1 in whole[2]["index"]
    model = FieldTowers("gcl")
    value = model(*whole, IDS[positives])
    value.backward()
    for process in processes:
        theirs, averaged = process[kind, positives]
        torch.testing.assert_close(theirs, value.detach())
        torch.testing.assert_close(averaged, gradients(model), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_unequal_batches_are_refused_everywhere(processes, loss):
    for process in processes:
        assert "between 10 and 11 pairs" in process[loss, "unequal"]


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_features_are_gathered_as_the_products_round_them_and_nothing_changes(processes, loss):
    for process in processes:
        *whole, types = process[loss, "None"]
        *halved, half = process[loss, "torch.bfloat16"]
        assert all(map(torch.equal, whole, halved))
        assert (types, half) == (["torch.float32"], ["torch.bfloat16"])


def test_what_one_process_lacks_no_process_has(processes):
    assert [process["everywhere"] for process in processes] == [[True, False, False]] * 2


def test_reduce_scatter_returns_each_process_its_slab(processes):
    total = 3 * torch.arange(8.0)
    assert torch.equal(processes[0]["slab"], total[:4])
    assert torch.equal(processes[1]["slab"], total[4:])
