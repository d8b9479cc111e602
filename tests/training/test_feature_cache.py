"""Training from cached features is the training that runs the frozen trunks, and a file serves whom it fits only."""

import os

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from helpers.commands import TINY, modiste
from helpers.full_disk import no_space
from helpers.tiny_data import falsely_prepared
from modiste.data.augment import Where
from modiste.data.captions import Captions
from modiste.data.module import FashionDataModule
from modiste.data.scenes.photos import Photos
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.feature_cache import FeatureCache

CAPTIONS = Captions(
    ["{text}", "a {colour} {category}"],
    words={"category": {"dress": "gown"}},
    synonyms={"category": {"dress": ["frock"]}, "colour": {"red": ["scarlet"]}},
)


@pytest.fixture(scope="module")
def catalogue():
    return RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1})(Synthetic(products=40, views=1, size=32)())


def model(image="frozen", text="frozen"):
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    built = TwoTower(
        TimmEncoder("test_vit", size=32), HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64)), 8
    )
    Tuning(image, layers=1).apply(built, "image")
    Tuning(text, layers=1).apply(built, "text")
    return built.eval()


def datamodule(catalogue, built, augment=(), **options):
    return FashionDataModule(catalogue, built, CAPTIONS, batch_size=8, num_workers=0, augment=augment, **options)


def epochs(data, count):
    loader = data.train_dataloader()
    for epoch in range(count):
        loader.batch_sampler.resume(epoch, 0)
        yield from list(loader)


NOISE = [v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.5)]


def test_every_batch_has_the_embeddings_that_the_trunks_would_give(catalogue, tmp_path):
    built = model(image="last_n", text="last_n")
    plain = datamodule(catalogue, built, NOISE)
    cached = datamodule(catalogue, built, NOISE, feature_cache=FeatureCache(built, tmp_path, views=2, batch_size=7))
    texts = set()
    for theirs, ours in zip(epochs(plain, 2), epochs(cached, 2), strict=True):
        assert ours["texts"] == theirs["texts"]
        assert ours["pixels"].shape == (8, built.image.dim)
        texts |= set(ours["texts"])
        for a, b in zip(built(ours["pixels"], ours["tokens"]), built(theirs["pixels"], theirs["tokens"]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert any("frock" in text or "scarlet" in text for text in texts), "no synonym was drawn"
    for theirs, ours in zip(plain.val_dataloader(), cached.val_dataloader(), strict=True):
        for a, b in zip(built(ours["pixels"], ours["tokens"]), built(theirs["pixels"], theirs["tokens"]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_tower_that_trains_is_not_cached(catalogue, tmp_path):
    built = model(image="full", text="frozen")
    data = datamodule(catalogue, built, feature_cache=FeatureCache(built, tmp_path))
    batch = next(epochs(data, 1))
    assert batch["pixels"].shape == (8, 3, 32, 32)
    assert set(batch["tokens"]) == {"features"}


def test_features_for_which_the_disk_has_no_space_are_kept_in_memory(catalogue, tmp_path, monkeypatch, caplog):
    """Storing to a memory map killed the process."""
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    built = model()
    batch = next(epochs(datamodule(catalogue, built, feature_cache=FeatureCache(built, tmp_path)), 1))
    assert batch["pixels"].shape[0] == 8
    assert "Features could not be cached" in caplog.text
    assert not list(tmp_path.glob("*.npy"))


def test_a_file_serves_another_run_only_where_all_that_decides_it_is_the_same(catalogue, tmp_path):
    passes = []

    def files(augment=NOISE, weights=0.0, **options):
        built = model()
        built.image.trunk.blocks[0].mlp.fc1.bias.data += weights
        built.image.register_forward_hook(lambda *_: passes.append(1))
        settings = {"seed": options.pop("seed", 0), "decode": options.pop("decode", "pil")}
        datamodule(catalogue, built, augment, feature_cache=FeatureCache(built, tmp_path, **options), **settings)
        return set(tmp_path.iterdir())

    first = files()
    done = len(passes)
    assert files() == first
    assert len(passes) == done, "what was there was computed again"
    known = first
    for change in (
        {"augment": NOISE[:1]},
        {"augment": ()},
        {"weights": 1e-3},
        {"seed": 1},
        {"decode": "exact"},
        {"dtype": "float16"},
        {"views": 2},
        {"augment": [Where("category", ".", NOISE)]},
    ):
        found = files(**change)
        assert found > known, change
        known = found


def test_a_file_is_of_the_classes_that_a_transform_is_for(catalogue, tmp_path):
    def files(lengths):
        built, rows = model(), catalogue.replace_column("length", lengths)
        datamodule(rows, built, [Where("length", "long", NOISE)], feature_cache=FeatureCache(built, tmp_path))
        return set(tmp_path.glob("*.npy"))

    half = ["long", "short"] * 20
    first = files(half)
    assert files(half) == first
    assert len(files(half[::-1]) - first) == 1, "of the training images"


def test_photos_of_a_prepared_folder_have_a_file_of_their_own(catalogue, tmp_path):
    """Its column ``pixels`` says what the images were, and a stranger's may say anything."""
    built = model()
    built.image = TimmEncoder("test_efficientnet", size=32, output_stride=8, patch_stages=[-1])
    Tuning("frozen").apply(built, "image")
    cache, false = FeatureCache(built.eval(), tmp_path / "cache"), falsely_prepared(catalogue, tmp_path / "prepared")
    grey, real = (cache.scenes(Photos(pictures, 32)).features for pictures in (false, catalogue))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert not np.array_equal(grey, real)


def test_float16_loses_three_digits_at_most(catalogue, tmp_path):
    built = model()
    arrays = []
    for dtype in ("float32", "float16"):
        data = datamodule(catalogue, built, feature_cache=FeatureCache(built, tmp_path / dtype, dtype=dtype))
        arrays.append(next(epochs(data, 1))["pixels"].numpy())
    np.testing.assert_allclose(arrays[1], arrays[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: FeatureCache(model("full", "full"), folder), "a frozen trunk"),
        (lambda folder: FeatureCache(model(), folder, dtype="float61"), "Did you mean 'float16'"),
        (lambda folder: FeatureCache(model(), folder, views=0), "at least 1"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(make, message, tmp_path):
    with pytest.raises(ModisteError, match=message):
        make(tmp_path)


@pytest.mark.slow
def test_a_run_from_cached_features_ends_where_the_plain_run_does_and_evaluates_as_usual(tmp_path):
    same = [*TINY, "trainer.max_epochs=2", "tune.image.train=last_n", "tune.image.layers=1"]
    same += ["tune.text.train=last_n", "tune.text.layers=1"]
    states = {}
    for name, extra in {"plain": [], "cached": ["features.cache=true"]}.items():
        run = modiste(
            "train", *same, *extra, f"hydra.run.dir={name}", cwd=tmp_path, MODISTE_CACHE=str(tmp_path / "cache")
        )
        assert run.returncode == 0, run.stdout + run.stderr
        states[name] = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert states["cached"].keys() == states["plain"].keys()
    for name, tensor in states["plain"].items():
        torch.testing.assert_close(states["cached"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    evaluated = modiste("evaluate", "run=cached", "task=[retrieval]", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
