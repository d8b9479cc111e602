import gzip
import struct
from collections import Counter

import numpy as np
import pytest

from modiste.data.datasets.fashion_mnist import CLASSES, FashionMnist, read_idx
from modiste.errors import ModisteError

COUNTS = {"train": 20, "t10k": 10}


def arrays(part):
    draw = np.random.default_rng(COUNTS[part])
    labels = np.arange(COUNTS[part], dtype=np.uint8) % 10
    return draw.integers(0, 256, (COUNTS[part], 28, 28), dtype=np.uint8), labels


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for part in COUNTS:
        images, labels = arrays(part)
        for name, data in ((f"{part}-images-idx3-ubyte", idx(images)), (f"{part}-labels-idx1-ubyte", idx(labels))):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize(("inside", "packed"), [("", True), ("", False), ("raw", False), ("FashionMNIST/raw", True)])
def test_the_files_give_classes_splits_and_pictures_on_white(tmp_path, inside, packed):
    write(tmp_path / inside, packed)
    catalogue = FashionMnist(str(tmp_path))()
    assert catalogue.splits == {"train": 20, "test": 10}
    for split, part in {"train": "train", "test": "t10k"}.items():
        images, labels = arrays(part)
        chosen = catalogue.select(split=split)
        assert chosen.column("category") == chosen.column("text") == [CLASSES[label] for label in labels]
        for i in range(len(chosen)):
            picture = np.asarray(chosen.read_image(i))
            assert np.array_equal(picture, np.repeat(255 - images[i][..., None], 3, axis=2))


def test_pictures_stay_on_black_where_asked(tmp_path):
    catalogue = FashionMnist(write(tmp_path), invert=False)()
    assert np.array_equal(np.asarray(catalogue.read_image(0))[..., 0], arrays("train")[0][0])


def test_idx_is_read_as_torchvision_reads_it(tmp_path):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    write(tmp_path, packed=False)
    images, labels = tmp_path / "t10k-images-idx3-ubyte", tmp_path / "t10k-labels-idx1-ubyte"
    assert np.array_equal(read_idx(images, 3), read_image_file(str(images)).numpy())
    assert np.array_equal(read_idx(labels, 1), read_label_file(str(labels)).numpy())


def test_an_absent_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ModisteError, match=r"train-images-idx3-ubyte\[\.gz\] is missing.*download=true"):
        FashionMnist(str(tmp_path))()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: gzip.compress(gzip.decompress(data)[:-1]), r"has 7,839 bytes of values, not 7,840"),
        (lambda data: gzip.compress(gzip.decompress(data) + b"0"), r"has 7,841 bytes"),
        (lambda data: data[:-20], "damaged"),
        (lambda data: data[:30] + bytes(100) + data[130:], "damaged"),
        (lambda data: gzip.compress(b"\x00\x00\x08\x01" + gzip.decompress(data)[4:]), "not an idx file of 3"),
        (lambda data: gzip.compress(b""), "not an idx file"),
        (lambda data: b"<html>Not found</html>", "damaged"),
    ],
)
def test_damaged_files_are_found_by_what_they_unpack_to(tmp_path, damage, message):
    write(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModisteError, match=message):
        FashionMnist(str(tmp_path))()


def test_another_compression_of_the_same_bytes_is_accepted(tmp_path):
    write(tmp_path)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    before = FashionMnist(str(tmp_path))().fingerprint()
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=1, mtime=7))
    assert FashionMnist(str(tmp_path))().fingerprint() == before


def test_images_and_labels_must_fit(tmp_path):
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(9, dtype=np.uint8))))
    with pytest.raises(ModisteError, match=r"10 images and 9 labels"):
        FashionMnist(str(tmp_path))()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(10, 10, dtype=np.uint8))))
    with pytest.raises(ModisteError, match=r"do not match"):
        FashionMnist(str(tmp_path))()


def test_download_is_torchvisions_and_only_where_files_are_absent(tmp_path, monkeypatch):
    import torchvision

    calls = []

    def download(root, download):
        calls.append((root, download))
        write(tmp_path / "FashionMNIST" / "raw", packed=False)

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    for _ in range(2):
        assert len(FashionMnist(str(tmp_path), download=True)()) == 30
    assert calls == [(str(tmp_path), True)]


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    import torchvision

    def download(root, download):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    with pytest.raises(ModisteError, match=r"could not be downloaded: no network"):
        FashionMnist(str(tmp_path), download=True)()


def test_the_real_files(data_dir):
    from omegaconf import OmegaConf

    from modiste.config import config_dir

    path = data_dir / "fashion-mnist"
    if not path.is_dir():
        pytest.skip("fashion-mnist is not in MODISTE_DATA")
    catalogue = FashionMnist(str(path))()
    assert catalogue.splits == {"train": 60000, "test": 10000}
    test = catalogue.select(split="test")
    assert Counter(test.column("category")) == dict.fromkeys(CLASSES, 1000)
    corners = [np.asarray(test.read_image(i))[0, 0, 0] for i in range(200)]
    assert np.median(corners) == 255
    words = OmegaConf.load(config_dir() / "data" / "fashion_mnist.yaml").classes.category
    assert list(words) == list(CLASSES)
