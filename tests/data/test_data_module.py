"""The order of pairs is a function of the seed alone: for any number of processes and workers, from any position."""

import random
from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from helpers.tiny_data import inputs
from modiste.data.captions import Captions
from modiste.data.module import FashionDataModule
from modiste.data.samplers import EpochBatchSampler
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError


@pytest.fixture(scope="module")
def catalogue():
    return RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1})(Synthetic(products=60, views=1, size=32)())


def data(catalogue, **options):
    settings = {"batch_size": 8, "num_workers": 0, "captions": Captions(["{text}", "{colour} {category}"])} | options
    noise = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.5)]
    return FashionDataModule(catalogue, inputs(32), augment=noise, **settings)


def batches(loader, epoch=0, start=0):
    loader.batch_sampler.resume(epoch, start)
    return list(loader)


def same(first, second):
    tensors = ("pixels", "product", "row")
    return first["texts"] == second["texts"] and all(torch.equal(first[name], second[name]) for name in tensors)


def test_global_batches_do_not_depend_on_the_number_of_processes():
    whole = list(EpochBatchSampler(50, 12, seed=3))
    parts = [list(EpochBatchSampler(50, 12, 3, rank, 4)) for rank in range(4)]
    for number, batch in enumerate(whole):
        assert Counter(batch) == Counter(item for part in parts for item in part[number])
        assert {len(part[number]) for part in parts} == {3}


def test_an_epoch_uses_an_index_once_and_the_next_has_another_order():
    sampler = EpochBatchSampler(50, 10, seed=0)
    first = [index for batch in sampler for _, index in batch]
    sampler.set_epoch(1)
    second = [index for batch in sampler for _, index in batch]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


@pytest.mark.parametrize("start", [0, 2, 4, 5])
def test_resuming_continues_with_the_batches_that_were_left(start):
    sampler = EpochBatchSampler(50, 10, seed=0)
    sampler.set_epoch(2)
    expected = list(sampler)[start:]
    resumed = EpochBatchSampler(50, 10, seed=0)
    resumed.resume(2, start)
    if start == 5:  # at the end of an epoch: the next one
        sampler.set_epoch(3)
        expected = list(sampler)
    else:
        resumed.set_epoch(2)  # as Lightning does at the start of the epoch
    assert list(resumed) == expected


def test_workers_and_position_change_nothing(catalogue):
    alone = batches(data(catalogue).train_dataloader(), epoch=1)
    with_workers = batches(data(catalogue, num_workers=2).train_dataloader(), epoch=1)
    later = batches(data(catalogue).train_dataloader(), epoch=1, start=2)
    assert len(alone) > 3
    assert all(map(same, alone, with_workers))
    assert all(map(same, alone[2:], later))


def test_seed_and_epoch_change_order_captions_and_augmentation(catalogue):
    first = data(catalogue).pairs("train", train=True)
    other = data(catalogue, seed=1).pairs("train", train=True)
    differing = [i for i in range(len(first)) if not torch.equal(first[(0, i)]["pixels"], first[(1, i)]["pixels"])]
    assert len(differing) > len(first) / 2
    assert [first[(0, i)]["text"] for i in range(20)] != [other[(0, i)]["text"] for i in range(20)]


def test_items_leave_the_global_generator_alone(catalogue):
    pairs = data(catalogue).pairs("train", train=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    pairs[(0, 0)]
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_takes_the_first_template_and_no_augmentation(catalogue):
    pairs = data(catalogue).pairs("val")
    texts = catalogue.select(split="val").column("text")
    assert [pairs[i]["text"] for i in range(len(pairs))] == texts
    assert torch.equal(pairs[0]["pixels"], pairs[0]["pixels"])


def test_limit_draws_a_fixed_subset(catalogue):
    rows = [data(catalogue, limit=16).pairs("train", train=True).rows for _ in range(2)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 16
    assert set(rows[0]) < set(data(catalogue).pairs("train").rows)


def test_a_caption_takes_the_word_of_a_value_and_training_its_synonyms(catalogue):
    values = sorted(set(catalogue.column("category")))
    words, synonyms = {values[0]: "first thing"}, {values[0]: ["one", "two"]}
    captions = Captions(["a {category}"], words={"category": words}, synonyms={"category": synonyms}).bind(catalogue)
    named = catalogue.column("category").index(values[0])
    other = catalogue.column("category").index(values[1])
    assert captions.first(named) == "a first thing"
    drawn = {captions.sample(named, random.Random(seed)) for seed in range(40)}
    assert drawn == {"a first thing", "a one", "a two"}
    assert captions.sample(other, random.Random(0)) == f"a {values[1]}"
    with pytest.raises(ModisteError, match=r"is a single word: give a list, \[frock\]"):
        Captions(["{category}"], synonyms={"category": {values[0]: "frock"}}).bind(catalogue)
    with pytest.raises(ModisteError, match="no template uses"):
        Captions(["{text}"], synonyms={"category": synonyms}).bind(catalogue)


def test_pairs_with_one_caption_can_be_each_others_positives(catalogue):
    settings = {"captions": Captions(["{category}"]), "batch_size": 16}
    batch = batches(data(catalogue, positives="caption", **settings).train_dataloader())[0]
    pairs = list(zip(batch["texts"], batch["product"].tolist(), strict=True))
    assert {(a == b, i == j) for a, i in pairs for b, j in pairs} == {(True, True), (False, False)}
    batch = batches(data(catalogue, **settings).train_dataloader())[0]
    assert len(set(batch["product"].tolist())) == 16 > len(set(batch["texts"]))
    with pytest.raises(ModisteError, match="Did you mean 'caption'"):
        data(catalogue, positives="captoin")


def test_templates_are_sampled_by_weight_and_skip_empty_columns(catalogue):
    filled = catalogue.replace_column("brand", ["" if row % 2 else "Acme" for row in range(len(catalogue))])
    bound = Captions(["{text}", "by {brand}"], weights=[1, 3]).bind(filled)
    with_brand = Counter(bound.sample(0, random.Random(seed)) for seed in range(2000))
    assert with_brand["by Acme"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert {bound.sample(1, random.Random(seed)) for seed in range(50)} == {filled.column("text")[1]}


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: EpochBatchSampler(10, 12, 0), "larger than the 10 training pairs"),
        (lambda c: EpochBatchSampler(100, 9, 0, world=2), "multiple of 2"),
        (lambda c: Captions([]), "at least one template"),
        (lambda c: Captions(["{text}"], weights=[1, 2]), "1 templates but 2 weights"),
        (lambda c: Captions(["{colur}"]).bind(c), "Did you mean 'colour'"),
        (lambda c: data(c).pairs("tset"), "tset"),
    ],
)
def test_mistakes_are_one_sentence(act, message, catalogue):
    with pytest.raises(ModisteError, match=message):
        act(catalogue)
