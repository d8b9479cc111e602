import io
import multiprocessing
import os
import pickle
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from helpers.tiny_data import encoded, make_catalogue, picture
from modiste.data import catalogue as catalogue_module
from modiste.data import sources
from modiste.data.build import load
from modiste.data.catalogue import Card, Catalogue, hash_pixels
from modiste.data.sources import ArrayImages, ArrowImages, FolderImages, ImageTooLargeError, ZipImages, decode
from modiste.errors import ModisteError

CARD = Card("tiny")


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))


def write_folder(root, pictures):
    root.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        (root / name).write_bytes(encoded(image))
    return FolderImages(root)


def columns_of(refs, **other):
    columns = {"product_id": [f"p{i}" for i in range(len(refs))], "image": refs, "text": [f"text {r}" for r in refs]}
    return {**columns, **other}


# ------------------------------------------------------------------------------------------------------------ decoding


def test_transparent_parts_become_white_and_others_keep_their_colour():
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    decoded = decode(encoded(image))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (10, 20, 30)]


def test_a_transparent_palette_colour_becomes_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putpixel((1, 0), 1)
    decoded = decode(encoded(image, "PNG", transparency=0))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (200, 0, 0)]


def test_photos_are_turned_upright():
    image = picture(0, (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 90° clockwise to show
    decoded = decode(encoded(image, "PNG", exif=exif))
    assert np.array_equal(np.asarray(decoded), np.rot90(np.asarray(image), k=-1))


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 30000, 60000]], dtype=np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(values))))
    assert decoded[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("size", [(7, 9), (40, 1), (1, 40), (16, 2)])
@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4"), ("F", "<f4")])
@pytest.mark.parametrize("level", [None, 100])
def test_grey_is_scaled_tile_by_tile_to_the_same_levels(mode, kind, level, size, monkeypatch):
    """At once, 64 megapixels of a PNG of 95 KB took 1.2 GB."""
    values = np.random.default_rng(0).integers(0, 30_000, (size[1], size[0])).astype(kind)
    values[0, :5] = 100
    expected = (values.astype(np.float64) / max(values.max(), 255) * 255).clip(0, 255).astype(np.uint8)
    expected[values == level] = 255
    image = Image.frombytes(mode, size, values.tobytes())
    image.info |= {} if level is None else {"transparency": level}
    monkeypatch.setattr(sources, "TILE", 16)
    found = sources._eight_bit(image)
    assert np.array_equal(np.asarray(found), expected)
    assert (found.mode, found.info) == ("L", {})


def test_a_truncated_file_is_an_error_and_not_a_half_grey_picture():
    data = encoded(picture(1, (64, 64)), "JPEG", quality=95)
    with pytest.raises(OSError, match=r"truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(picture(0))[:20], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_raises_oserror_or_valueerror(data):
    with pytest.raises((OSError, ValueError)):
        decode(data)


def huge_png(side):
    """A PNG of a few bytes that declares side × side pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError):
        decode(huge_png(side))


# ------------------------------------------------------------------------------------------------------------- sources


@pytest.fixture
def four_sources(tmp_path):
    """The same three pictures in every kind of source, with their references."""
    import datasets

    pictures = {f"{i}.png": picture(i) for i in range(3)}
    names = list(pictures)
    folder = write_folder(tmp_path / "folder", pictures)
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, image in pictures.items():
            archive.writestr(f"inner/{name}", encoded(image))
    features = datasets.Features({"photo": datasets.Image()})
    as_bytes = [{"bytes": encoded(image), "path": None} for image in pictures.values()]
    as_paths = [str(tmp_path / "folder" / name) for name in names]
    numbers = ["0", "1", "2"]
    return [
        (folder, names),
        (ZipImages(tmp_path / "images.zip", "inner/"), names),
        (ArrayImages(np.stack([np.asarray(image) for image in pictures.values()])), numbers),
        (ArrowImages(datasets.Dataset.from_dict({"photo": as_bytes}, features=features), "photo"), numbers),
        (ArrowImages(datasets.Dataset.from_dict({"photo": as_paths}, features=features), "photo", tmp_path), numbers),
        (ArrowImages(datasets.Dataset.from_dict({"photo": [b["bytes"] for b in as_bytes]}), "photo"), numbers),
    ]


def test_every_source_gives_the_same_pixels_also_after_pickling(four_sources):
    expected = [hash_pixels(picture(i)) for i in range(3)]
    for source, refs in four_sources:
        for copy in (source, pickle.loads(pickle.dumps(source))):
            assert [hash_pixels(copy.read(ref)) for ref in refs] == expected


def test_every_source_raises_filenotfounderror_for_what_it_does_not_have(four_sources):
    for source, refs in four_sources:
        with pytest.raises(FileNotFoundError):
            source.read("9" if refs[0] == "0" else "9.png")


def test_every_source_bounds_the_bytes_that_it_reads(four_sources, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    for source, refs in four_sources:
        if not isinstance(source, ArrayImages):
            with pytest.raises(ImageTooLargeError):
                source.read(refs[0])


def test_arrow_rows_without_an_image_are_missing():
    import datasets

    dataset = datasets.Dataset.from_dict({"photo": [None]}, features=datasets.Features({"photo": datasets.Image()}))
    with pytest.raises(FileNotFoundError):
        ArrowImages(dataset, "photo").read("0")


def test_paths_of_a_data_set_without_a_folder_of_images_are_not_read(tmp_path):
    import datasets

    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    features = datasets.Features({"photo": datasets.Image()})
    dataset = datasets.Dataset.from_dict({"photo": [str(tmp_path / "a.png"), "/dev/zero"]}, features=features)
    for folder in (None, tmp_path / "other"):
        for ref in ("0", "1"):
            with pytest.raises(sources.UnsafeImageError):
                ArrowImages(dataset, "photo", folder).read(ref)


@pytest.mark.parametrize("ref", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_a_reference_cannot_leave_the_folder(tmp_path, ref):
    (tmp_path / "secret.png").write_bytes(encoded(picture(0)))
    with pytest.raises(ValueError, match=r"outside"):
        write_folder(tmp_path / "images", {}).read(ref)


def test_folders_named_with_dots_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images", {"a.png": picture(0)})
    for root in ("images", "./images", "images/../images"):
        assert FolderImages(root).read("a.png").size == (6, 8)


def _hash_all(source, refs, queue):
    with ThreadPoolExecutor(4) as pool:
        queue.put(list(pool.map(lambda ref: hash_pixels(source.read(ref)), refs * 3)))


def test_an_opened_zip_is_safe_in_forked_processes_and_threads(tmp_path):
    refs = [f"{i}.png" for i in range(40)]
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, ref in enumerate(refs):
            archive.writestr(ref, encoded(picture(i, (40, 40))))
    source = ZipImages(tmp_path / "images.zip")
    expected = [hash_pixels(source.read(ref)) for ref in refs] * 3
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    processes = [fork.Process(target=_hash_all, args=(source, refs, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert results == [expected] * 3


def test_a_damaged_zip_member_is_a_valueerror(tmp_path):
    data = encoded(picture(0, (40, 40)))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("a.png", data)
    raw = (tmp_path / "images.zip").read_bytes()
    (tmp_path / "images.zip").write_bytes(raw.replace(data, data[:-50] + bytes(50)))
    with pytest.raises(ValueError, match=r"CRC"):
        ZipImages(tmp_path / "images.zip").read("a.png")


# --------------------------------------------------------------------------------------------------------------- build


@pytest.fixture
def bad_build(tmp_path):
    """A function that builds a catalogue of two good rows and one of every kind of bad row."""
    images = write_folder(tmp_path / "images", {"a.png": picture(0), "b.png": picture(1)})
    (tmp_path / "images" / "cut.png").write_bytes(encoded(picture(2, (64, 64)))[:900])
    (tmp_path / "images" / "bomb.png").write_bytes(huge_png(60_000))
    refs = ["a.png", "gone.png", "cut.png", "bomb.png", "b.png", "a.png", "", "b.png"]
    columns = {
        "product_id": ["p0", "p1", "p2", "p3", "p4", "p0", "p6", "p7"],
        "image": refs,
        "text": ["one", "two", "three", "four", " ", "one again", "six", "seven"],
        "colour": ["NA", "b", "c", "d", "e", "f", "g", None],
    }
    return lambda max_bad=None: Catalogue.build(CARD, columns, images, max_bad)


def test_bad_rows_are_excluded_and_reported_by_reason_and_id(bad_build):
    catalogue = bad_build()
    assert catalogue.column("product_id") == ["p0", "p7"]
    assert catalogue.report.bad == {
        "missing image": ["p1", "p6"],
        "unreadable image": ["p2"],
        "image too large": ["p3"],
        "empty caption": ["p4"],
        "duplicate row": ["p0"],
    }
    assert (catalogue.report.rows, catalogue.report.kept) == (8, 2)
    assert catalogue.column("row") == [0, 1]
    assert catalogue.column("pixels") == [hash_pixels(picture(0)), hash_pixels(picture(1))]


def test_na_is_a_value_and_nothing_is_empty(bad_build):
    assert bad_build().column("colour") == ["NA", ""]


@pytest.mark.parametrize(
    ("limit", "allowed"), [(None, True), (6, True), (5, False), (0, False), (0.75, True), (0.7, False)]
)
def test_max_bad_makes_too_many_bad_rows_an_error(bad_build, limit, allowed):
    if allowed:
        assert len(bad_build(limit)) == 2
    else:
        with pytest.raises(ModisteError, match=r"max_bad.*2 of 8 rows kept.*1 empty caption \(p4\)"):
            bad_build(limit)


def test_a_data_set_without_a_usable_row_is_an_error(tmp_path):
    with pytest.raises(ModisteError, match=r"no usable row.*2 missing image"):
        Catalogue.build(CARD, columns_of(["x.png", "y.png"]), FolderImages(tmp_path))


def test_a_missing_column_is_named_with_the_likely_one():
    with pytest.raises(ModisteError, match=r"no column 'product_id'. Did you mean 'product_ids'"):
        Catalogue.build(CARD, {"product_ids": [], "image": [], "text": []}, ArrayImages(np.zeros((0, 2, 2), np.uint8)))


def test_columns_of_different_lengths_are_an_error():
    with pytest.raises(ModisteError, match=r"different lengths"):
        Catalogue.build(CARD, columns_of(["0"], colour=[]), ArrayImages(np.zeros((1, 2, 2), np.uint8)))


def test_given_pixels_are_taken_and_no_image_is_read():
    class Unread:
        def read(self, ref):
            pytest.fail("read")

    catalogue = Catalogue.build(CARD, columns_of(["0", "1"], pixels=["aa", "bb"]), Unread())
    assert catalogue.column("pixels") == ["aa", "bb"]


class Counting(FolderImages):
    def __init__(self, root):
        super().__init__(root)
        self.reads = 0

    def read(self, ref):
        self.reads += 1
        return super().read(ref)


@pytest.mark.usefixtures("_own_cache")
def test_a_scan_is_reused_until_a_file_changes(tmp_path):
    write_folder(tmp_path / "images", {"a.png": picture(0), "b.png": picture(1)})
    columns = columns_of(["a.png", "b.png", "gone.png", "a.png"])

    def build():
        images = Counting(tmp_path / "images")
        return Catalogue.build(CARD, columns, images), images.reads

    first, reads = build()
    assert reads == 3  # each file once, though two rows show a.png
    again, reads = build()
    assert reads == 0
    assert again.table.equals(first.table)
    assert again.report == first.report
    (tmp_path / "images" / "b.png").write_bytes(encoded(picture(7, (3, 3))))
    (tmp_path / "images" / "gone.png").write_bytes(encoded(picture(8)))
    changed, reads = build()
    assert reads == 3
    assert changed.column("pixels") == [
        hash_pixels(i) for i in (picture(0), picture(7, (3, 3)), picture(8), picture(0))
    ]


@pytest.mark.usefixtures("_own_cache")
def test_an_error_of_the_system_is_not_remembered(tmp_path):
    write_folder(tmp_path / "images", {"a.png": picture(0), "b.png": picture(1)})

    class Denied(FolderImages):
        denied = True

        def read(self, ref):
            if self.denied and ref == "b.png":
                raise PermissionError(13, "Permission denied")
            return super().read(ref)

    images = Denied(tmp_path / "images")
    assert Catalogue.build(CARD, columns_of(["a.png", "b.png"]), images).report.bad == {"unreachable image": ["p1"]}
    images.denied = False
    assert len(Catalogue.build(CARD, columns_of(["a.png", "b.png"]), images)) == 2


@pytest.mark.usefixtures("_own_cache")
def test_a_changed_array_is_scanned_again():
    array = np.zeros((1, 4, 4), np.uint8)
    first = Catalogue.build(CARD, columns_of(["0"]), ArrayImages(array))
    second = Catalogue.build(CARD, columns_of(["0"]), ArrayImages(array + 1))
    assert first.column("pixels") != second.column("pixels")


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "cache").write_text("a file in the way")
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    catalogue = Catalogue.build(CARD, columns_of(["0"]), ArrayImages(np.zeros((1, 4, 4), np.uint8)))
    assert len(catalogue) == 1
    assert "could not be cached" in caplog.text


@pytest.mark.usefixtures("_own_cache")
def test_many_images_are_scanned_in_the_right_order():
    array = np.random.default_rng(0).integers(0, 256, (5200, 4, 5), dtype=np.uint8)
    catalogue = Catalogue.build(CARD, columns_of([str(i) for i in range(len(array))]), ArrayImages(array))
    expected = [hash_pixels(Image.fromarray(image)) for image in array]
    assert catalogue.column("pixels") == expected


# ------------------------------------------------------------------------------------------------------- the catalogue


def test_select_keeps_the_position_in_the_full_catalogue():
    catalogue = make_catalogue("abcde", range(5), splits=["train", "test", "train", "test", "test"])
    test = catalogue.select(split="test")
    assert test.column("row") == [1, 3, 4]
    assert test.select(rows=[2, 0]).column("row") == [4, 1]
    assert catalogue.select(rows=np.array([True, False, False, True, False])).column("row") == [0, 3]
    assert len(catalogue.select(rows=[])) == 0
    assert catalogue.select(split="all", rows=[3, 0]).column("split") == ["test", "train"]
    with pytest.raises(ModisteError, match=r"no rows in split 'tets'. Did you mean 'test'"):
        catalogue.select(split="tets")


def test_read_image_reads_the_row_of_the_selection(tmp_path):
    images = write_folder(tmp_path, {f"{i}.png": picture(i) for i in range(3)})
    catalogue = Catalogue.build(CARD, columns_of(["0.png", "1.png", "2.png"]), images).select(rows=[2, 1])
    assert [hash_pixels(catalogue.read_image(i)) for i in (0, 1)] == catalogue.column("pixels")


def test_columns_attributes_and_unknown_names():
    catalogue = make_catalogue("ab", range(2), colour=["red", "blue"], mask=["m", "n"])
    assert catalogue.attributes == ["colour"]
    assert catalogue.column("mask") == ["m", "n"]
    with pytest.raises(ModisteError, match=r"Did you mean 'colour'"):
        catalogue.column("color")


def test_replace_column_leaves_the_original_alone():
    catalogue = make_catalogue("ab", range(2))
    changed = catalogue.replace_column("split", ["x", "y"]).replace_column("brand", ["k", "l"])
    assert changed.column("split") == ["x", "y"]
    assert changed.attributes == ["brand"]
    assert catalogue.column("split") == ["", ""]
    assert changed.table.schema.field("brand").type == pa.string()


def test_fingerprint_depends_on_every_column_and_the_order():
    base = make_catalogue("ab", [1, 2], ["x", "y"])
    same = make_catalogue("ab", [1, 2], ["x", "y"])
    others = [
        make_catalogue("ab", [1, 3], ["x", "y"]),
        make_catalogue("ab", [1, 2], ["x", "z"]),
        make_catalogue("ac", [1, 2], ["x", "y"]),
        make_catalogue("ba", [2, 1], ["y", "x"]),
        make_catalogue(["a1", "b"], [1, 2], ["x", "y"]),
        make_catalogue(["a", "1b"], [1, 2], ["x", "y"]),
        make_catalogue("ab", [1, 2], ["x", "y"], splits=["train", "test"]),
        make_catalogue("ab", [1, 2], ["x", "y"], colour=["red", "red"]),
        make_catalogue("ab", [1, 2], ["x", "y"], colour=["red", "blue"]),
    ]
    assert same.fingerprint() == base.fingerprint()
    assert len({base.fingerprint(), *(other.fingerprint() for other in others)}) == 1 + len(others)


def test_a_catalogue_can_be_pickled():
    catalogue = make_catalogue("ab", range(2))
    assert pickle.loads(pickle.dumps(catalogue)).fingerprint() == catalogue.fingerprint()
    assert replace(catalogue, card=Card("other")).card.name == "other"


def test_load_builds_the_catalogue_and_splits_it(tmp_path):
    from omegaconf import OmegaConf

    write_folder(tmp_path / "images", {f"{i}.png": picture(i) for i in range(4)})
    (tmp_path / "table.csv").write_text("image,text\n" + "".join(f"{i}.png,text {i}\n" for i in range(4)))
    node = OmegaConf.create(
        {
            "catalogue": {
                "_target_": "modiste.data.datasets.table.Table",
                "path": str(tmp_path / "table.csv"),
                "images": str(tmp_path / "images"),
            },
            "split": {"_target_": "modiste.data.splits.RandomSplit", "fractions": {"all": 1.0}},
        }
    )
    assert load(node).splits == {"all": 4}


def test_equal_pixels_have_equal_hashes_whatever_their_encoding():
    image = picture(3)
    assert (
        hash_pixels(decode(encoded(image, "PNG"))) == hash_pixels(decode(encoded(image, "BMP"))) == hash_pixels(image)
    )
    assert hash_pixels(Image.open(io.BytesIO(encoded(picture(4))))) != hash_pixels(image)
    assert catalogue_module.hash_pixels(image.convert("RGBA")) == hash_pixels(image)


def test_links_out_of_the_folder_and_special_files_are_bad_rows(tmp_path):
    """A pipe does not wait, a device does not fill the memory, a link does not show another folder."""
    (tmp_path / "secret.png").write_bytes(encoded(picture(9)))
    images = write_folder(tmp_path / "images", {"a.png": picture(0)})
    root = tmp_path / "images"
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "within.png").symlink_to(root / "a.png")
    (root / "zero.png").symlink_to("/dev/zero")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    names = ["a.png", "within.png", "out.png", "zero.png", "folder.png", "pipe.png"]
    columns = {"product_id": names, "image": names, "text": names}
    catalogue = Catalogue.build(Card("links"), columns, images)
    assert catalogue.column("image") == ["a.png", "within.png"]
    assert catalogue.report.bad == {catalogue_module.UNSAFE_IMAGE: names[2:]}
    moved = tmp_path / "moved"
    moved.symlink_to(root)  # the folder itself may be a link
    assert FolderImages(moved).read("a.png").size == (6, 8)


def test_a_scan_that_is_damaged_is_made_again(tmp_path, caplog):
    images = write_folder(tmp_path / "images", {"a.png": picture(0)})
    columns = {"product_id": ["a"], "image": ["a.png"], "text": ["a"]}
    first = Catalogue.build(Card("damaged"), columns, images)
    path = catalogue_module._scan_file(["a.png"], images)
    for content in (b"", path.read_bytes()[:-9]):
        path.write_bytes(content)
        assert Catalogue.build(Card("damaged"), columns, images).fingerprint() == first.fingerprint()
        assert "is damaged and will be recomputed" in caplog.text
        caplog.clear()
    Catalogue.build(Card("damaged"), columns, images)
    assert not caplog.records


@pytest.mark.parametrize("transparent", [False, True])
def test_a_16_bit_grey_png_shows_its_shape(transparent):
    values = np.full((8, 8), 65535, dtype=np.uint16)
    values[2:6, 2:6] = 19532
    image = Image.fromarray(values)
    data = encoded(image, transparency=65535) if transparent else encoded(image)
    decoded = sources.decode(data)
    assert (decoded.getpixel((4, 4)), decoded.getpixel((0, 0))) == ((76, 76, 76), (255, 255, 255))
