"""Two gloo processes: values and DDP-averaged gradients are those of one process with the whole batch."""

import dataclasses
import itertools
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from helpers.loss_references import UNIT
from modiste.errors import ModisteError
from modiste.losses import gather, products
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


def with_factors(loss: str, factors: torch.dtype | None, image: torch.Tensor, text: torch.Tensor) -> tuple:
    """Value, gradients, and the types of the matrices that travel, with products of bfloat16 factors."""
    products.has_bfloat16 = lambda device: True
    products.ON_CPU = dataclasses.replace(UNIT, factors=factors)
    travelled, all_gather = [], gather.all_gather
    gather.all_gather = lambda tensor: travelled.append(str(tensor.dtype)) or all_gather(tensor)
    image, text = (F.normalize(features.float(), dim=1).requires_grad_() for features in (image, text))
    made = LOSSES[loss](init_scale=20.0, tile=4, products="bfloat16")
    value = made(image, text)
    value.backward()
    gather.all_gather = all_gather
    return value.detach(), image.grad, text.grad, made.logit_scale.grad, sorted({*travelled} - {"torch.int64"})


def feature_cases(rank: int) -> dict[str, torch.Tensor]:
    """Features (4, 24) of a process: of unit norm; not within ±2 on the second only; no number there; others."""
    unit = F.normalize(torch.randn(4, 24, generator=torch.Generator().manual_seed(rank)), dim=1)
    large, nan = unit.clone(), unit.clone()
    if rank:
        large[1, 2], nan[2, 6] = -2.0, torch.nan
    return {"unit": unit, "large": large, "nan": nan, "half": unit.bfloat16(), "double": unit.double()}


def gathered(features: torch.Tensor) -> tuple[torch.Tensor, int]:
    """All processes' features, and how many bytes each of them sent."""
    sent, all_gather = [], gather.all_gather
    gather.all_gather = lambda tensor: sent.append(tensor.nbytes) or all_gather(tensor)
    whole = gather.all_gather_features(features)
    gather.all_gather = all_gather
    return whole, sum(sent)


def work(rank: int, folder: str) -> None:
    """One process: everything is written to a file and judged by the tests."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
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
    for loss, factors in itertools.product(("clip", "siglip"), (None, torch.bfloat16)):
        seen[loss, str(factors)] = with_factors(loss, factors, image, text)
    seen["features"] = {name: gathered(features) for name, features in feature_cases(rank).items()}
    seen["everywhere"] = [gather.everywhere(flag, torch.device("cpu")) for flag in (True, rank == 0, False)]
    seen["slab"] = gather.reduce_scatter_sum(torch.arange(8.0) * (rank + 1))
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each process saw."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this build of torch has no gloo")
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


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
def test_features_travel_as_the_products_round_them_and_nothing_changes(processes, loss):
    for process in processes:
        *whole, types = process[loss, "None"]
        *halved, half = process[loss, "torch.bfloat16"]
        assert all(map(torch.equal, whole, halved))
        assert (types, half) == (["torch.int32"], ["torch.bfloat16"])  # packed, and rounded


def test_features_arrive_bit_for_bit_and_those_of_unit_norm_in_31_bits_a_number(processes):
    for process in processes:
        for name, (whole, sent) in process["features"].items():
            parts = [feature_cases(rank)[name] for rank in range(WORLD)]
            assert whole.dtype == parts[0].dtype
            assert torch.equal(whole.view(torch.uint8), torch.cat(parts).view(torch.uint8))
            assert sent == parts[0].nbytes * (31 if name == "unit" else 32) // 32


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 8), (5, 64), (0, 8)])
def test_what_is_packed_is_unpacked_bit_for_bit(shape):
    """All bits but one are drawn: with the signs of zero, and numbers below the normal ones."""
    bits = torch.randint(-(2**31), 2**31, shape, generator=torch.Generator().manual_seed(0)).int()
    numbers = (bits & ~(2**30)).view(torch.float32)
    words = gather.pack(numbers)
    assert words.shape == (-(-numbers.numel() // 32), 31)
    assert torch.equal(gather.unpack(words, numbers.shape).view(torch.int32), numbers.view(torch.int32))


def test_the_largest_and_smallest_numbers_that_are_packed():
    smallest, largest = torch.tensor(1e-45), torch.tensor(2.0).nextafter(torch.tensor(0.0))
    numbers = torch.tensor([0.0, -0.0, smallest, -smallest, largest, -largest, 1.0, -1.0]).repeat(9, 1)
    back = gather.unpack(gather.pack(numbers), numbers.shape)
    assert torch.equal(back.view(torch.int32), numbers.view(torch.int32))


def test_what_one_process_lacks_no_process_has(processes):
    assert [process["everywhere"] for process in processes] == [[True, False, False]] * 2


def test_reduce_scatter_returns_each_process_its_slab(processes):
    total = 3 * torch.arange(8.0)
    assert torch.equal(processes[0]["slab"], total[:4])
    assert torch.equal(processes[1]["slab"], total[4:])
