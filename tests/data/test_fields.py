"""Batches of several text fields per product, absent ones dropped, and of weights of pairs; and the step on them."""

import copy
import math
import random

import pytest
import torch
from torch.nn import functional as F

from modiste.data.captions import Captions
from modiste.data.fields import FUNCTIONS, Fields, PairWeights
from modiste.data.module import FashionDataModule, check_training
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.losses.clip import ClipLoss
from modiste.losses.gcl import GclLoss
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.feature_cache import FeatureCache
from modiste.training.grad_cache import GradCache

FIELDS = {
    "title": {"template": "{text}"},
    "colour": {"template": "{colour}", "weight": 0.5},
    "brand": {"template": "by {brand}", "weight": 2},
}
WITH_VOCABULARY = FIELDS | {"category": {"template": "a {category}", "vocabulary": True}}
CAPTIONS = Captions(
    ["a {colour} thing"], words={"brand": {"Acme": "the Acme company"}}, synonyms={"colour": {"red": ["scarlet"]}}
)


@pytest.fixture(scope="module")
def catalogue():
    """Every other product has no brand; ranks count up; scores are fractions."""
    made = RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1})(Synthetic(products=60, views=1, size=32)())
    rows = range(len(made))
    made = made.replace_column("brand", ["" if row % 2 else "Acme" for row in rows])
    made = made.replace_column("rank", [str(1 + row) for row in rows])
    return made.replace_column("score", [str(row / 10) for row in rows])


class Double(TwoTower):
    """Without the cast to float32, which rounds sums in another order by more than a defect might."""

    def encode_image(self, pixels):
        return F.normalize(self.image_features(self.preprocess.normalise(pixels).double()), dim=-1)

    def encode_text(self, tokens):
        return F.normalize(self.text_features(tokens), dim=-1)


def model(kind=TwoTower):
    torch.manual_seed(0)
    config = {"model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "hidden_dropout_prob": 0.0}
    text = HfTextEncoder(config=config | {"attention_probs_dropout_prob": 0.0}, tokenizer=HashTokenizer(buckets=64))
    return kind(TimmEncoder("test_vit", size=32), text, 8)


def data(catalogue, built, fields=FIELDS, **options):
    settings = {"batch_size": 16, "num_workers": 0, "weight": PairWeights("score"), "captions": CAPTIONS} | options
    return FashionDataModule(catalogue, built, fields=Fields(fields, CAPTIONS) if fields else None, **settings)


class Recorder:
    """A tokenizer that remembers what it was given."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, texts):
        self.texts = list(texts)
        return self.tokenizer(texts)


def test_a_batch_says_which_text_is_which_field_of_which_product(catalogue):
    built = model()
    module = data(catalogue, built)
    recorder = module.tokenizer = Recorder(built.tokenizer)
    batch = next(iter(module.train_dataloader()))
    texts, index = recorder.texts, batch["fields"]["index"]
    assert batch["fields"]["weight"].tolist() == [1.0, 0.5, 2.0]
    assert len(texts) == len(set(texts)) == len(next(iter(batch["tokens"].values())))
    assert index.shape == (16, 3)
    assert set(index.flatten().tolist()) == {-1, *range(len(texts))}
    for place, row, weight in zip(index.tolist(), batch["row"].tolist(), batch["weight"].tolist(), strict=True):
        title, colour, brand = ("" if text < 0 else texts[text] for text in place)
        at = catalogue.column("row").index(row)
        assert title == catalogue.column("text")[at]
        assert colour in {catalogue.column("colour")[at]} | (
            {"scarlet"} if catalogue.column("colour")[at] == "red" else set()
        )
        assert brand == ("by the Acme company" if catalogue.column("brand")[at] else "")
        assert weight == pytest.approx(float(catalogue.column("score")[at]))


def test_a_vocabulary_is_all_texts_of_the_field_that_training_has(catalogue):
    """In every batch, and only those of the training split."""
    fields = {**FIELDS, "category": {"template": "a {category}", "vocabulary": True}, "brand": {"template": "{brand}"}}
    fields["brand"] |= {"vocabulary": True}
    splits = catalogue.column("split")
    named = zip(catalogue.column("category"), splits, strict=True)
    catalogue = catalogue.replace_column("category", [c if split == "train" else "unseen" for c, split in named])
    brands = ["Acme", "", " "]  # of which only the first is a text
    catalogue = catalogue.replace_column("brand", [brands[row % 3] for row in range(len(splits))])
    training = catalogue.select(rows=[row for row, split in enumerate(splits) if split == "train"])
    built = model()
    module = data(catalogue, built, fields=fields, batch_size=3)
    recorder = module.tokenizer = Recorder(built.tokenizer)
    for batch in module.train_dataloader():
        words = batch["fields"]["vocabulary"]
        assert (words[:2] == -1).all(), "title and colour have none"
        named = [[recorder.texts[text] for text in row.tolist() if text >= 0] for row in words]
        assert named[2] == ["the Acme company"]
        assert named[3] == sorted({f"a {category}" for category in training.column("category")})
        assert "a unseen" not in named[3]
        assert all(row[row >= 0].tolist() == sorted(row[row >= 0].tolist()) for row in words)
        for place, row in zip(batch["fields"]["index"][:, 3].tolist(), batch["row"].tolist(), strict=True):
            assert recorder.texts[place] == f"a {catalogue.column('category')[catalogue.column('row').index(row)]}"


def test_of_several_templates_a_step_has_one_that_fits_the_product(catalogue):
    fields = Fields({"prose": {"template": ["{colour} by {brand}", "a {colour} {category}"]}}, CAPTIONS).bind(catalogue)
    brands, colours, categories = (catalogue.column(name) for name in ("brand", "colour", "category"))
    for row in range(len(catalogue)):
        words = ["red", "scarlet"] if colours[row] == "red" else [colours[row]]
        expected = {f"a {word} {categories[row]}" for word in words}
        expected |= {f"{word} by the Acme company" for word in words if brands[row]}
        assert fields.all(row) == expected
        assert {fields.sample(row, random.Random(seed))[0] for seed in range(60)} == expected
    for template in ([], ["{colour}", "no column"]):
        with pytest.raises(ModisteError, match="names no column"):
            Fields({"prose": {"template": template}})
    with pytest.raises(ModisteError, match="give one template"):
        Fields({"kind": {"template": ["{category}", "a {category}"], "vocabulary": True}}).bind(catalogue)


def test_validation_keeps_to_captions(catalogue):
    batch = next(iter(data(catalogue, model()).val_dataloader()))
    assert not {"fields", "weight"} & set(batch)
    assert len(next(iter(batch["tokens"].values()))) == len(batch["texts"])


def test_without_fields_and_weights_batches_are_as_they_were(catalogue):
    batch = next(iter(data(catalogue, model(), fields=None, weight=None).train_dataloader()))
    assert set(batch) == {"pixels", "tokens", "product", "row", "texts"}


@pytest.mark.parametrize("fields", [FIELDS, WITH_VOCABULARY], ids=["fields", "vocabulary"])
@pytest.mark.parametrize("micro_batch", [1, 5, 17])
def test_gradient_caching_takes_as_many_texts_as_there_are(catalogue, micro_batch, fields):
    """More texts than products, cut at different places: the gradients of the plain step."""
    batch = next(iter(data(catalogue, model(), fields=fields).train_dataloader()))
    assert ("vocabulary" in batch["fields"]) == (fields is WITH_VOCABULARY)
    assert len(next(iter(batch["tokens"].values()))) > 16
    built, found = model(Double).double().train(), []
    for cache in (GradCache(), GradCache(micro_batch)):
        fresh, loss = copy.deepcopy(built), GclLoss(tile=7).double()
        image, text = cache(fresh, batch["pixels"], batch["tokens"])
        loss(image, text, batch["product"], batch["fields"], batch["weight"]).backward()
        found.append([p.grad for p in [*fresh.parameters(), *loss.parameters()] if p.grad is not None])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fields", [FIELDS, WITH_VOCABULARY], ids=["fields", "vocabulary"])
def test_cached_features_are_there_for_every_field(catalogue, tmp_path, fields):
    built = model()
    for tower in ("image", "text"):
        Tuning("last_n", layers=1).apply(built, tower)
    plain = data(catalogue, built.eval(), fields=fields)
    cached = data(catalogue, built, fields=fields, feature_cache=FeatureCache(built, tmp_path))
    for theirs, ours in zip(plain.train_dataloader(), cached.train_dataloader(), strict=True):
        assert torch.equal(theirs["fields"]["index"], ours["fields"]["index"])
        torch.testing.assert_close(built.encode_text(ours["tokens"]), built.encode_text(theirs["tokens"]))


def test_a_batch_in_which_nobody_has_a_field_trains_nothing(catalogue):
    bare = catalogue.replace_column("brand", [""] * len(catalogue))
    built = model()
    batch = next(iter(data(bare, built, fields={"brand": {"template": "{brand}"}}).train_dataloader()))
    assert (batch["fields"]["index"] == -1).all()
    value = GclLoss()(*built(batch["pixels"], batch["tokens"]), batch["product"], batch["fields"], batch["weight"])
    assert value.item() == 0


def test_ranks_become_weights(catalogue):
    ranks = [float(rank) for rank in catalogue.column("rank")]
    expected = {
        "constant": [1.0 for _ in ranks],
        "linear": [max(31 - rank, 0) / 30 for rank in ranks],
        "inverse": [1 / rank for rank in ranks],
        "inverse_sqrt": [rank**-0.5 for rank in ranks],
        "inverse_log": [1 / (math.log(1 + rank) / math.log(2)) for rank in ranks],
    }
    assert expected.keys() == FUNCTIONS.keys()
    for function, weights in expected.items():
        found = PairWeights("rank", function, ranks=30).bind(catalogue)
        assert found == pytest.approx(weights)
        assert found[0] == 1, "the best counts 1"
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: Fields({"title": {}}), r"data\.fields\.title\.template names no column"),
        (lambda _: Fields({"title": {"template": "text"}}), "names no column"),
        (lambda _: Fields({"title": {"template": "{text}", "weight": 0}}), "must be above 0"),
        (
            lambda _: Fields({"title": {"template": "{text}", "vocabulary": "no"}}),
            "vocabulary=no must be true or false",
        ),
        (lambda c: Fields({"title": {"template": "{txet}"}}).bind(c), "Did you mean 'text'"),
        (
            lambda c: Fields({"hue": {"template": "{colour}", "vocabulary": True}}, CAPTIONS).bind(c),
            r"data\.fields\.hue\.vocabulary would make synonyms",
        ),
        (lambda c: PairWeights("colour").bind(c), "rows have no weight, at least 0"),
        (lambda c: PairWeights("score", "linear").bind(c), "rows have no rank, at least 1"),
        (lambda _: PairWeights("rank", "invrse"), "Did you mean 'inverse'"),
        (lambda _: PairWeights("rank", "linear", ranks=0), "ranks=0"),
    ],
)
def test_mistakes_are_said(catalogue, make, message):
    with pytest.raises(ModisteError, match=message):
        make(catalogue)


def test_a_loss_that_ignores_them_is_refused(catalogue):
    built = model()
    check_training(data(catalogue, built), GclLoss())
    check_training(data(catalogue, built, fields=None, weight=None), ClipLoss())
    with pytest.raises(ModisteError, match=r"data\.fields is for loss=gcl and ignored by ClipLoss"):
        check_training(data(catalogue, built), ClipLoss())
    with pytest.raises(ModisteError, match=r"data\.weight\.column is for loss=gcl"):
        check_training(data(catalogue, built, fields=None), ClipLoss())
