"""Corrupted images: every picture is transformed, alike wherever and whenever it is read, and told apart in caches."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from helpers.tiny_data import make_catalogue
from modiste.config import compose
from modiste.data.augment import Thumbnail
from modiste.data.build import load
from modiste.data.corruptions import corrupt
from modiste.data.storage.preprocessed import GEOMETRY, PreprocessedImages
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError


@pytest.fixture(scope="module")
def drawn():
    return Synthetic(products=12, views=1, size=48)()


def bytes_of(catalogue):
    return [catalogue.read_image(i).tobytes() for i in range(len(catalogue))]


def test_every_picture_is_what_the_transform_makes_of_it(drawn):
    thumbnails = corrupt(drawn, [Thumbnail(p=1.0)])
    assert bytes_of(thumbnails) == [Thumbnail(p=1.0)(drawn.read_image(i)).tobytes() for i in range(len(drawn))]
    for name in ("product_id", "text", "split", "category"):
        assert thumbnails.column(name) == drawn.column(name)
    with pytest.raises(ModisteError, match="has no masks"):
        thumbnails.parts(0)


def test_random_transforms_are_the_same_in_any_order_thread_and_process(drawn):
    noisy = corrupt(drawn, [v2.ColorJitter(brightness=0.8), v2.RandomHorizontalFlip()])
    expected = bytes_of(noisy)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda i: noisy.read_image(i % 12).tobytes(), range(95, -1, -1)))
    assert threaded == (expected * 8)[::-1]
    assert torch.equal(torch.get_rng_state(), before), "training's own draws must not move"
    copied = pickle.loads(pickle.dumps(noisy.images))
    assert [copied.read(noisy.reference(i)).tobytes() for i in range(12)] == expected
    assert len({np.frombuffer(a, np.uint8).mean() / np.frombuffer(b, np.uint8).mean()
                for a, b in zip(expected, bytes_of(drawn), strict=True)}) > 6, "not one draw for all"  # fmt: skip


def test_caches_tell_originals_and_transforms_apart(drawn):
    variants = [drawn, *(corrupt(drawn, [Thumbnail(p=1.0, size=size)]) for size in (28, 20)), corrupt(drawn, [])]
    assert len({frozenset(c.column("pixels")) for c in variants}) == 4
    assert len({c.fingerprint() for c in variants}) == 4
    assert all(len(set(c.column("pixels"))) == len(set(drawn.column("pixels"))) for c in variants)


def test_the_split_is_that_of_the_originals():
    words = ["data.catalogue.products=120", "data.catalogue.size=32"]
    thumbnail = "data.corruptions=[{_target_: modiste.data.augment.Thumbnail, p: 1.0}]"
    plain, degraded = (load(compose("evaluate", [*words, *more]).data) for more in ([], [thumbnail]))
    assert degraded.column("split") == plain.column("split")
    assert degraded.read_image(0).size == (28, 28)


def test_preprocessed_images_cannot_be_corrupted(tmp_path):
    from dataclasses import replace

    preprocessed = replace(
        make_catalogue("a", range(1)), images=PreprocessedImages(tmp_path, [], dict.fromkeys(GEOMETRY))
    )
    with pytest.raises(ModisteError, match=r"remove data\.preprocessed"):
        corrupt(preprocessed, [Thumbnail()])
