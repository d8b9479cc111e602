"""Tiny copies of the hub's parquet files, with the features that the cards state, made by the tests."""

import json
import logging

import datasets
import pytest

from helpers.tiny_data import encoded, picture
from modiste.config import compose, instantiate
from modiste.data.build import load
from modiste.data.catalogue import hash_pixels
from modiste.data.datasets.marqo_sets import MarqoSet
from modiste.errors import ModisteError

STRING, INT = datasets.Value("string"), datasets.Value("int64")
TEXT = {"text": STRING, "item_ID": STRING}
CATEGORIES = {"category1": STRING, "category2": STRING, "category3": STRING}
IMATERIALIST = ("gender", "color", "material", "sleeve", "pattern", "neckline", "style", "category")
FEATURES = {
    "marqo_atlas": {"gender": STRING, "category": STRING, "sub-category": STRING, **TEXT},
    "marqo_inshop": {**CATEGORIES, "color": STRING, "description": STRING, **TEXT},
    "marqo_multimodal": {**CATEGORIES, **TEXT},
    "marqo_fashion200k": {**CATEGORIES, **TEXT},
    "marqo_polyvore": {"category": STRING, **TEXT},
    "marqo_imaterialist": {**dict.fromkeys(IMATERIALIST, STRING), "item_ID": INT},
    "marqo_kagl": {
        "gender": STRING,
        **CATEGORIES,
        "baseColour": STRING,
        "season": STRING,
        "year": datasets.Value("float64"),
        "usage": STRING,
        "text": STRING,
        "item_ID": INT,
    },
}
NUMBERS = {"year": 2012.0}


def rows(name, count=5):
    features = datasets.Features({"image": datasets.Image(), **FEATURES[name]})
    columns = {}
    for column, feature in features.items():
        if column == "image":
            columns[column] = [{"bytes": encoded(picture(i), "JPEG"), "path": None} for i in range(count)]
        elif column == "item_ID":
            columns[column] = [100 + i if feature == INT else f"item_{100 + i}_1" for i in range(count)]
        else:
            columns[column] = [NUMBERS.get(column, f"{column} {i}") for i in range(count)]
    return columns, features


def write(folder, columns, features, shards=2):
    dataset = datasets.Dataset.from_dict(columns, features=features)
    (folder / "data").mkdir(parents=True)
    for i in range(shards):
        part = dataset.shard(shards, i, contiguous=True)
        part.to_parquet(folder / "data" / f"data-{i:05d}-of-{shards:05d}.parquet")
    return folder


def reader(name, path, **changes):
    """The adapter as its YAML declares it."""
    node = compose("data", [f"data={name}"]).data.catalogue
    return instantiate(node, path=str(path), **changes)


@pytest.mark.parametrize("name", FEATURES)
def test_a_set_is_read_as_its_yaml_declares_it(name, tmp_path):
    write(tmp_path, *rows(name))
    cfg = compose("data", [f"data={name}", f"data.catalogue.path={tmp_path}"])
    catalogue = load(cfg.data)
    numbers = range(100, 105)
    ids = [f"item_{i}_1" if FEATURES[name]["item_ID"] == STRING else str(i) for i in numbers]
    assert catalogue.column("product_id") == ids
    assert catalogue.column("split") == ["test"] * 5
    assert [hash_pixels(catalogue.read_image(i)) for i in range(5)] == catalogue.column("pixels")
    if name != "marqo_imaterialist":
        assert catalogue.column("text") == [f"text {i}" for i in range(5)]
    if name != "marqo_kagl":  # under Kaggle's names
        assert catalogue.card.name == cfg.data.name == name
        assert sorted(catalogue.attributes) == sorted(
            column.replace("-", "_") for column in FEATURES[name] if column not in ("text", "item_ID")
        )
    assert set(cfg.data.prompts) - {"default"} <= set(catalogue.attributes)


def test_imaterialists_text_is_made_of_its_attributes(tmp_path):
    columns, features = rows("marqo_imaterialist", 2)
    columns["style"][1] = None
    write(tmp_path, columns, features, 1)
    catalogue = reader("marqo_imaterialist", tmp_path)()
    assert catalogue.column("text") == [
        "color 0, pattern 0, material 0, sleeve 0, neckline 0, style 0, gender 0, category 0",
        "color 1, pattern 1, material 1, sleeve 1, neckline 1, gender 1, category 1",
    ]
    assert catalogue.column("style") == ["style 0", ""]


def test_a_row_without_text_takes_its_attributes_and_is_reported(tmp_path, caplog):
    columns, features = rows("marqo_polyvore", 3)
    columns["text"][1] = " "
    columns["text"][2] = columns["category"][2] = ""
    write(tmp_path, columns, features)
    catalogue = reader("marqo_polyvore", tmp_path)()
    assert catalogue.column("text") == ["text 0", "category 1"]
    assert catalogue.report.bad == {"empty caption": ["item_102_1"]}
    assert "2 rows have no text" in caplog.text


def test_corrupt_and_absent_images_are_excluded_and_counted(tmp_path):
    columns, features = rows("marqo_polyvore")
    columns["image"][1] = {"bytes": columns["image"][1]["bytes"][:200], "path": None}
    columns["image"][3] = None
    write(tmp_path, columns, features)
    catalogue = reader("marqo_polyvore", tmp_path)()
    assert catalogue.report.bad == {"unreadable image": ["item_101_1"], "missing image": ["item_103_1"]}
    assert hash_pixels(catalogue.read_image(2)) == catalogue.column("pixels")[2]
    with pytest.raises(ModisteError, match="max_bad=1"):
        reader("marqo_polyvore", tmp_path, max_bad=1)()


def test_a_missing_download_has_a_remedy(tmp_path):
    remedy = r"hf download Marqo/atlas --repo-type dataset.*data\.catalogue\.path.*Marqo/atlas"
    with pytest.raises(ModisteError, match=rf"gone does not exist\. .*{remedy}"):
        reader("marqo_atlas", tmp_path / "gone")()
    with pytest.raises(ModisteError, match=rf"holds no parquet files.*{remedy}"):
        reader("marqo_atlas", tmp_path)()


@pytest.mark.parametrize("name", ["marqo_polyvore", "marqo_kagl"])
def test_absent_files_of_several_are_an_error_that_names_them(name, tmp_path):
    write(tmp_path, *rows(name), shards=3)
    (tmp_path / "data" / "data-00001-of-00003.parquet").unlink()
    with pytest.raises(ModisteError, match=r"1 of 3 files are missing .*\(data-00001-of-00003\.parquet\)\. .* again"):
        reader(name, tmp_path)()


@pytest.mark.parametrize("part", [lambda data: data[: len(data) // 2], lambda data: b"version https://git-lfs"])
def test_a_damaged_file_or_a_pointer_to_one_is_named(part, tmp_path):
    write(tmp_path, *rows("marqo_polyvore"))
    file = tmp_path / "data" / "data-00001-of-00002.parquet"
    file.write_bytes(part(file.read_bytes()))
    with pytest.raises(ModisteError, match=r"data-00001-of-00002\.parquet cannot be read"):
        reader("marqo_polyvore", tmp_path)()


def test_fewer_rows_than_published_are_a_warning_with_the_remedy(tmp_path, caplog):
    write(tmp_path, *rows("marqo_polyvore"))
    assert len(reader("marqo_polyvore", tmp_path)()) == 5
    assert "a partial download? It has 5 of 94,096 rows, 5 of 94,096 images" in caplog.text
    assert "hf download Marqo/polyvore" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        reader("marqo_polyvore", tmp_path, expected={"rows": 5})()
    assert "partial" not in caplog.text


def test_another_data_set_is_not_taken_for_the_set(tmp_path):
    write(tmp_path, *rows("marqo_polyvore"))
    with pytest.raises(ModisteError, match=r"'marqo_atlas' has no column 'sub-category'"):
        reader("marqo_atlas", tmp_path)()
    columns, features = rows("marqo_imaterialist")
    write(tmp_path / "other", {**columns}, features)
    with pytest.raises(ModisteError, match=r"'marqo_polyvore' has no column 'text'"):
        reader("marqo_polyvore", tmp_path / "other")()


def test_the_hub_is_asked_for_its_id_alone_and_only_where_no_folder_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    dataset = datasets.Dataset.from_dict(*rows("marqo_polyvore")[:1], features=rows("marqo_polyvore")[1])

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return datasets.DatasetDict({"data": dataset})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(reader("marqo_polyvore", "Marqo/polyvore", revision="abc")()) == 5
    assert calls == [(("Marqo/polyvore", None), {"revision": "abc"})]
    with pytest.raises(ModisteError, match="data/marqo-polyvore does not exist"):
        reader("marqo_polyvore", "data/marqo-polyvore")()
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict({"train": dataset}))
    with pytest.raises(ModisteError, match="no split 'data'"):
        reader("marqo_polyvore", "Marqo/polyvore")()


@pytest.mark.parametrize(("name", "kind"), [("marqo_imaterialist", "image"), ("marqo_atlas", "image+text")])
def test_the_marqo_task_takes_a_sets_queries_from_its_yaml(name, kind, tmp_path):
    """Integers and strings as ids, attribute→image and attribute→product, the whole set as gallery."""
    import torch

    query = {"marqo_imaterialist": "category", "marqo_atlas": "sub-category"}[name]
    write(tmp_path / f"marqo-{name.removeprefix('marqo_')}", *rows(name))
    cfg = compose("evaluate", [f"data={name}", "task=[marqo]", f"data_dir={tmp_path}", "model=two_tower"])
    catalogue = load(cfg.data)
    judged = {f"{query} 0": {catalogue.column("product_id")[2]: 1}}
    folder = tmp_path / f"marqo-{name.removeprefix('marqo_')}"
    columns = kind.split("+")
    task = {"name": f"{query}-to-x", "query_col": [query], "doc_col": columns}
    if len(columns) > 1:
        task["doc_weights"] = [0.9, 0.1]
    (folder / "config.json").write_text(json.dumps({"name": name, "tasks": [task]}))
    (folder / f"ground_truth_{query}-{kind}.json").write_text(json.dumps(judged))

    class Embedder:
        fingerprint = "one-hot"

        def __init__(self):
            self.asked = []

        def images(self, catalogue):
            return torch.eye(6)[: len(catalogue)]

        def texts(self, texts):
            self.asked.append(list(texts))
            return torch.eye(6)[[1] * len(texts)]  # nearest: the second row, then the others by index

    embedder = Embedder()
    result = instantiate(cfg.task.marqo)(embedder, catalogue, cfg.split)
    assert result.counts[f"{query}-to-x/gallery"] == 5
    assert result.metrics[f"{query}-to-x/mrr@10"].value == pytest.approx(1 / 3)
    assert ([f"text {i}" for i in range(5)] in embedder.asked) == (kind == "image+text")
    assert len(embedder.asked) == len(columns)


def test_the_card_says_what_the_set_is():
    card = MarqoSet("x", hub="Marqo/x", name="marqo_x", attributes=[], licence="MIT", expected={"rows": 3}).card
    assert (card.homepage, card.licence, card.expected) == (
        "https://huggingface.co/datasets/Marqo/x",
        "MIT",
        {"rows": 3},
    )
