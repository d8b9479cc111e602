"""Cells against words and background: a slow float64 loop, empty means, two processes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from helpers.two_processes import on_two_processes
from modiste.losses.regions import region_contrast

LABELS = torch.tensor([0, 0, 0, 1, 3, -1, 3, 3, 1, -1, 0, 3, 0, 3, -1, 1])  # three words, 3 is background
# which cells a process has: the second one has no word
SHARES = ([0, 1, 2, 3, 4, 5, 8, 10, 12, 15], [6, 7, 9, 11, 13, 14])


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cells, self.words = nn.Linear(6, 5), nn.Linear(4, 5)
        self.background = nn.Parameter(torch.randn(5))
        self.double()

    def forward(self, features, labels, words, power):
        cells, words = F.normalize(self.cells(features), dim=1), F.normalize(self.words(words), dim=1)
        return region_contrast(cells, labels, words, F.normalize(self.background, dim=0), 7.0, 0.6, power)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) for n, d in ((16, 6), (3, 4)))


def slow(head, features, labels, words, power):
    words = F.normalize(head.words(words), dim=1)
    classes = [*words, F.normalize(head.background, dim=0)]
    sums, weights = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for feature, label in zip(features, labels.tolist(), strict=True):
        if label == -1:
            continue
        cell = F.normalize(head.cells(feature), dim=0)
        logits = torch.stack([7.0 * (cell * vector).sum() for vector in classes])
        weight = 1.0 if label == 3 else labels.tolist().count(label) ** -power
        sums[label == 3] = sums[label == 3] - weight * torch.log(logits[label].exp() / logits.exp().sum())
        weights[label == 3] += weight
    means = [sums[key] / weights[key] if weights[key] else 0.0 for key in (False, True)]
    return means[0] + 0.6 * means[1]


def step(value, head):
    head.zero_grad()
    value.backward()
    return {"value": value.detach()} | {name.removeprefix("module."): p.grad for name, p in head.named_parameters()}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_value_and_gradient_are_those_of_a_slow_loop(power):
    head, (features, words) = Head(), inputs()
    got = step(head(features, LABELS, words, power), head)
    wanted = step(slow(head, features, LABELS, words, power), head)
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, atol=1e-12), name


@pytest.mark.parametrize("absent", [[0, 1, 2], [3], [0, 1, 2, 3], [1]])
def test_cells_of_some_kinds_may_be_absent(absent):
    head, (features, words) = Head(), inputs()
    labels = torch.where(torch.isin(LABELS, torch.tensor(absent)), -1, LABELS)
    got = step(head(features, labels, words, 0.5), head)
    if len(absent) == 4:
        assert all((tensor == 0).all() for tensor in got.values())
        return
    wanted = step(slow(head, features, labels, words, 0.5), head)
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], tensor, atol=1e-12), name


def process(rank):
    head, (features, words) = DistributedDataParallel(Head()), inputs()
    return step(head(features[SHARES[rank]], LABELS[SHARES[rank]], words, 0.5), head)


def test_two_processes_are_one_with_all_cells_though_one_shows_no_product():
    head, (features, words) = Head(), inputs()
    alone = step(head(features, LABELS, words, 0.5), head)
    both = on_two_processes(process)
    for name, tensor in alone.items():
        assert torch.allclose(both[0][name], both[1][name], atol=1e-12), name
        assert torch.allclose(both[0][name], tensor, atol=1e-10), name
