import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.tiny_data import picture
from helpers.watched import watched
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.fashiongen import FashionGen, Hdf5Images
from modiste.data.splits import GivenSplit
from modiste.errors import ModisteError

h5py = pytest.importorskip("h5py")

FILES = {"train": "fashiongen_256_256_train.h5", "test": "fashiongen_256_256_validation.h5"}
SIZE = (256, 256)
TEXTS = {  # of one product each
    "input_name": ("Café Tee", "Slim Jeans"),
    "input_description": ("Short sleeve t-shirt in café brown.", "Slim-fit jeans."),
    "input_concat_description": ("Short sleeve t-shirt. Made in Italy.", "Slim-fit jeans. 100% cotton."),
    "input_category": ("TOPS", "JEANS"),
    "input_subcategory": ("T-SHIRTS", "JEANS"),
    "input_brand": ("Acne Studios", "Y/Project"),
    "input_gender": ("Women", "Men"),
    "input_composition": ("100% cotton.", "98% cotton, 2% elastane."),
    "input_department": ("CLOTHING", "CLOTHING"),
    "input_season": ("SS2017", "FW2016"),
}


def write_file(path, ids, first, drop=(), poses=2):
    """The real layout: (N, 1) byte strings of fixed length in latin-1, numbers (N, 1), images (N, 256, 256, 3)."""
    n = len(ids) * poses
    with h5py.File(path, "w") as file:
        for name, values in TEXTS.items():
            if name not in drop:
                cells = [value.encode("latin-1") for value in values[: len(ids)] for _ in range(poses)]
                file[name] = np.array(cells, dtype="S400").reshape(n, 1)
        file["input_pose"] = np.array([f"id_gridfs_{pose + 1}".encode() for _ in ids for pose in range(poses)])[:, None]
        file["input_productID"] = np.repeat(np.array(ids, np.int64), poses)[:, None]
        file["input_msrpUSD"] = np.full((n, 1), 99.0, np.float32)
        file["index"] = np.arange(n)[:, None]
        file["index_2"] = np.arange(n)
        pixels = np.stack([np.asarray(picture(first + i, SIZE)) for i in range(n)])
        file.create_dataset("input_image", data=pixels, chunks=(1, *SIZE, 3))


def write(root, **options):
    root.mkdir(parents=True, exist_ok=True)
    write_file(root / FILES["train"], [86605, 57700], 0, **options)
    write_file(root / FILES["test"], [54002], 100)
    return str(root)


def test_both_files_are_one_catalogue(tmp_path):
    catalogue = FashionGen(write(tmp_path / "fg"))()
    assert catalogue.column("product_id") == ["86605"] * 2 + ["57700"] * 2 + ["54002"] * 2
    assert catalogue.column("split") == ["train"] * 4 + ["test"] * 2
    tee, jeans = TEXTS["input_description"]
    assert catalogue.column("text") == [tee, tee, jeans, jeans, tee, tee]
    assert catalogue.column("subcategory") == ["T-SHIRTS"] * 2 + ["JEANS"] * 2 + ["T-SHIRTS"] * 2
    assert catalogue.column("name")[:2] == ["Café Tee"] * 2
    assert catalogue.column("pose") == ["id_gridfs_1", "id_gridfs_2"] * 3
    names = ["category", "subcategory", "name", "brand", "gender", "composition", "department", "season", "pose"]
    assert catalogue.attributes == names
    assert catalogue.column("pixels") == [hash_pixels(picture(i, SIZE)) for i in (0, 1, 2, 3, 100, 101)]
    assert catalogue.read_image(4).tobytes() == picture(100, SIZE).tobytes()
    assert GivenSplit()(catalogue).splits == {"train": 4, "test": 2}


def test_one_file_is_read_alone_where_it_is_asked_for(tmp_path, caplog):
    root = tmp_path / "fg"
    write(root)
    (root / FILES["train"]).unlink()
    assert FashionGen(str(root), splits=["test"])().splits == {"test": 2}
    assert "2 of 32,528 test" in caplog.text
    assert "train" not in caplog.text.split("Ask")[0]
    with pytest.raises(ModisteError, match=r"partial download.*_train\.h5 is missing.*splits=\[test\]"):
        FashionGen(str(root))()
    with pytest.raises(ModisteError, match=r"no 'tests'. Did you mean 'test'"):
        FashionGen(str(root), splits=["tests"])()


def test_a_text_that_one_file_lacks_is_excluded(tmp_path):
    assert "brand" not in FashionGen(write(tmp_path / "fg", drop=["input_brand"]))().attributes


def test_absent_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ModisteError, match=r"does not exist.*Ask its authors.*data\.catalogue\.path"):
        FashionGen(str(tmp_path / "gone"))()
    root = tmp_path / "fg"
    with pytest.raises(ModisteError, match="has no dataset input_subcategory"):
        FashionGen(write(root, drop=["input_subcategory"]))()
    write(root)
    whole = (root / FILES["test"]).read_bytes()
    (root / FILES["test"]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModisteError, match=r"validation\.h5 is damaged.*download it again"):
        FashionGen(str(root))()
    write(root)
    with h5py.File(root / FILES["test"], "a") as file:
        del file["input_brand"]
        file["input_brand"] = np.array([[b"x"]])
    with pytest.raises(ModisteError, match="different lengths"):
        FashionGen(str(root))()


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModisteError, match=r"pip install 'modiste\[hdf5\]'"):
        FashionGen(str(tmp_path))()


FORKS = """
import multiprocessing, pathlib, pickle, sys
from modiste.data.catalogue import hash_pixels

images, refs, expected = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())


def read(_):
    return [hash_pixels(images.read(ref)) for ref in refs]


assert read(0) == expected  # the files are open here before any process starts
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(read, range(4)) == [expected] * 4
"""


def read_sizes(images, refs):
    return [hash_pixels(images.read(ref)) for ref in refs]


def test_the_images_are_the_same_in_threads_forks_spawned_processes_and_copies(tmp_path):
    root = tmp_path / "fg"
    write(root)
    images = Hdf5Images({split: root / file for split, file in FILES.items()})
    refs = ["train/0", "train/3", "test/1"]
    expected = [hash_pixels(picture(i, SIZE)) for i in (0, 3, 101)]
    assert read_sizes(images, refs) == expected  # the files are open here before any process starts
    assert read_sizes(pickle.loads(pickle.dumps(images)), refs) == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: read_sizes(images, refs), range(16))) == [expected] * 16
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(read_sizes, [(images, refs)] * 4) == [expected] * 4
    # By a process without threads: a fork of the tests' own could inherit a lock that one of its threads holds.
    script, pickled = tmp_path / "forks.py", tmp_path / "images.pickle"
    script.write_text(FORKS)
    pickled.write_bytes(pickle.dumps((images, refs, expected)))
    subprocess.run([sys.executable, script, pickled], check=True, timeout=60)


def test_images_that_are_not_there_are_missing(tmp_path):
    root = tmp_path / "fg"
    write(root)
    images = Hdf5Images({"train": root / FILES["train"]})
    for ref in ("train/4", "train/-1", "test/0"):
        with pytest.raises(FileNotFoundError):
            images.read(ref)


def test_another_file_is_another_identity(tmp_path):
    root = tmp_path / "fg"
    write(root)
    images = Hdf5Images({"test": root / FILES["test"]})
    before = images.identity(["test/0"])
    write_file(root / FILES["test"], [1, 2], 50)
    assert images.identity(["test/0"]) != before


@pytest.mark.parametrize("name", ["input_description", "input_brand", "input_image"])
@pytest.mark.parametrize("kind", ["external link", "soft link", "raw", "virtual", "group"])
def test_data_sets_that_are_elsewhere_are_not_read(kind, name, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    with h5py.File(outside / "x.h5", "w") as file:
        file["a"] = np.full((2, 1), b"secret")
    (outside / "x.bin").write_bytes(b"secret" * 100)
    root = write(tmp_path / "fg")
    with h5py.File(tmp_path / "fg" / FILES["test"], "a") as file:
        del file[name]
        if kind == "external link":
            file[name] = h5py.ExternalLink(str(outside / "x.h5"), "a")
        elif kind == "soft link":
            file["away"] = h5py.ExternalLink(str(outside / "x.h5"), "a")
            file[name] = h5py.SoftLink("away")
        elif kind == "raw":
            file.create_dataset(name, (2, 1), "S6", external=[(str(outside / "x.bin"), 0, 12)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((2, 1), "S6")
            layout[:] = h5py.VirtualSource(str(outside / "x.h5"), "a", (2, 1))
            file.create_virtual_dataset(name, layout)
        else:
            file.create_group(name)
    with watched(outside) as found, pytest.raises(ModisteError, match=f"is damaged .{name} is "):
        FashionGen(root, splits=["test"])()
    assert found == []
