"""The Python of README.md, executed: training without Hydra, and the functions that the commands call."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer

import modiste
from helpers.commands import TINY
from helpers.tiny_data import picture
from modiste.data import from_run, from_table
from modiste.errors import ModisteError
from modiste.search.query import Query
from modiste.utils.run_dir import RunDir

README = Path(modiste.__file__).parents[2] / "README.md"
COLOURS = ("red", "green", "blue", "black")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A pandas table of 48 products with a folder of photos; the working directory holds both."""
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(48):
        picture(number, (32, 32)).save(tmp_path / "photos" / f"{number}.png")
    rows = range(48)
    splits = ["val" if row % 4 == 0 else "test" if row % 4 == 1 else "train" for row in rows]
    return pandas.DataFrame(
        {
            "sku": [f"p{row}" for row in rows],
            "file": [f"{row}.png" for row in rows],
            "title": [f"{COLOURS[row % 4]} shirt {row}" for row in rows],
            "split": splits,
        }
    )


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_script_of_the_readme_trains_without_hydra_in_at_most_twenty_lines(shop, monkeypatch):
    (script,) = (block for block in blocks() if "Trainer(" in block)
    assert len(script.strip().splitlines()) <= 20
    quick = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    names = {"table": shop}
    script = script.replace("Trainer(max_epochs=3)", f"Trainer(max_epochs=1, limit_train_batches=1, **{quick})")
    exec(script, names)
    trainer = names["module"].trainer
    assert isinstance(trainer, Trainer)
    assert trainer.global_step == 1
    assert {"val/loss", "val/retrieval/t2i/mrr"} <= trainer.callback_metrics.keys()
    assert names["result"].split == "test"
    assert names["result"].metrics["t2i/mrr"].n == 12


def test_train_evaluate_embed_and_load_are_what_the_commands_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["trainer.max_epochs=1", "data.num_workers=0", "optim.schedule=constant"]  # a cosine's end is final
    short.append("data.captions.templates=['a {colour} {category}']")
    run = modiste.train([*TINY, *short, f"run_dir={tmp_path / 'run'}"])
    assert (run.path / "checkpoints" / "best.ckpt").is_file()
    assert run.score is not None
    page = run.path / "report.html"
    assert "retrieval/t2i/mrr" in page.read_text()
    page.unlink()
    continued = modiste.train([f"continue={run.path}", "trainer.max_epochs=2"], report=False)
    assert not page.exists()
    assert continued.path == run.path
    assert continued.trainer.current_epoch == 2
    assert continued.trainer.global_step == 2 * run.trainer.global_step
    (result,) = modiste.evaluate(run, tasks=["retrieval"], cache=False)
    assert result.per_query["t2i/mrr"].shape == (result.counts["t2i/queries"],)
    assert (run.results / "synthetic.test.retrieval.json").is_file()
    (kept,) = modiste.evaluate(run, tasks=["retrieval"], cache=False)
    assert kept == result
    model = modiste.load(run.path).model
    catalogue = from_run(run)
    embeddings = modiste.embed(run, catalogue, cache=False, progress=False)
    assert embeddings.image.shape == (len(catalogue), model.embed_dim)
    assert embeddings.ids.column("product_id").to_pylist() == catalogue.column("product_id")
    stored = (run.results / "synthetic.test.retrieval.json").read_bytes()
    modiste.evaluate(run, catalogue.select(split="val"), ["retrieval"], split="val", cache=False)
    assert (run.results / "synthetic.test.retrieval.json").read_bytes() == stored, "a run's record is of its own data"
    # Captions are those of the run, whichever way it and its data are given.
    loaded = modiste.load(run)
    for given in (run, run.path, loaded):
        for data in (None, catalogue):
            (again,) = modiste.evaluate(given, data, ["retrieval"], cache=False)
            assert again.metrics == result.metrics
            same = modiste.embed(given, data, cache=False, progress=False)
            assert same.ids == embeddings.ids
            assert torch.equal(same.text, embeddings.text)
    own = {"data.captions.templates": ["a {colour} {category}"]}  # a model alone has no captions
    (again,) = modiste.evaluate(model, catalogue, ["retrieval"], cache=False, **own)
    assert again.metrics == result.metrics
    (pair,) = modiste.compare(run, run).pairs
    assert set(pair.metrics) == set(result.metrics)


@pytest.mark.parametrize("call", [modiste.evaluate, modiste.embed])
def test_what_is_no_model_is_refused(call, shop):
    catalogue = from_table(shop, images="photos", text="title", image="file", product_id="sku")
    with pytest.raises(ModisteError, match="is no model: give a run"):
        call(object(), catalogue)
    with pytest.raises(ModisteError, match="is no model: give a run"):
        call(42, "synthetic")


@pytest.mark.parametrize("call", [modiste.evaluate, modiste.embed])
def test_what_is_no_data_is_refused(call):
    from modiste.config import compose
    from modiste.models.load import build_model

    model = build_model(compose("train", TINY))
    with pytest.raises(ModisteError, match="data: give a Catalogue"):
        call(model, 42)
    with pytest.raises(ModisteError, match="No data given"):
        call(model)
    with pytest.raises(ModisteError, match="synthetik"):
        call(model, "synthetik")


def test_embed_takes_data_as_evaluate_does(tiny):
    """By name, or as config groups and keys."""
    model, _ = tiny
    few = {"data": "synthetic", "data.catalogue.products": 12, "data.captions.templates": ["a {colour} thing"]}
    embeddings = modiste.embed(model, few, cache=False, progress=False)
    assert len(embeddings.image) == len(embeddings.ids)
    assert len(set(embeddings.ids.column("product_id").to_pylist())) == 12
    assert all(text.startswith("a ") and text.endswith(" thing") for text in embeddings.ids.column("text").to_pylist())
    with pytest.raises(ModisteError, match="is not a key"):
        modiste.embed(model, {"hydra.searchpath": "/x"})


@pytest.fixture
def tiny(shop):
    """A model, and a catalogue of 48 rows."""
    from modiste.config import compose
    from modiste.models.load import build_model

    catalogue = from_table(shop, images="photos", text="title", image="file", product_id="sku")
    return build_model(compose("train", TINY)), catalogue


@pytest.mark.parametrize("tasks", ["retrieval", [], {}, None, [5], {"x": "retrieval"}, {1: len}])
def test_what_are_no_tasks_is_refused(tasks, tiny):
    with pytest.raises(ModisteError, match="give a list of names"):
        modiste.evaluate(*tiny, tasks)


def test_what_a_task_returns_is_a_result(tiny):
    with pytest.raises(ModisteError, match=r"Task own returned 5: return a modiste\.tasks\.result\.Result"):
        modiste.evaluate(*tiny, {"own": lambda *_: 5}, cache=False)


def test_settings_may_be_paths_and_numbers_of_numpy(tiny):
    settings = {"batch_size": np.int64(16), "min_cosine": {"image": np.float64(0.9)}, "data_dir": Path("photos")}
    (result,) = modiste.evaluate(*tiny, ["retrieval"], cache=False, **settings)
    assert result.split == "test"
    with pytest.raises(ModisteError, match="is no value of a configuration"):
        modiste.evaluate(*tiny, **{"data.prompts.colour": [object()]})
    with pytest.raises(ModisteError, match="out=5: give a directory"):
        modiste.evaluate(*tiny, out=5)


@pytest.mark.parametrize("captions", [["a"], "a" * 48, [None] * 48, [5] * 48, ["\ud83d"] * 48, 5])
def test_captions_are_one_text_per_row(captions, tiny):
    with pytest.raises(ModisteError, match=r"give a list of 48 texts|is not a text"):
        modiste.embed(*tiny, captions, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batchsize": 3}, "no option batchsize. Did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size=0: give a whole number"),
        ({"batch_size": "8"}, "batch_size='8': give a whole number"),
        ({"device": "gpu"}, "device=gpu cannot be used: .*device=cpu"),
        ({"device": "cuda:99"}, "device=cuda:99 cannot be used: .*device=cpu"),
    ],
)
def test_options_of_embed_are_checked(options, message, tiny):
    with pytest.raises(ModisteError, match=message):
        modiste.embed(*tiny, **options)


@pytest.mark.parametrize(
    "rows", [[48], [-1], [1.5], ["a"], [True, False], [[0, 1]]], ids=["above", "below", "part", "text", "short", "2d"]
)
def test_rows_outside_a_catalogue_are_refused(rows, tiny):
    with pytest.raises(ModisteError, match="boolean mask of length 48, or indices from 0 to 47"):
        tiny[1].select(rows=rows)


@pytest.mark.parametrize("overrides", ["data=kagl", None, [5], {"data": "kagl"}])
def test_what_are_no_overrides_is_refused(overrides):
    with pytest.raises(ModisteError, match="is no list of overrides: write"):
        modiste.train(overrides)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModisteError, match="None is no source of a model"):
        modiste.load(None)
    with pytest.raises(ModisteError, match="None is no run: give two"):
        modiste.compare(None, tmp_path)
    with pytest.raises(ModisteError, match="checkpoint=lst is not known: choose best or last"):
        RunDir(tmp_path).checkpoint("lst")


@pytest.mark.parametrize(
    ("phrase", "message"), [(" ", "A phrase is empty"), (5, "not a text"), ("\ud83d", "not a text")]
)
def test_phrases_are_texts(phrase, message, tiny):
    with pytest.raises(ModisteError, match=message):
        tiny[0].ground(picture(0, (32, 32)), [phrase])


@pytest.mark.parametrize("text", ["\udcff", 5, b"red"])
def test_queries_are_texts(text):
    for given in ((text, None), ("red", [text])):
        with pytest.raises(ModisteError, match="is not a text: give words in UTF-8"):
            Query.of(given[0], None, None, given[1], None)


def test_a_caption_template_of_a_missing_column_is_named(tiny):
    settings = {"data.captions.templates": ["a {pattern} shirt"]}
    with pytest.raises(ModisteError, match=r"data\.captions\.templates: Data set 'table' has no column 'pattern'"):
        modiste.evaluate(*tiny, ["retrieval"], **settings)


def test_a_catalogue_without_a_run_has_the_prompts_of_a_table_or_those_given(shop):
    from modiste.config import compose
    from modiste.models.load import build_model

    shop["colour"] = [title.split()[0] for title in shop["title"]]
    catalogue = from_table(shop, images="photos", text="title", image="file", product_id="sku")
    model = build_model(compose("train", TINY))
    (result,) = modiste.evaluate(model, catalogue, ["zeroshot"], split="all", cache=False)
    assert "colour/accuracy" in result.metrics
    prompts = {"data.prompts.colour": ["a {} garment"]}
    (other,) = modiste.evaluate(model, catalogue, ["zeroshot"], split="all", cache=False, **prompts)
    assert "a {} garment" in str(other.protocol)
    assert "a {} garment" not in str(result.protocol)


def test_a_table_of_arrow_is_a_catalogue_too(shop):
    table = pa.Table.from_pandas(shop, preserve_index=False)
    catalogue = from_table(table, images="photos", text="title", image="file", product_id="sku")
    assert len(catalogue) == 48
