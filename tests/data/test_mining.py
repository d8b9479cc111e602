"""Mined hard negatives: the nearest that the margin lets stand together, by brute force; every row once."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.watched import watched
from modiste.data.batches import Batches, Mined, Order
from modiste.data.mining import Miner, read
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError

N = 60


def miner(margin=0.95, n=N, seed=0):
    """Pairs in clusters, some of one product and some of one caption."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(6, 12, generator=generator)[torch.randint(6, (n,), generator=generator)]
    image, text = (F.normalize(centre + 0.6 * torch.randn(n, 12, generator=generator), dim=1) for _ in range(2))
    return Miner(image, text, torch.arange(n) // 2, torch.arange(n) % 45, margin)


def may_stand_together(m, i, j):
    """The definition, word by word, in float64."""
    image, text = m.image.double(), m.text.double()
    if m.product[i] == m.product[j] or m.caption[i] == m.caption[j]:
        return False
    own = min(image[i] @ text[i], image[j] @ text[j])
    return all(score <= m.margin * own for score in (image[i] @ text[j], image[j] @ text[i]))


def hardness(m, i, j):
    image, text = m.image.double(), m.text.double()
    return float(max(image[i] @ text[j], image[j] @ text[i]))


@pytest.mark.parametrize("margin", [0.5, 0.95, 10.0])
def test_neighbours_are_the_hardest_that_may_stand_together(margin, monkeypatch):
    monkeypatch.setattr("modiste.data.mining.BLOCK", 7)  # divides no 60
    m = miner(margin)
    found = m.neighbours(8)
    refused = 0
    for i in range(N):
        allowed = [j for j in range(N) if j != i and may_stand_together(m, i, j)]
        refused += N - 1 - len(allowed)
        expected = sorted(allowed, key=lambda j: -hardness(m, i, j))[:8]
        assert [j for j in found[i].tolist() if j >= 0] == expected
    assert refused > N, "the margin refused nothing, the comparison says nothing"


@pytest.mark.parametrize("run", [1, 4, 9])
def test_runs_hold_every_row_once_and_no_two_that_may_not_stand_together(run):
    m = miner()
    runs = m.groups(torch.randperm(N).tolist(), m.neighbours(4 * run), run)
    assert sorted(itertools.chain(*runs)) == list(range(N))
    assert max(map(len, runs)) <= run
    assert all(may_stand_together(m, i, j) for rows in runs for i, j in itertools.combinations(rows, 2))


def test_neighbours_in_a_run_are_harder_than_a_random_order():
    m = miner()
    m = Miner(m.image, m.image, m.product, m.caption)  # each pair's own score is the highest: the margin refuses few
    order = Order(N, group_size=6, mined=Mined(m, m.neighbours(24)))
    rows = order(torch.Generator().manual_seed(0), 12)
    assert sorted(rows) == list(range(N))
    assert rows == order(torch.Generator().manual_seed(0), 12) != order(torch.Generator().manual_seed(1), 12)
    random = Order(N)(torch.Generator().manual_seed(0), 12)
    mined, drawn = (sum(hardness(m, i, j) for i, j in itertools.pairwise(given)) for given in (rows, random))
    assert mined > drawn + 5


def embedded(folder, catalogue, rows=None, name=None):
    """What `modiste embed` leaves, as far as mining reads it."""
    generator = np.random.default_rng(0)
    for side in ("image", "text"):
        matrix = generator.normal(size=(len(catalogue), 8)).astype(np.float32)
        np.save(folder / f"{side}.npy", matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    facts = {"data": name or catalogue.card.name, "rows": rows or len(catalogue)}
    (folder / "manifest.json").write_text(json.dumps(facts))


def test_embeddings_belong_to_the_rows_of_the_part(tmp_path):
    whole = RandomSplit({"train": 0.5, "val": 0.3, "test": 0.2})(Synthetic(products=40, views=1, size=32)())
    part = whole.select(split="train")
    embedded(tmp_path, whole)
    image, text = read(tmp_path, part, len(whole))
    rows = part.column("row")
    assert rows != list(range(len(part)))
    assert np.array_equal(image.numpy(), np.load(tmp_path / "image.npy")[rows])
    assert np.array_equal(text.numpy(), np.load(tmp_path / "text.npy")[rows])
    order = Batches(mined=str(tmp_path), group_size=4, false_negative_margin=5.0).bind(
        part, part.column("text"), len(whole)
    )
    assert sorted(order(torch.Generator(), 8)) == list(range(len(part)))
    embedded(tmp_path, whole, rows=7)
    with pytest.raises(ModisteError, match="has 7 rows of"):
        read(tmp_path, part, len(whole))
    with pytest.raises(ModisteError, match="modiste embed data="):
        read(tmp_path / "nowhere", part, len(whole))


@pytest.mark.parametrize("damage", ["pickle", "link", "shape", "text", "header", "manifest", "deep manifest"])
def test_embeddings_of_a_stranger_are_a_matrix_within_the_folder(damage, tmp_path):
    whole = Synthetic(products=10, views=1, size=16)()
    folder, outside = tmp_path / "vectors", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    np.save(outside / "x.npy", np.ones((len(whole), 4), np.float32))
    for side in ("image", "text"):
        np.save(folder / f"{side}.npy", np.ones((len(whole), 4), np.float32))
    (folder / "manifest.json").write_text(json.dumps({"data": whole.card.name, "rows": len(whole)}))
    image = folder / "image.npy"
    if damage == "pickle":
        np.save(image, np.array([{"a": 1}] * len(whole), object), allow_pickle=True)
    elif damage == "link":
        image.unlink()
        image.symlink_to(outside / "x.npy")
    elif damage == "shape":
        np.save(image, np.ones(3))
    elif damage == "text":
        image.write_text("x")
    elif damage == "header":
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999, 99999999), }".ljust(117) + b"\n"
        image.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    else:
        (folder / "manifest.json").write_text("[]" if damage == "manifest" else "[" * 100_000)
    with watched(outside) as found, pytest.raises(ModisteError):
        read(folder, whole, len(whole))
    assert found == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"false_negative_margin": 0}, "margin=0"), ({"group_by": "category", "mined": "x"}, "group_by and mined")],
)
def test_senseless_settings_are_one_sentence(options, message):
    with pytest.raises(ModisteError, match=message):
        Batches(**options)
