"""`data=scenes`: scenes of another data set's products, with masks that are exact."""

import numpy as np
import pytest

from modiste.config import compose, instantiate
from modiste.data.build import load
from modiste.data.datasets.composed import Composed
from modiste.data.scenes.backgrounds import background
from modiste.data.sources import WHOLE
from modiste.errors import ModisteError

SMALL = [
    "data=scenes",
    "data.of.catalogue.products=200",
    "data.catalogue.scenes.size=64",
    "data.catalogue.count={val: 3, test: 12}",
]


@pytest.fixture(scope="module")
def config():
    return compose("train", SMALL).data


@pytest.fixture(scope="module")
def catalogue(config):
    return load(config)


def test_each_split_has_scenes_of_its_own_products(config, catalogue):
    assert catalogue.splits == {"test": 12, "val": 3}
    assert catalogue.card.name == config.name == "synthetic_scenes"
    assert catalogue.fingerprint() == load(config).fingerprint()
    products = load(config.of)
    for split, scenes in catalogue.images.scenes.items():
        shown = {row for number in range(len(scenes)) for row in scenes[number].products}
        own = products.select(split=split)
        assert scenes.catalogue.column("product_id") == own.column("product_id")
        assert shown <= set(range(len(own)))


def test_splits_share_no_background_with_each_other_or_with_training_scenes(config, catalogue, monkeypatch):
    drawn = []

    def draw(rng, size):
        image = background(rng, size)
        drawn.append(image.tobytes())  # before products are pasted into it
        return image

    monkeypatch.setattr("modiste.data.scenes.composer.background", draw)
    products = load(config.of).select(split="train")
    trained = instantiate(config.catalogue.scenes).bind(products, config.catalogue.seed)  # as term=regions does
    canvases = []
    for scenes in (trained, *catalogue.images.scenes.values()):
        for number in range(3):
            drawn.clear()
            scenes[number]
            canvases.append(drawn[0])
    assert len(set(canvases)) == len(canvases) == 9


def test_the_masks_of_all_types_are_the_labels_of_the_scene(catalogue):
    for i in range(len(catalogue)):
        split, number = catalogue.column("image")[i].split("/")
        scenes = catalogue.images.scenes[split]
        scene = scenes[int(number)]
        assert catalogue.read_image(i).tobytes() == scene.image.tobytes()
        assert np.array_equal(np.asarray(catalogue.read_mask(i, WHOLE)) > 0, scene.labels != 0)
        wanted = np.full(scene.labels.shape, "", dtype=object)
        for k, row in enumerate(scene.products):
            wanted[scene.labels == k + 1] = scenes.kinds[row]
        parts = catalogue.parts(i)
        assert parts == sorted(set(wanted.ravel()) - {""})
        assert catalogue.column("text")[i] == ", ".join(parts)
        for part in parts:
            assert np.array_equal(np.asarray(catalogue.read_mask(i, part)) > 0, wanted == part)
    with pytest.raises(ModisteError, match="has no part 'sofa'"):
        catalogue.read_mask(0, "sofa")


def test_what_makes_no_scene_is_refused():
    with pytest.raises(ModisteError, match="at least 1 scene"):
        load(compose("train", [*SMALL, "data.catalogue.count.test=0"]).data)
    with pytest.raises(ModisteError, match="no rows in split 'holiday'"):
        load(compose("train", [*SMALL, "+data.catalogue.count.holiday=2"]).data)
    with pytest.raises(ModisteError, match="has no column 'kind'"):
        load(compose("train", [*SMALL, "data.catalogue.scenes.column=kind"]).data)


def test_what_the_products_are_of_is_not_resolved_again(monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    table = {"_target_": "modiste.data.datasets.table.Table", "path": "${oc.env:SECRET}.csv", "name": "x"}
    with pytest.raises(ModisteError, match=r"Table \$\{oc.env:SECRET\}") as caught:
        Composed({"name": "x", "catalogue": table})()
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ModisteError, match="must be the data node of a catalogue"):
        Composed({"catalogue": "x"})
