"""What two sets share, against brute force and a plain reimplementation of the hash."""

import io

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from PIL import __version__ as pillow_version
from scipy.fft import dct

import modiste.evaluation.overlap as module
from helpers.tiny_data import falsely_prepared
from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.evaluation.overlap import (
    look,
    looks,
    match_looks,
    match_values,
    match_vectors,
    normalised,
    overlap,
    overlap_of_run,
    training_data,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))


def drawing(number, size=(60, 80)):
    """Smooth blobs of colour that ``number`` decides, at about the size of KAGL's thumbnails."""
    small = np.random.default_rng(number).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def saved(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def make(images, products=None, texts=None, name="tiny", splits=None):
    count = len(images)
    columns = {
        "product_id": products or [f"{name}{i}" for i in range(count)],
        "image": [str(i) for i in range(count)],
        "text": texts or [f"{name} title {i}" for i in range(count)],
        "split": splits or [""] * count,
    }
    return Catalogue.build(Card(name), columns, ArrayImages(np.stack([np.asarray(image) for image in images])))


def reference_hash(image):
    """The package imagehash's `phash`, line by line."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
    low = dct(dct(pixels.astype(np.float64), axis=0), axis=1)[:8, :8]
    return low > np.median(low)


def brute_force(train, test, hamming, colour):
    """Nearest row by a loop over all pairs."""
    found, distances = [], []
    for one in test:
        best = (999, 999, -1)
        for position, other in enumerate(train):
            bits = sum(bin(a ^ b).count("1") for a, b in zip(one[:8].tolist(), other[:8].tolist(), strict=True))
            cells = max(abs(a - b) for a, b in zip(one[8:].tolist(), other[8:].tolist(), strict=True))
            if bits <= hamming and cells <= colour and (cells, bits, position) < best:
                best = (cells, bits, position)
        found.append(best[2])
        distances.append(best[0] if best[2] >= 0 else np.nan)
    return found, distances


# ------------------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("number", range(8))
def test_the_hash_is_that_of_the_package_imagehash(number):
    image = drawing(number)
    assert np.array_equal(np.unpackbits(look(image)[:8]).astype(bool), reference_hash(image).ravel())


@pytest.mark.parametrize("grey", [1, 77, 128, 250, 255])
def test_the_hash_of_a_flat_picture_is_no_noise(grey):
    flat = Image.new("RGB", (60, 80), (grey, grey, grey))
    assert np.unpackbits(look(flat)[:8]).sum() == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved(image, 75),
        lambda image: image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC),
        lambda image: saved(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), 80),
        lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    ],
    ids=["jpeg", "larger", "larger jpeg", "smaller"],
)
def test_re_encoded_and_rescaled_copies_are_near(change):
    originals = [drawing(number) for number in range(12)]
    copies = np.stack([look(change(image)) for image in originals])
    assert match_looks(np.stack([look(image) for image in originals]), copies).train.tolist() == list(range(12))


def test_another_colour_of_the_same_outline_is_not_near():
    outline = np.full((80, 60, 3), 255, np.uint8)
    outline[20:60, 15:45] = (180, 40, 40)
    other = outline.copy()
    other[20:60, 15:45] = (40, 90, 40)
    red, green = look(Image.fromarray(outline)), look(Image.fromarray(other))
    assert np.array_equal(red[:8], green[:8])
    assert match_looks(red[None], green[None]).train.tolist() == [-1]
    assert match_looks(red[None], green[None], colour=255).train.tolist() == [0]


def test_all_pairs_are_compared_whatever_the_tiles(monkeypatch):
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (60, 200), dtype=np.uint8)
    train[40:] = train[:20]  # ties
    test = train[random.integers(0, 60, 50)].copy()
    for row in test:  # a few bits and a few levels off
        row[random.integers(0, 8)] ^= 1 << random.integers(0, 8)
        row[8:] = np.clip(row[8:].astype(int) + random.integers(-6, 7, 192), 0, 255)
    test[::7] = random.integers(0, 256, (8, 200), dtype=np.uint8)
    expected = [brute_force(train, test, hamming, colour) for hamming, colour in ((4, 8), (1, 6), (0, 255), (64, 5))]
    for rows, columns, chunk in ((1024, 8192, 2**16), (7, 11, 3)):
        for name, value in (("ROWS", rows), ("COLUMNS", columns), ("CHUNK", chunk)):
            monkeypatch.setattr(module, name, value)
        for (hamming, colour), (found, distances) in zip(((4, 8), (1, 6), (0, 255), (64, 5)), expected, strict=True):
            match = match_looks(train, test, hamming, colour)
            assert match.train.tolist() == found
            np.testing.assert_array_equal(match.distance, distances)
    assert 0 < sum(row >= 0 for row in expected[0][0]) < len(test)


def test_embeddings_are_matched_to_the_nearest_of_at_least_that_cosine(monkeypatch):
    random = np.random.default_rng(1)
    train, test = (random.normal(size=(n, 4)).astype(np.float32) for n in (90, 40))
    train, test = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (train, test))
    scores = test.astype(np.float64) @ train.T.astype(np.float64)
    for rows, columns in ((1024, 8192), (9, 13)):
        monkeypatch.setattr(module, "ROWS", rows)
        monkeypatch.setattr(module, "COLUMNS", columns)
        match = match_vectors(train, test, 0.95)
        assert match.train.tolist() == [int(row.argmax()) if row.max() >= 0.95 else -1 for row in scores]
        np.testing.assert_allclose(match.distance[match.touched], 1 - scores.max(axis=1)[match.touched], atol=1e-6)
    assert 0 < match.touched.sum() < 40


def test_what_was_hashed_once_is_not_read_again(monkeypatch):
    images = [drawing(number) for number in (0, 1, 1, 2)]
    catalogue = make(images)
    first = looks(catalogue)
    np.testing.assert_array_equal(first, [look(image) for image in images])
    monkeypatch.setattr(module, "look", lambda image: pytest.fail("read again"))
    np.testing.assert_array_equal(looks(catalogue.select(rows=[3, 1])), first[[3, 1]])


def test_new_images_join_the_cache():
    looks(make([drawing(0), drawing(1)]))
    both = make([drawing(1), drawing(2)])
    np.testing.assert_array_equal(looks(both), [look(drawing(1)), look(drawing(2))])
    (file,) = module.cache_dir().glob("looks/*.parquet")
    assert file.name == f"1-{pillow_version}-tiny.parquet", "earlier versions' files are of use no longer"
    assert len(module._read_looks(file)) == 3
    file.write_bytes(b"")
    np.testing.assert_array_equal(looks(both), [look(drawing(1)), look(drawing(2))])


def test_what_a_prepared_folder_claims_of_its_images_is_not_believed_of_others(tmp_path):
    real = make([drawing(0), drawing(1)])
    false = falsely_prepared(real, tmp_path / "prepared")
    assert false.fingerprint() == real.fingerprint()
    grey = look(Image.new("RGB", (32, 32), (128, 128, 128)))
    for catalogue, seen in ((false, [grey] * 2), (real, [look(drawing(0)), look(drawing(1))]), (false, [grey] * 2)):
        np.testing.assert_array_equal(looks(catalogue), seen)


# ------------------------------------------------------------------------------------------------------------- overlap


def test_titles_are_equal_but_for_case_punctuation_and_spaces():
    assert normalised("Puma  Men's T-Shirt") == normalised("puma men s t_shirt!")
    assert normalised("Café") == normalised("CAFE\u0301")
    assert normalised("red hat") != normalised("redhat")
    assert match_values([normalised(text) for text in ("...", "a")], [normalised("?!"), "A"]).touched.tolist() == [
        False,
        False,
    ]


def test_overlap_counts_the_evaluated_images_that_are_touched():
    train = make([drawing(n) for n in (0, 1, 2)], products=["a", "b", "c"], texts=["Red hat", "shoe", "tie"])
    evaluated = [drawing(0), saved(drawing(1), 75), drawing(7), drawing(8), drawing(0)]
    test = make(evaluated, products=["a", "x", "y", "z", "w"], texts=["one", "two", "RED  hat.", "four", "tie"])
    assert overlap(train, test) == {"identical": 2, "near": 3, "title": 2, "product": 1, "images": 5}


def test_product_ids_of_two_data_sets_are_not_compared():
    train, test = make([drawing(0)], products=["1"]), make([drawing(1)], products=["1"], name="other")
    assert overlap(train, test)["product"] is None
    assert overlap(train, test.select(rows=[0]))["identical"] == 0


# ---------------------------------------------------------------------------------------------------------------- runs


def folder_of_images(path, numbers, splits, texts):
    path.mkdir()
    lines = ["image,text,split"]
    for number, split, text in zip(numbers, splits, texts, strict=True):
        drawing(number).save(path / f"{number}-{len(lines)}.png")
        lines.append(f"{number}-{len(lines)}.png,{text},{split}")
    (path / "table.csv").write_text("\n".join(lines))
    columns = {"text": "text", "image": "image", "split": "split"}
    table = {"_target_": "modiste.data.datasets.table.Table", "path": str(path / "table.csv"), "images": str(path)}
    split = {"_target_": "modiste.data.splits.GivenSplit"}
    return OmegaConf.create({"name": path.name, "catalogue": {**table, "columns": columns}, "split": split})


@pytest.fixture
def trained(tmp_path):
    """The data node of a run on the drawings 0 to 3, its test split being 4."""
    return folder_of_images(tmp_path / "own", range(5), ["train"] * 4 + ["test"], ["hat", "tie", "bag", "shoe", "belt"])


def test_only_the_training_split_of_a_run_counts(trained):
    test = make([drawing(n) for n in (0, 4, 9)], splits=["test", "test", "test"])
    found = overlap_of_run(OmegaConf.create({"data": trained}), test, "test")
    assert found == {"identical": 1, "near": 1, "title": 0, "product": None, "images": 3}


def test_no_overlap_is_none(trained):
    test = make([drawing(4), drawing(0)], splits=["test", "train"])
    assert overlap_of_run(OmegaConf.create({"data": trained}), test, "test") is None


def test_the_data_of_the_run_that_it_started_from_count_too(trained, tmp_path):
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"data": trained, "init": None}), tmp_path / "first" / "config.yaml")
    later = folder_of_images(tmp_path / "later", [20, 21], ["train", "train"], ["x", "y"])
    test = make([drawing(n) for n in (0, 21, 9)], splits=["test"] * 3)
    for start in (tmp_path / "first", tmp_path / "first" / "checkpoints" / "best.ckpt"):
        config = OmegaConf.create({"data": later, "init": str(start)})
        assert [node.name for node in training_data(config)] == ["later", "own"]
        found = overlap_of_run(config, test, "test")
        assert found is not None
        assert (found["identical"], found["images"]) == (2, 3)


def test_a_run_that_goes_on_with_itself_is_read_once(trained, tmp_path):
    (tmp_path / "run").mkdir()
    config = OmegaConf.create({"data": trained, "init": None, "resume": str(tmp_path / "run")})
    OmegaConf.save(config, tmp_path / "run" / "config.yaml")
    assert len(list(training_data(config))) == 2


def test_training_data_that_are_not_there_are_unknown_and_say_why(trained, tmp_path):
    test = make([drawing(0)], splits=["test"])
    trained.catalogue.path = str(tmp_path / "gone.csv")
    found = overlap_of_run(OmegaConf.create({"data": trained}), test, "test")
    assert list(found) == ["unknown"]
    assert "gone.csv" in found["unknown"]
    started = overlap_of_run(OmegaConf.create({"data": trained, "init": str(tmp_path / "no run")}), test, "test")
    assert "no run" in started["unknown"]


def test_the_same_data_node_is_not_loaded_twice(trained, monkeypatch):
    catalogue = module.load(trained)
    monkeypatch.setattr(module, "load", lambda node: pytest.fail("loaded again"))
    assert overlap_of_run(OmegaConf.create({"data": trained}), catalogue, "test", trained) is None


# ----------------------------------------------------------------------------------------------------------- real data


def test_the_leak_free_split_of_kagl_shares_no_image_and_no_product(real_kagl, data_dir):
    from modiste.data.splits import MarqoSplit

    queries = data_dir / "marqo-kagl" / "ground_truth_text-image.json"
    split = MarqoSplit(str(queries))(real_kagl)
    train, test = split.select(split="train"), split.select(split="test")
    for name in ("pixels", "product_id", "text"):
        assert not match_values(train.column(name), test.column(name)).touched.any()
