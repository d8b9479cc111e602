"""What shares a batch: groups of one value, products apart, every row once, alike for every process and resume."""

import collections
import itertools

import pytest
import torch

from modiste.data.batches import Batches, Order
from modiste.data.samplers import EpochBatchSampler
from modiste.errors import ModisteError

TYPES = ["shoe"] * 40 + ["bag"] * 25 + ["belt"] * 7
PRODUCTS = [str(index // 3) for index in range(72)]


class CatalogueOf:
    """Columns, as `Batches.bind` asks for them."""

    def __init__(self, columns):
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def column(self, name):
        return self.columns[name]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "order", [Order(72), Order(72, TYPES, 8), Order(72, None, 8, PRODUCTS), Order(72, TYPES, 8, PRODUCTS)]
)
def test_an_epoch_holds_every_row_once_and_the_seed_decides_it(order):
    rows = order(generator(), 12)
    assert sorted(rows) == list(range(72))
    assert order(generator(), 12) == rows
    assert order(generator(1), 12) != rows


def test_pairs_of_one_value_come_in_groups():
    rows = Order(72, TYPES, 8)(generator(), 12)
    batches = [rows[start : start + 8] for start in range(0, 72, 8)]
    random = Order(72)(generator(), 12)
    purity = [
        sum(max(collections.Counter(TYPES[row] for row in batch).values()) for batch in cut)
        for cut in (batches, [random[start : start + 8] for start in range(0, 72, 8)])
    ]
    assert purity[0] > purity[1]
    changes = sum(TYPES[a] != TYPES[b] for a, b in itertools.pairwise(rows))
    assert changes <= 5 + 4 + 1 - 1, "more changes than there are runs"


def test_no_product_comes_twice_in_a_batch():
    order = Order(72, TYPES, 8, PRODUCTS)
    rows = order(generator(), 12)
    for start in range(0, 60, 12):  # the last batch takes what is left
        batch = [PRODUCTS[row] for row in rows[start : start + 12]]
        assert len(set(batch)) == len(batch)
    mixed = Order(72)(generator(), 12)
    twice = [len({PRODUCTS[row] for row in mixed[start : start + 12]}) < 12 for start in range(0, 72, 12)]
    assert any(twice), "the random order keeps them apart, too: the comparison says nothing"


def test_products_that_cannot_be_kept_apart_are_not_lost():
    assert sorted(Order(6, None, 1, ["a"] * 5 + ["b"])(generator(), 4)) == list(range(6))


def test_processes_share_the_batches_and_a_resumed_epoch_goes_on():
    order = Order(72, TYPES, 8, PRODUCTS)
    whole = list(EpochBatchSampler(72, 12, seed=3, order=order))
    parts = [list(EpochBatchSampler(72, 12, 3, rank, 2, order)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert first == batch[::2]
        assert second == batch[1::2]
    resumed = EpochBatchSampler(72, 12, seed=3, order=order)
    resumed.resume(0, 4)
    assert list(resumed) == whole[4:]


def test_a_senseless_group_size_is_one_sentence():
    with pytest.raises(ModisteError, match=r"data\.batches\.group_size=0"):
        Batches(group_size=0)


def test_balance_draws_the_values_as_often_as_their_power_says():
    """Shares are n^(1 - power), normalised; the seed decides the epoch."""
    counts = {"shoe": 800, "bag": 160, "belt": 40}
    values = [name for name, count in counts.items() for _ in range(count)]
    catalogue = CatalogueOf({"type": values, "product_id": [str(index) for index in range(1000)]})
    for power in (0.0, 0.5, 1.0):
        order = Batches(balance="type", power=power).bind(catalogue)
        drawn = collections.Counter(values[row] for seed in range(30) for row in order(generator(seed), 10))
        total = sum(count ** (1 - power) for count in counts.values())
        for name, count in counts.items():
            assert drawn[name] / 30_000 == pytest.approx(count ** (1 - power) / total, abs=0.015)
        assert order(generator(), 10) == order(generator(), 10) != order(generator(1), 10)
        assert len(order(generator(), 10)) == 1000


def test_a_power_that_is_none_is_refused():
    with pytest.raises(ModisteError, match="power=2 is out of range"):
        Batches(power=2)
