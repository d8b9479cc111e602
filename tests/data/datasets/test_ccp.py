"""CCP in its real layout: photos, MATLAB files of pixel labels, and the table that joins its labels."""

import io
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from scipy.io import loadmat

from helpers.tiny_ccp import HEIGHT, IGNORE, PARTS, WIDTH, content, groundtruth, matlab, write
from helpers.tiny_data import encoded, picture
from modiste.config import compose
from modiste.data.build import load
from modiste.data.datasets.ccp import Ccp, read_pixel_labels
from modiste.data.sources import MaskSource
from modiste.data.splits import RandomSplit
from modiste.errors import ModisteError


def read(path, **settings):
    return Ccp(path, **{"parts": PARTS, "ignore": IGNORE, **settings})()


@pytest.fixture(params=["folder", "zip", "zip of the repository"])
def catalogue(request, tmp_path):
    return read(write(tmp_path / "ccp", content(), request.param))


def test_every_layout_gives_the_same_catalogue(catalogue):
    assert catalogue.column("product_id") == ["0001", "0002", "0003"]
    assert catalogue.column("parts") == ["dress, shoes", "shoes, bag", "shoes"]
    assert catalogue.column("text") == [
        "a person wearing a dress and shoes",
        "a person wearing shoes and a bag",
        "a person wearing shoes",
    ]
    assert catalogue.attributes == ["parts"]
    assert (catalogue.report.rows, catalogue.report.bad) == (3, {})
    assert catalogue.read_image(0).size == (WIDTH, HEIGHT)


def test_a_mask_is_where_a_label_of_the_part_is(catalogue):
    assert isinstance(catalogue.images, MaskSource)
    assert catalogue.parts(1) == ["shoes", "bag"]
    for row, part, numbers in ((0, "dress", [2]), (1, "shoes", [4, 6]), (1, "bag", [5]), (1, "whole", [3, 4, 5, 6])):
        mask = catalogue.read_mask(row, part)
        assert (mask.mode, mask.size) == ("L", catalogue.read_image(row).size)
        expected = np.isin(groundtruth(row + 1), numbers) * 255
        assert np.array_equal(np.asarray(mask), expected)


def test_a_part_that_the_photo_does_not_show_is_an_error(catalogue):
    with pytest.raises(ModisteError, match=r"has no part 'dres'\. Choose from: bag, shoes, whole"):
        catalogue.read_mask(1, "dres")


def test_images_and_masks_survive_pickling_and_threads(catalogue):
    images = pickle.loads(pickle.dumps(catalogue)).images
    refs = catalogue.column("mask") * 20
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ref: images.read_mask(ref, "shoes").tobytes(), refs))
    assert found == [catalogue.images.read_mask(ref, "shoes").tobytes() for ref in refs]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("annotations/pixel-level/0002.mat", matlab(groundtruth=groundtruth(2))[:-40], "unreadable mask"),
        ("annotations/pixel-level/0002.mat", b"no matlab file", "unreadable mask"),
        ("annotations/pixel-level/0002.mat", matlab(other=np.ones((2, 2))), "unreadable mask"),
        ("annotations/pixel-level/0002.mat", matlab(groundtruth=np.full((16, 12), 7)), "unreadable mask"),
        ("annotations/pixel-level/0002.mat", matlab(groundtruth=np.ones((4, 4, 4), np.uint8)), "unreadable mask"),
        (
            "annotations/pixel-level/0002.mat",
            matlab(groundtruth=np.ones((12, 16), np.uint8)),
            "mask of another size than the image",
        ),
        ("annotations/pixel-level/0002.mat", matlab(groundtruth=np.zeros((16, 12), np.uint8)), "no annotation"),
        ("photos/0002.jpg", None, "missing image"),
        ("photos/0002.jpg", encoded(picture(2, (12, 16)), "JPEG")[:300], "unreadable image"),
    ],
)
def test_a_damaged_file_costs_its_row_and_is_reported(tmp_path, name, data, reason):
    catalogue = read(write(tmp_path / "ccp", content(**{name: data})))
    assert catalogue.report.bad == {reason: ["0002"]}
    assert catalogue.column("product_id") == ["0001", "0003"]
    with pytest.raises(ModisteError, match="max_bad=0"):
        read(str(tmp_path / "ccp"), max_bad=0)


def test_a_matrix_of_too_many_pixels_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr("modiste.data.datasets.ccp.MAX_PIXELS", HEIGHT * WIDTH - 1)
    monkeypatch.setattr("scipy.io.loadmat", None)  # it would be unpacked
    with pytest.raises(ValueError, match="of matching size"):
        read_pixel_labels(matlab(groundtruth=groundtruth(1)), 7)


@pytest.mark.parametrize("layout", ["folder", "zip"])
@pytest.mark.parametrize("missing", ["label_list.mat", "annotations"])
def test_a_download_that_is_not_whole_is_one_error_with_the_remedy(tmp_path, layout, missing):
    files = {name: data for name, data in content().items() if not name.startswith(missing)}
    with pytest.raises(ModisteError, match=r"Clone github\.com/bearpaw/clothing-co-parsing"):
        read(write(tmp_path / "ccp", files, layout))


def test_nothing_at_the_path_and_half_a_zip_are_one_error(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*set data\.catalogue\.path"):
        read(str(tmp_path / "absent"))
    path = write(tmp_path / "ccp", content(), "zip")
    whole = (tmp_path / "ccp.zip").read_bytes()
    (tmp_path / "ccp.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModisteError, match="is damaged"):
        read(path)


def test_fewer_photos_than_published_are_noticed(tmp_path, caplog):
    read(write(tmp_path / "ccp", content()))
    assert "3 of 1,004 rows" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ignore": ["null"]}, "lacks the label 'hair'"),
        ({"parts": {**PARTS, "hat": ["hats"]}}, "names the label 'hats'"),
        ({"ignore": [*IGNORE, "purse"]}, "'purse' is in two parts, 'bag' and 'ignore'"),
    ],
)
def test_every_label_is_in_one_part_or_ignored(tmp_path, settings, message):
    with pytest.raises(ModisteError, match=message):
        read(write(tmp_path / "ccp", content()), **settings)


# ------------------------------------------------------------------------------------------------------ the real data


@pytest.fixture(scope="module")
def real(ccp_zip):
    return load(compose("evaluate", ["data=ccp", f"data_dir={ccp_zip.parent}"]).data)


def test_the_real_photos_are_all_there_but_the_one_without_labels(real):
    assert (real.report.rows, real.report.bad) == (1004, {"no annotation": ["0536"]})
    assert set(real.splits) == {"val", "test"}
    assert 0.45 < real.splits["test"] / len(real) < 0.55


def test_the_test_half_stays_when_part_of_the_other_half_is_trained_on(real):
    trained = RandomSplit({"train": 0.4, "val": 0.1, "test": 0.5})(real)
    assert set(trained.splits) == {"train", "val", "test"}
    halves = [{i for i, split in enumerate(one.column("split")) if split == "test"} for one in (real, trained)]
    assert halves[0] == halves[1]


def test_every_real_label_is_in_the_table_or_ignored_once(real, ccp_zip):
    with zipfile.ZipFile(ccp_zip) as archive:
        cells = loadmat(io.BytesIO(archive.read("label_list.mat")))["label_list"][0]
    grounding = OmegaConf.to_container(compose("evaluate", ["data=ccp"]).data.grounding)
    named = [label for labels in [*grounding["phrases"].values(), grounding["ignore"]] for label in labels]
    assert sorted(named) == sorted(str(cell[0]) for cell in cells)


def test_real_masks_are_those_of_the_matlab_file(real, ccp_zip):
    row = real.column("product_id").index("0002")
    with zipfile.ZipFile(ccp_zip) as archive:
        pixels = loadmat(io.BytesIO(archive.read("annotations/pixel-level/0002.mat")))["groundtruth"]
        cells = loadmat(io.BytesIO(archive.read("label_list.mat")))["label_list"][0]
        size = Image.open(io.BytesIO(archive.read("photos/0002.jpg"))).size
    numbers = {str(cell[0]): number for number, cell in enumerate(cells)}
    assert real.parts(row) == ["dress", "jacket", "socks", "shoes"]
    assert np.array_equal(np.asarray(real.read_mask(row, "jacket")) > 0, pixels == numbers["jacket"])
    assert np.array_equal(np.asarray(real.read_mask(row)) > 0, pixels > 0)
    assert real.read_mask(row).size == size
