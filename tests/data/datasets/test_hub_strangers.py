"""A folder of a stranger's, read as a data set of the hub's: nothing outside of it is opened, nobody is contacted."""

import contextlib
import io
import json
import os
import tarfile
import zipfile
import zlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import EpsImagePlugin, Image

from helpers.linear import assert_linear
from helpers.tiny_data import SPARSE, encoded, picture
from helpers.watched import watched
from modiste.data.datasets.hub import Hub
from modiste.data.datasets.hub_files import _configs as read_configs
from modiste.data.datasets.table import Table
from modiste.errors import ModisteError

HTTP = "http://127.0.0.1:9/x.parquet"


@pytest.fixture(autouse=True)
def online(monkeypatch, tmp_path):
    """Nothing but the code keeps addresses closed; each test has a cache of its own."""
    monkeypatch.setenv("MODISTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def outside(tmp_path):
    """A folder with a table that nobody may read, as Parquet and as Arrow."""
    folder = tmp_path / "outside"
    folder.mkdir()
    rows().to_parquet(folder / "x.parquet")
    rows().save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(folder / "x.arrow")
    (folder / "x.png").write_bytes(encoded(picture(9)))
    return folder


def rows(count=2):
    cells = [{"bytes": encoded(picture(i)), "path": None} for i in range(count)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": cells, "text": [f"a hat {i}" for i in range(count)]}, features=features)


def card(root, text, name="README.md"):
    root.mkdir(exist_ok=True)
    (root / name).write_text(text if name.endswith("yaml") else f"---\n{text}\n---\n")


PLACES = (
    HTTP, "hf://datasets/a/b/x.parquet", "s3://a/x.parquet", "{out}/x.parquet",
    "../outside/x.parquet", "a/../../outside/x.parquet", "./../outside/*", "file://{out}/x.parquet", "~/x.parquet",
    "zip://x.parquet::http://127.0.0.1:9/x.zip", "simplecache::http://127.0.0.1:9/x.parquet", "..\\outside\\x.parquet",
    "data:x.parquet",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_readme_names_no_file_outside(place, outside, tmp_path):
    root = tmp_path / "set"
    place = json.dumps(place.replace("{out}", str(outside)))
    forms = (
        f"data_files: {place}", f"data_files: [train.parquet, {place}]", f"data_files: {{train: {place}}}",
        f"data_files: [{{split: train, path: {place}}}]", f"data_files: [{{split: train, path: [{place}]}}]",
        f"{{data_dir: {place}, data_files: '*'}}", f"data_dir: {place}",
    )  # fmt: skip
    for form in forms:
        for name in ("README.md", ".huggingface.yaml"):
            inner = form if form.startswith("{") else f"{{{form}}}"
            card(root, f"configs:\n- {inner[0]}config_name: default, {inner[1:]}", name)
            rows().to_parquet(root / "train.parquet")
            with watched(outside) as found, pytest.raises(ModisteError, match="which are not in the folder"):
                Hub(str(root))()
            assert found == []
            (root / name).unlink()


def test_a_readme_may_name_files_within(tmp_path):
    root = tmp_path / "set"
    for name in ("a/train/x.parquet", "a/test/x.parquet", "b/y.parquet", "b/deep/er/z.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rows().to_parquet(root / name)
    card(root, """configs:
- config_name: one
  data_files: [{split: train, path: a/train/*}, {split: query, path: [a/te*/x.parquet]}]
- config_name: two
  data_files: ./b/**
- config_name: three
  data_dir: b
  default: true""")  # fmt: skip
    assert Hub(str(root), config="one")().splits == {"train": 2, "query": 2}
    assert Hub(str(root), config="two")().splits == {"train": 4}
    assert Hub(str(root))().splits == {"train": 4}
    assert len(Hub(str(root), config="one").load("query")) == 2
    with pytest.raises(ModisteError, match=r"no configuration 'tow'\. Did you mean 'two'"):
        Hub(str(root), config="tow")()
    (root / "README.md").write_text((root / "README.md").read_text().replace("default: true", ""))
    with pytest.raises(ModisteError, match=r"set data\.catalogue\.config=one or two or three"):
        Hub(str(root))()


@pytest.mark.parametrize(
    "text", ["configs: [", "a: &a [x]\nb: *a", "configs: " + "[" * 100_000, "configs: 1", "configs: [1, [2]]", "- 1"]
)
def test_a_readme_that_is_no_yaml_is_one_sentence_or_ignored(text, tmp_path):
    card(tmp_path, text)
    rows().to_parquet(tmp_path / "train.parquet")
    if text in ("configs: 1", "configs: [1, [2]]", "- 1"):
        assert len(Hub(str(tmp_path))()) == 2
    else:
        with pytest.raises(ModisteError, match="has YAML that cannot be read"):
            Hub(str(tmp_path))()


@pytest.mark.parametrize("name", ["{out}/x.arrow", "../outside/x.arrow", HTTP, "..", "", None, {"a": 1}, "a\\x.arrow"])
def test_a_saved_data_set_names_no_file_outside(name, outside, tmp_path):
    name = name.replace("{out}", str(outside)) if isinstance(name, str) else name
    rows().save_to_disk(str(tmp_path / "set"))
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    for listed in ([{"filename": name}], [*state["_data_files"], {"filename": name}], name, [name]):
        (tmp_path / "set" / "state.json").write_text(json.dumps(state | {"_data_files": listed}))
        with watched(outside) as found, pytest.raises(ModisteError, match=r"names"):
            Hub(str(tmp_path / "set"))()
        assert found == []
    datasets.DatasetDict({"train": rows()}).save_to_disk(str(tmp_path / "both"))
    (outside.parent / "outside" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}]}))
    (tmp_path / "both" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", name and "../outside"]}))
    with watched(outside) as found, pytest.raises(ModisteError, match="which is not in its folder"):
        Hub(str(tmp_path / "both"))()
    assert found == []


@pytest.mark.parametrize("saved", [True, False])
def test_an_arrow_file_whose_texts_lie_outside_of_it_is_one_sentence(saved, tmp_path):
    texts = [f"a hat {i:04d}" for i in range(50)]
    datasets.Dataset.from_dict({"text": texts, "image_id": texts}).save_to_disk(str(tmp_path / "set"))
    file = tmp_path / "set" / "data-00000-of-00001.arrow"
    offsets = 10 * np.arange(51, dtype=np.int32)
    file.write_bytes(file.read_bytes().replace(offsets.tobytes(), (offsets + 10**8).tobytes()))
    if not saved:
        (tmp_path / "set" / "state.json").unlink()
    with pytest.raises(ModisteError, match=r"Data set '.*' cannot be loaded: .*arrow' is damaged: "):
        Hub(str(tmp_path / "set"))()


def test_the_format_of_a_saved_data_set_is_not_used(tmp_path):
    rows().with_format("numpy").save_to_disk(str(tmp_path / "set"))
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    for changes in ({}, {"_format_type": "jax", "_format_kwargs": {"device": "x"}}, {"_format_columns": ["nothing"]}):
        (tmp_path / "set" / "state.json").write_text(json.dumps(state | changes))
        catalogue = Hub(str(tmp_path / "set"))()
        assert catalogue.column("text") == ["a hat 0", "a hat 1"]
    assert catalogue.images.identity([]) == Hub(str(tmp_path / "set"))().images.identity([])  # its scan is kept


KINDS = {
    "image": {"_type": "Image"},
    "audio": {"_type": "Audio"},
    "video": {"_type": "Video"},
    "a module": {"_type": "os"},
    "names of a file": {"_type": "ClassLabel", "names": ["a"], "names_file": "{out}/x.png"},
}


@pytest.mark.parametrize("wrap", ["{}", '{{"_type": "List", "feature": {}}}', '{{"a": {}}}'])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_name_no_picture_outside(kind, wrap, outside, tmp_path):
    places = HTTP, "zip://x.png::http://127.0.0.1:9/x.zip", f"{outside}/x.png", "../outside/x.png"
    cells = [*({"bytes": None, "path": place} for place in places), {"bytes": encoded(picture(1)), "path": HTTP}]
    if "List" in wrap:
        cells = [[cell] for cell in cells]
    elif wrap != "{}":
        cells = [{"a": cell} for cell in cells]
    table = pa.table({"image": cells, "text": [*places, "sound"], "label": [0, 5, 0, -1, -1]})
    feature = json.loads(wrap.format(json.dumps(KINDS[kind])).replace("{out}", str(outside)))
    features = {"image": feature, "text": {"_type": "Value", "dtype": "string"},
                "label": {"_type": "ClassLabel", "names": ["a"]}}  # fmt: skip
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for folder in ("parquet", "saved"):
        (tmp_path / folder).mkdir(exist_ok=True)
    pq.write_table(table, tmp_path / "parquet" / "train.parquet")
    with pa.OSFile(str(tmp_path / "saved" / "x.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}]}))
    found = []
    for folder in ("parquet", "saved"):
        with watched(outside) as events:
            try:
                catalogue = Hub(str(tmp_path / folder))()
            except ModisteError:  # a sentence is as good, but not for what has always been read
                assert kind != "image" or wrap != "{}"
            else:
                assert (catalogue.column("text"), catalogue.column("label")) == (["sound"], [""])
        found += events
    assert found == []


def test_links_out_of_the_folder_are_not_read(outside, tmp_path):
    for number, (name, target) in enumerate(
        [("train.parquet", outside / "x.parquet"), ("metadata.csv", outside / "x.png"), ("x.png", outside / "x.png"),
         ("data", outside), ("README.md", outside / "x.png"), ("train.parquet", "../outside/x.parquet")]
    ):  # fmt: skip
        root = tmp_path / f"set{number}"
        root.mkdir()
        rows().to_parquet(root / "other.parquet")
        (root / name).symlink_to(target)
        with watched(outside) as found, pytest.raises(ModisteError, match="leads out of its folder"):
            Hub(str(root))()
        with watched(outside) as more, pytest.raises(ModisteError, match="leads out of its folder"):
            Hub(str(root)).load("train")
        assert found + more == []
    root = tmp_path / "pipe"
    root.mkdir()
    os.mkfifo(root / "train.parquet")
    with pytest.raises(ModisteError, match="not a regular file"):
        Hub(str(root))()


def test_links_within_the_folder_and_the_cache_of_the_hub_are_read(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    rows().to_parquet(root / "a.parquet")
    (root / "b.parquet").symlink_to("a.parquet")
    assert len(Hub(str(root)).load("train")) == 4
    cache = tmp_path / "datasets--a--b"
    (cache / "snapshots" / "0f").mkdir(parents=True)
    (cache / "blobs").mkdir()
    rows().to_parquet(cache / "blobs" / "1234")
    (cache / "snapshots" / "0f" / "train.parquet").symlink_to("../../blobs/1234")
    assert len(Hub(str(cache / "snapshots" / "0f"))()) == 2


def test_names_that_datasets_takes_for_archives_are_refused(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    rows().to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(root / "zip::http:.parquet")
    with pytest.raises(ModisteError, match="by which datasets names archives"):
        Hub(str(root))()


def test_what_is_no_table_and_no_picture_is_not_read(outside, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    h5py = pytest.importorskip("h5py")
    with h5py.File(root / "train.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(outside / "x.h5"), "/")
    for name in ("train.pkl", "train.lance", "train.xml", "train.txt", "set.py", "train.eval", "task.toml"):
        (root / name).write_bytes(b"x")
    with zipfile.ZipFile(root / "train.zip", "w") as archive:
        archive.writestr("../x.png", encoded(picture(0)))
    with watched(outside) as found, pytest.raises(ModisteError, match="holds no data files"):
        Hub(str(root))()
    assert found == []


def test_tars_hold_no_sparse_files(tmp_path):
    """512 bytes of them unpack into any size."""
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "train.tar", "w") as tar:
        info = tarfile.TarInfo("0.jpg")
        info.pax_headers = SPARSE
        tar.addfile(info)
    with pytest.raises(ModisteError, match=r"holds '0\.jpg'"):
        Hub(str(tmp_path / "set"), {"text": "txt", "image": "jpg"})()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.npz", "a.npy", "a.pth", "a.cbor", "a.ten", "a.mp4"])
def test_tars_hold_images_and_texts_alone(name, tmp_path):
    root = tmp_path / "set"
    root.mkdir()

    def add(tar, member, content):
        info = tarfile.TarInfo(member)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))

    with tarfile.open(root / "train.tar", "w") as tar:
        for number in range(2):
            add(tar, f"{number}.jpg", encoded(picture(number), "JPEG"))
            add(tar, f"{number}.txt", b"a hat")
    assert len(Hub(str(root), {"text": "txt", "image": "jpg"})()) == 2
    with tarfile.open(root / "train.tar", "a") as tar:
        add(tar, name, b"x")
    with pytest.raises(ModisteError, match=f"holds '{name}'"):
        Hub(str(root), {"text": "txt", "image": "jpg"})()


def test_tables_with_file_names_are_read_by_split(outside, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for split, number in (("train", 0), ("validation", 1)):
        (root / f"{number}.image").write_bytes(encoded(picture(number)))
        (root / f"{split}.csv").write_text(
            f"image,text,price\n{number}.image,hat {number},{number + 1}.5\n../outside/x.png,secret,1\n{HTTP},http,2\n"
        )
    with watched(outside) as found:
        catalogue = Hub(str(root))()
    assert found == []
    assert catalogue.column("text") == ["hat 0", "hat 1"]
    assert catalogue.column("split") == ["train", "val"]
    assert catalogue.column("price") == ["1.5", "2.5"]


@pytest.mark.parametrize("kind", ["plain", "listed"])
@pytest.mark.parametrize("named", [{}, {"image": "image", "text": "text"}])
def test_another_column_of_pictures_is_not_decoded(kind, named, tmp_path, monkeypatch):
    """`datasets` would open its addresses, and start Ghostscript on PostScript."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: pytest.fail("it starts Ghostscript"))
    postscript = io.BytesIO()
    Image.new("RGB", (8, 8)).save(postscript, "EPS")
    cells = [{"bytes": None, "path": "http://127.0.0.1:9/x.png"}, {"bytes": postscript.getvalue(), "path": None}]
    feature = datasets.Image() if kind == "plain" else datasets.List(datasets.Image())
    features = datasets.Features({**rows().features, "other": feature})
    whole = {**rows().with_format("arrow")[:].to_pydict(), "other": cells if kind == "plain" else [[c] for c in cells]}
    table = pa.table(whole, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "t.parquet")  # `to_parquet` would fetch the address itself
    (tmp_path / "outside").mkdir()
    with watched(tmp_path / "outside") as seen:
        catalogue = Table(str(tmp_path / "t.parquet"), columns=named)()
    assert len(catalogue) == 2
    assert seen == []


def test_a_link_for_the_folder_of_images_is_named_on_the_command_line(tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "0.png").write_bytes(encoded(picture(0)))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "images").symlink_to(tmp_path / "private")
    (tmp_path / "shop" / "t.csv").write_text("image,text\n0.png,a hat\n")
    with pytest.raises(ModisteError, match=r"is a link to .*set data\.catalogue\.images"):
        Table(str(tmp_path / "shop" / "t.csv"))()
    assert len(Table(str(tmp_path / "shop" / "t.csv"), images=str(tmp_path / "shop" / "images"))()) == 1


def archive(name):
    """A tar of one empty file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return bytearray(buffer.getvalue())


def disguised(start):
    """A tar whose first name begins as another archive, and ends with an empty byte; behind it is a packed tar."""
    name = start + b"/0.jpg\0"
    compressor = zlib.compressobj(9, wbits=-15)
    packed = compressor.compress(archive("0.npy")[:1536]) + compressor.flush()
    content = archive("x")
    content[: len(name) + len(packed)] = name + packed
    assert len(name) + len(packed) <= 100
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return content


STARTS = {
    "gzip": (b"\x1f\x8b\x08\x08aaaaaa", r"holds '0\.npy', which is not"),
    "zip": (b"PK\x03\x04", "begins as a zip archive"),
}


@pytest.mark.parametrize("kind", STARTS)
def test_a_tar_that_is_another_archive_to_datasets_is_refused(kind, tmp_path):
    start, refusal = STARTS[kind]
    (tmp_path / "train.tar").write_bytes(disguised(start))
    with tarfile.open(tmp_path / "train.tar", "r:") as tar:
        assert [name.endswith("/0.jpg") for name in tar.getnames()] == [True]
    with pytest.raises(ModisteError, match=refusal):
        Hub(str(tmp_path), {"text": "txt", "image": "jpg"})()


@pytest.mark.parametrize("unit", ["\n", " ", "\n--", "---\n "])
def test_no_readme_takes_more_than_linear_time(unit, tmp_path):
    def read(text):
        (tmp_path / "README.md").write_text(text)
        with contextlib.suppress(ModisteError):
            read_configs(tmp_path)

    assert_linear(read, unit, "---\n#")
    assert_linear(read, unit, "---")
