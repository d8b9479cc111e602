"""Planted faults of a catalogue stand at the top of the health lists."""

import csv

import numpy as np
import pytest

from helpers.tiny_index import DIM, Embedder, catalogue, columns, unit
from modiste import search
from modiste.errors import ModisteError
from modiste.search import health
from modiste.search.build import Source, build
from modiste.search.encoder import ModelCard

ROWS = 240


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Photos lie near their colour's centre, titles near their photo; some rows are wrong."""
    generator = np.random.default_rng(0)
    table = columns(ROWS, views=1)
    centres = {name: unit(generator.standard_normal(DIM)) for name in ("red", "blue", "green")}
    photos = [unit(centres[colour] + 0.09 * generator.standard_normal(DIM)) for colour in table["colour"]]
    table["colour"][5], table["colour"][17] = "red", "blue"  # were green
    photos[31] = unit(photos[30] + 1e-3 * generator.standard_normal(DIM))  # another product's photo
    titles = dict(zip(table["text"], photos, strict=True))
    titles[table["text"][40]] = unit(-photos[40])  # fits nothing
    table["gender"] = ["Men"] * ROWS
    source = Source(ModelCard("tiny", "f", {}, DIM), vectors=dict(zip(table["pixels"], photos, strict=True)))
    folder = tmp_path_factory.mktemp("health") / "shop.index"
    build(folder, catalogue(table), source)
    index = search.open(folder)
    index.embedder = Embedder(titles)
    return index


def test_a_photo_used_twice_is_the_first_duplicate(index):
    table = health.duplicates(index)
    assert (table.column("row")[0].as_py(), table.column("other_row")[0].as_py()) == (30, 31)
    assert len(table) == 1
    assert table.column("score")[0].as_py() > 0.99


def test_a_photo_that_does_not_fit_its_title_is_the_first_misfit(index):
    table = health.misfits(index).to_pylist()
    assert table[0]["row"] == 40
    assert table[0]["better"] > 0.9
    assert table[0]["best_text"] != table[0]["text"]
    embedded = len(index.embedder.asked)
    health.misfits(index)
    assert len(index.embedder.asked) == embedded  # kept for the version


def test_wrong_values_are_found_with_the_right_ones(index):
    found = {row["row"]: row for row in health.attributes(index, ["colour"]).to_pylist()}
    assert {5, 17} <= set(found)
    assert (found[5]["value"], found[5]["suggested"]) == ("red", "green")
    assert found[17]["confidence"] > 0.9
    assert len(found) < 6
    with pytest.raises(ModisteError, match="Did you mean 'colour'"):
        health.attributes(index, ["color"])


def test_what_no_title_finds_is_listed_with_its_rank(index):
    table = health.unfound(index, k=1).to_pylist()
    assert table[0]["row"] == 40
    assert table[0]["rank"] > ROWS / 2


def test_embeddings_of_titles_that_are_damaged_are_made_again(index):
    _, vectors, _ = health.texts_of(index)
    (file,) = (index.path / "texts").glob("*.npy")
    content = file.read_bytes()
    file.unlink()  # it is mapped
    file.write_bytes(content[:100])
    assert np.array_equal(health.texts_of(index)[1], vectors)
    assert np.array_equal(np.load(file), vectors)


def test_embeddings_of_titles_that_changed_without_a_new_version_are_made_again(index):
    # What a killed upsert wrote stays on a Qdrant server.
    before, vectors, own = health.texts_of(index)
    table = index.snapshot.table
    place = table.column_names.index("text")
    index.snapshot.table = table.set_column(place, "text", [table.column("text").to_pylist()[::-1]])
    titles, changed, _ = health.texts_of(index)
    assert (len(titles), set(titles)) == (len(before), set(before))
    assert np.array_equal(changed, vectors[[before.index(title) for title in titles]])
    index.snapshot.table = table
    assert np.array_equal(health.texts_of(index)[2], own)


def test_lists_are_written_as_csv(index, tmp_path):
    written = {name: (count, file) for name, count, file in health.write(index, tmp_path / "out")}
    assert set(written) == set(health.LISTS)
    count, file = written["duplicates"]
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    assert len(rows) == count == 1
    assert rows[0]["product_id"] == "SKU-30"
