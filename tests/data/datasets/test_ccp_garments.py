"""Garments cut out of CCP's photos, in the repository's real layout."""

import pickle

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from helpers.tiny_ccp import content, groundtruth, matlab, write
from modiste.config import compose
from modiste.data.build import load
from modiste.data.datasets.ccp import Ccp
from modiste.data.datasets.ccp_garments import CcpGarments
from modiste.errors import ModisteError

PARTS = {"dress": ["dress"], "shoe": ["shoes", "heels"], "bag": ["bag", "purse"]}


def read(path, **settings):
    return CcpGarments(path, **{"parts": PARTS, "least": 0.0, **settings})()


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "ccp", content())


def test_each_part_of_a_photo_is_a_row(folder):
    catalogue = read(folder)
    assert catalogue.column("product_id") == ["0001 dress", "0001 shoe", "0002 shoe", "0002 bag", "0003 shoe"]
    assert catalogue.column("garment") == catalogue.column("text") == ["dress", "shoe", "shoe", "bag", "shoe"]


def test_a_garment_is_its_pixels_on_white(folder):
    catalogue = read(folder)
    with Image.open(f"{folder}/photos/0002.jpg") as photo:
        expected = np.array(photo.convert("RGB"))
    expected[~np.isin(groundtruth(2), [4, 6])] = 255
    rows, columns = np.nonzero(np.isin(groundtruth(2), [4, 6]))
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.array_equal(np.asarray(catalogue.read_image(2)), expected[box])


def test_a_garment_in_its_photo_is_the_bounding_box_of_its_pixels(folder):
    white, photo = read(folder), read(folder, background="photo")
    assert (white.card.name, photo.card.name) == ("ccp_garments", "ccp_garments_photo")
    rows, columns = np.nonzero(np.isin(groundtruth(2), [4, 6]))
    with Image.open(f"{folder}/photos/0002.jpg") as whole:
        expected = np.array(whole.convert("RGB"))[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert np.array_equal(np.asarray(photo.read_image(2)), expected)
    assert photo.column("garment") == white.column("garment")
    assert photo.fingerprint() != white.fingerprint()
    with pytest.raises(ModisteError, match=r"background=phto is unknown\. Did you mean 'photo'"):
        read(folder, background="phto")


def test_small_garments_are_excluded(folder):
    # A dress of 48 of 192 pixels, a purse of 6, three shoes of one pixel each and a heel.
    assert read(folder, least=0.2).column("garment") == ["dress"]
    assert read(folder, least=6 / 192).column("garment") == ["dress", "bag"]
    with pytest.raises(ModisteError, match=r"on 0.9 of its area: lower data\.catalogue\.least"):
        read(folder, least=0.9)


def test_labels_in_no_part_are_excluded_and_unknown_ones_refused(folder):
    assert set(read(folder, parts={"bag": ["purse"]}).column("garment")) == {"bag"}
    with pytest.raises(ModisteError, match="Did you mean 'purse'"):
        read(folder, parts={"bag": ["purs"]})
    with pytest.raises(ModisteError, match="is in two parts"):
        read(folder, parts={"bag": ["purse"], "purse": ["purse"]})
    with pytest.raises(ModisteError, match="least=2 must lie"):
        read(folder, least=2)
    for parts in ({}, {"bag": []}, {"whole": ["bag"]}):
        with pytest.raises(ModisteError, match="none called 'whole'"):
            read(folder, parts=parts)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (matlab(groundtruth=np.full((4, 4), 2, np.uint8)), "mask of another size than the image"),
        (b"no matlab file", "unreadable mask"),
    ],
)
def test_a_damaged_annotation_costs_its_garments(tmp_path, pixels, reason):
    path = write(tmp_path / "ccp", content(**{"annotations/pixel-level/0001.mat": pixels}))
    catalogue = read(path)
    assert list(catalogue.report.bad) == [reason]
    assert all(product.startswith(("0002", "0003")) for product in catalogue.column("product_id"))
    with pytest.raises(ModisteError):
        read(path, max_bad=0)


def test_other_parts_are_another_source(folder):
    first, second = read(folder), read(folder, parts={**PARTS, "bag": ["bag"]})
    refs = first.column("image")[:2]
    assert first.images.identity(refs) != second.images.identity(refs)
    assert first.images.identity(refs) == pickle.loads(pickle.dumps(first)).images.identity(refs)


def sides(catalogue):
    """Photo → split."""
    photos = [product.split()[0] for product in catalogue.column("product_id")]
    return dict(zip(photos, catalogue.column("split"), strict=True))


def test_a_garment_is_in_the_split_of_its_photo(folder):
    photos = Ccp(folder, parts=PARTS, ignore=["hair", "null"])()
    split = instantiate(compose("evaluate", ["data=ccp"]).data.split)
    assert len(set(sides(split(photos)).values())) == 2
    assert sides(read(folder)) == sides(split(photos))


@pytest.mark.slow
def test_the_real_garments(ccp_zip):
    catalogue = load(compose("evaluate", ["data=ccp_garments", f"data_dir={ccp_zip.parent}"]).data)
    assert len(catalogue) == 2055
    photos = load(compose("evaluate", ["data=ccp", f"data_dir={ccp_zip.parent}"]).data)
    assert sides(catalogue).items() <= sides(photos).items()
    assert min(catalogue.splits.values()) > 900
    assert catalogue.read_image(0).mode == "RGB"
