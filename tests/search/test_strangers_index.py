"""A stranger's index opens no file outside of it and contacts no server; a damaged one is mended or refused."""

import io
import json
import logging
import shutil

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from helpers.tiny_index import CARD, catalogue, columns, make_index
from helpers.watched import watched
from modiste import search
from modiste.errors import ModisteError
from modiste.search.build import Staging
from modiste.search.calibrate import queries
from modiste.search.engines import lancedb as engine
from modiste.search.engines import qdrant
from modiste.search.engines.lancedb import LanceStore
from modiste.search.opened import snapshot_folder
from modiste.utils.arrow import read_table
from modiste.utils.atomic import quick_digest
from modiste.utils.protobuf import fields

SERVER = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    index = make_index(tmp_path_factory.mktemp("whole") / "shop.index", columns(40))
    index.plan(["int8"], recall_floor=0.5)
    return index.path


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "shop.index")
    return tmp_path / "shop.index"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 0x40
    path.write_bytes(data)


def unverifiable(path):
    path.with_name(path.name + ".sha256").unlink()


# ------------------------------------------------------------------------------------------------------------- outside


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(
            ("choice", kind)
            for kind in ("int8-x/../../../../leak/codes", "prefix-64/../x", "prefix-", "prefix-0", "int4", "", 8)
        ),
        *(("version", number) for number in ("../../leak", "3", 1.0, None)),
    ],
)
def test_what_becomes_a_name_of_a_file_is_one_of_the_known_words_or_a_number(part, value, folder):
    facts = json.loads((folder / "index.json").read_text())
    (facts["plan"] if part == "choice" else facts["commits"][-1])[part] = value
    (folder / "index.json").write_text(json.dumps(facts))
    with pytest.raises(ModisteError, match=r"index.json is damaged: rebuild"):
        search.open(folder)


@pytest.mark.parametrize("choice", ["exact", "ivf_rq", "int8", "binary", "prefix-8", "prefix-10000"])
def test_a_choice_that_a_plan_may_have_is_read(choice, folder):
    facts = json.loads((folder / "index.json").read_text())
    facts["plan"]["choice"] = choice
    (folder / "index.json").write_text(json.dumps(facts))
    assert search.open(folder).plan_in_use.choice == choice


@pytest.mark.parametrize("kind", ["EPS", "PNG", "text"])
def test_a_thumbnail_is_decoded_by_no_other_program_and_within_bounds(kind, folder, monkeypatch, tmp_path):
    buffer = io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) run\n")
    if kind == "PNG":
        Image.new("1", (9000, 9000)).save(buffer := io.BytesIO(), kind)
    index = search.open(folder)
    content = b"x" if kind == "text" else buffer.getvalue()
    monkeypatch.setattr(index, "_photo", lambda row: {"_image": "", "_thumbnail": content})
    with watched(tmp_path) as found, pytest.raises(ModisteError, match="thumbnail of the index is damaged"):
        index.image(0)
    assert not [event for event in found if "opened" not in event]


def test_a_table_whose_rows_are_elsewhere_is_refused_before_it_is_opened(folder, tmp_path):
    lancedb.connect(tmp_path / "evil").clone_table("products", str(folder / "lance" / "products.lance"))
    evil = tmp_path / "evil.index"
    shutil.copytree(folder, evil)
    for kept in ("lance", "snapshots"):
        shutil.rmtree(evil / kept)
    shutil.copytree(tmp_path / "evil", evil / "lance")
    with pytest.raises(ModisteError, match="names files outside the index, which are not read: rebuild the index"):
        search.open(evil)
    for file in evil.rglob("*.manifest"):
        cut(file)
    with pytest.raises(ModisteError, match=r"manifest' is damaged: remove the index"):
        search.open(evil)


@pytest.mark.parametrize("place", ["metadata", "extension_name"])
def test_extension_types_of_a_table_are_refused_before_it_is_opened(folder, place, monkeypatch):
    """pyarrow would build them from the schema that it gets from Lance; Ray's are unpickled."""
    if place == "metadata":
        plain = lancedb.connect(folder / "lance").open_table("products").to_arrow()
        metadata = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
        data = plain.cast(pa.schema([field.with_metadata(metadata) for field in plain.schema]))
        lancedb.connect(folder / "lance").create_table("products", data, mode="overwrite")
    else:  # a field that today's writers leave out
        column = b"\x12\x01x\x4a\x05ray.x"
        monkeypatch.setattr(engine, "message_of", lambda manifest: b"\x0a" + bytes([len(column)]) + column)
    with pytest.raises(ModisteError, match="names extension types, which may run code: rebuild the index"):
        LanceStore(folder).count()


def test_a_tokenizer_of_a_stranger_opens_nothing(folder, tmp_path, monkeypatch):
    """Lance joins its name to a folder, and opens the files that a configuration there names."""
    home, inside, outside = tmp_path / "home", folder / "words", tmp_path / "outside"
    for place in (home / "jieba", inside, outside):
        place.mkdir(parents=True)
    (outside / "secret.txt").write_text("hunter2 1 n\n")
    (inside / "config.json").write_text(json.dumps({"main": str(outside / "secret.txt")}))
    monkeypatch.setenv("LANCE_LANGUAGE_MODEL_HOME", str(home))
    table = lancedb.connect(folder / "lance").open_table("products")
    table.create_fts_index("_words", base_tokenizer=f"jieba/../../{folder.name}/words", replace=True)
    with watched(outside) as found, pytest.raises(ModisteError, match=r"cannot be read .*Invalid directory path"):
        LanceStore(folder).full_text("red", None)
    assert found == []


@pytest.mark.parametrize("message", [b"\x92", b"\x0a\x05ab", b"\x0b", b"\x09\0"])
def test_what_is_no_message_is_refused(message):
    with pytest.raises((ValueError, IndexError)):
        list(fields(message))


@pytest.mark.parametrize("name", ["index.json", "lance/products.lance/data/x.lance", "model", "snapshots/9"])
def test_a_link_in_an_index_is_refused(folder, tmp_path, name):
    (tmp_path / "secret").write_text("hunter2")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ModisteError, match=f"'{folder / name}' is a link or not a regular file.*not part of the index"):
        search.open(folder)
    linked = tmp_path / "linked.index"  # the user's own
    (folder / name).unlink()
    if name != "index.json":
        linked.symlink_to(folder)
        assert len(search.open(linked)) == 40


def test_rows_whose_texts_lie_outside_of_their_file_are_read_again(folder, caplog):
    """The digest is of the stranger's, too: it holds."""
    index = search.open(folder)
    expected = index.snapshot.table.column("text").to_pylist()
    file = snapshot_folder(folder, index.version) / "rows.arrow"
    column = read_table(file).column("text").combine_chunks()
    offsets = np.frombuffer(column.buffers()[1], np.int32, count=len(column) + 1)
    file.write_bytes(file.read_bytes().replace(offsets.tobytes(), (offsets + 10**8).tobytes()))
    file.with_name("rows.arrow.sha256").write_text(quick_digest(file))
    with caplog.at_level(logging.WARNING):
        assert search.open(folder).snapshot.table.column("text").to_pylist() == expected
    assert "rows.arrow is damaged" in caplog.text


# -------------------------------------------------------------------------------------------------------------- server


@pytest.fixture
def remote(folder, monkeypatch):
    monkeypatch.delenv("MODISTE_QDRANT_URL", raising=False)
    monkeypatch.setattr(qdrant, "_given", {qdrant.MEMORY})
    facts = json.loads((folder / "index.json").read_text())
    engine = {"kind": "qdrant", "url": SERVER, "collection": "x"}
    (folder / "index.json").write_text(json.dumps(facts | {"engine": engine}))
    return folder


def test_a_server_that_an_index_names_is_not_contacted_on_its_word(remote, monkeypatch):
    monkeypatch.setattr(qdrant, "_client", lambda url: pytest.fail("contacted"))
    for given in (None, "http://127.0.0.1:6333"):
        with pytest.raises(ModisteError, match=r"http://127.0.0.1:9, .* set qdrant\.url or MODISTE_QDRANT_URL"):
            search.open(remote, qdrant_url=given).count()


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_server_that_the_user_gave_is_contacted_and_its_absence_is_a_sentence(remote, monkeypatch, way):
    if way == "environment":
        monkeypatch.setenv("MODISTE_QDRANT_URL", f"{SERVER}/")
    index = search.open(remote, qdrant_url=SERVER if way == "argument" else None)
    with pytest.raises(
        ModisteError, match=r"server at http://127.0.0.1:9 does not answer as it should \(.*\): start it"
    ):
        index.count()


def test_an_index_that_names_the_collection_of_another_one_does_not_change_it(tmp_path):
    mine, theirs = (
        make_index(
            tmp_path / f"{name}.index", columns(10), {"kind": "qdrant", "url": qdrant.MEMORY, "collection": name}
        )
        for name in ("mine", "theirs")
    )
    before = mine.store.read(["row", "product_id", "text"])
    facts = json.loads((theirs.path / "index.json").read_text())
    for id in ({}, {"id": ""}, {"id": facts["engine"]["id"]}):
        engine = {"kind": "qdrant", "url": qdrant.MEMORY, "collection": "mine", **id}
        (theirs.path / "index.json").write_text(json.dumps(facts | {"engine": engine}))
        index = search.open(theirs.path)
        for change in (
            lambda index=index: index.delete("SKU-0"),
            lambda index=index: index.upsert(catalogue(columns(10, titles=["another"] * 10))),
            lambda index=index: index.upsert(catalogue(columns(2)), delete_missing=True),
        ):
            with pytest.raises(
                ModisteError, match="collection mine of :memory: holds rows of another index, so nothing"
            ):
                change()
        assert mine.store.read(["row", "product_id", "text"]).equals(before)
    assert mine.delete("SKU-0") == 2


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("damage", [cut, emptied, flipped, unverifiable])
@pytest.mark.parametrize("name", ["rows.arrow", "vectors.npy", "codes-int8.npy", "codes-int8.npz"])
def test_a_damaged_snapshot_is_made_again_with_a_line_of_log(whole, folder, caplog, name, damage):
    good = search.open(whole)
    damage(snapshot_folder(folder, good.version) / name)
    with caplog.at_level(logging.WARNING):
        index = search.open(folder)
        codes = index.codes("int8")
    (line,) = caplog.messages
    assert f"{name} is damaged and will be recomputed" in line
    assert np.array_equal(index.snapshot.vectors, good.snapshot.vectors)
    assert index.snapshot.table.equals(good.snapshot.table)
    assert np.array_equal(codes.codes, good.codes("int8").codes)
    caplog.clear()
    if not name.startswith("codes"):
        search.open(folder)
        assert not caplog.messages  # mended


def test_a_database_that_is_damaged_as_well_is_a_sentence(folder):
    shutil.rmtree(folder / "snapshots")
    for file in (folder / "lance").rglob("data/*.lance"):
        emptied(file)
    with pytest.raises(ModisteError, match=r"The rows of .* cannot be read \(.*\): remove .* and rebuild"):
        search.open(folder)
    shutil.rmtree(folder / "lance")
    with pytest.raises(ModisteError, match="cannot be read"):
        search.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"commits": []}, {"commits": 5}, {"commits": [{}]}, {"engine": "lancedb"}, {"engine": {}},
        {"engine": {"kind": "x"}}, {"engine": {"kind": "qdrant"}}, {"engine": {"kind": "qdrant", "url": 5}},
        {"model": "x"}, {"model": {"name": "x"}}, {"types": []}, {"types": {"row": 1}}, {"plan": {"steps": 1}},
        {"plan": {"x": 1, "steps": []}}, {"columns": None}, {"next_row": "x"},
    ],
)  # fmt: skip
def test_facts_that_are_not_those_of_an_index_are_a_sentence(folder, change):
    facts = json.loads((folder / "index.json").read_text())
    for damaged in (facts | change, {k: v for k, v in facts.items() if k not in change or k == "plan"} or [1]):
        if damaged.get("plan") == facts["plan"] and "plan" in change:
            continue
        (folder / "index.json").write_text(json.dumps(damaged))
        with pytest.raises(ModisteError, match=r"index.json is damaged: rebuild the index with"):
            search.open(folder)


def test_damaged_embeddings_of_titles_and_of_a_killed_build_are_made_again(folder, tmp_path, caplog):
    index = make_index(tmp_path / "b.index", columns(40))
    index.calibrate()
    good = queries(index, 10)
    cut(index.path / "calibration.npz")
    assert np.array_equal(queries(index, 10), good)
    assert "calibration.npz is damaged" in caplog.text
    from helpers.tiny_index import source

    staging = Staging(tmp_path / "c.index", source(columns(4)))
    staging.embed(catalogue(columns(4)), lambda items, *_: items)
    (file,) = staging.folder.glob("*.arrow")
    cut(file)
    again = Staging(tmp_path / "c.index", source(columns(4), CARD))
    assert not again.thumbnails
    assert "Finished embeddings" in caplog.text


@pytest.mark.parametrize("at", ["newest", "an earlier version"])
def test_embedding_functions_of_a_stranger_are_never_built(folder, at, monkeypatch):
    """lancedb would build what a table's schema names, with its code and address, at every write."""
    from lancedb.embeddings.registry import EmbeddingFunctionRegistry

    table = lancedb.connect(folder / "lance").open_table("products")
    names = [{"name": "openai", "model": {"base_url": SERVER}, "source_column": "text", "vector_column": "_vector"}]
    data = table.to_arrow().replace_schema_metadata({"embedding_functions": json.dumps(names)})
    monkeypatch.setattr(EmbeddingFunctionRegistry, "parse_functions", lambda self, metadata: {})
    hostile = lancedb.connect(folder / "lance").create_table("products", data, mode="overwrite")
    facts = json.loads((folder / "index.json").read_text())
    facts["commits"][-1]["version"] = int(hostile.version)
    (folder / "index.json").write_text(json.dumps(facts))
    built = []
    monkeypatch.setattr(EmbeddingFunctionRegistry, "parse_functions", lambda self, metadata: built.append(metadata))
    store = LanceStore(folder, int(hostile.version) if at != "newest" else None)
    with pytest.raises(ModisteError, match=r"metadata for another program \(embedding_functions\)"):
        store.upsert(data)
    with pytest.raises(ModisteError, match="metadata for another program"):
        store.read(["row"])
    assert built == []
