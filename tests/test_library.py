"""The Python of README.md, executed: training without Hydra, and the functions that the commands call."""

import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from lightning.pytorch import Trainer

import modiste
from helpers.commands import TINY
from helpers.tiny_data import picture
from modiste.data import from_table
from modiste.errors import ModisteError

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
    from modiste.config import load_config
    from modiste.data.build import load

    catalogue = load(load_config(run.config).data)
    embeddings = modiste.embed(run, catalogue, cache=False, progress=False)
    assert embeddings.image.shape == (len(catalogue), model.embed_dim)
    assert embeddings.ids.column("product_id").to_pylist() == catalogue.column("product_id")
    stored = (run.results / "synthetic.test.retrieval.json").read_bytes()
    modiste.evaluate(run, catalogue.select(split="val"), ["retrieval"], split="val", cache=False)
    assert (run.results / "synthetic.test.retrieval.json").read_bytes() == stored, "a run's record is of its own data"
    # The same captions whatever the model is given as, and of a catalogue, too.
    own = {"data.captions.templates": ["a {colour} {category}"]}
    for given, settings in ((run, {}), (model, own), (modiste.load(run), own)):
        (again,) = modiste.evaluate(given, catalogue, ["retrieval"], cache=False, **settings)
        assert again.metrics == result.metrics
    texts = embeddings.ids.column("text").to_pylist()
    loaded = modiste.embed(modiste.load(run), catalogue, texts, cache=False, progress=False)
    assert torch.equal(loaded.text, embeddings.text)
    (pair,) = modiste.compare(run, run).pairs
    assert set(pair.metrics) == set(result.metrics)


@pytest.mark.parametrize("call", [modiste.evaluate, modiste.embed])
def test_what_is_no_model_is_refused(call, shop):
    catalogue = from_table(shop, images="photos", text="title", image="file", product_id="sku")
    with pytest.raises(ModisteError, match="is no model: give a run"):
        call(object(), catalogue)
    with pytest.raises(ModisteError, match=r"give a Catalogue|is no model"):
        call(42, "synthetic")


@pytest.mark.parametrize("call", [modiste.evaluate, modiste.embed])
def test_what_is_no_data_is_refused(call):
    from modiste.config import compose
    from modiste.models.load import build_model

    with pytest.raises(ModisteError, match="data: give a Catalogue"):
        call(build_model(compose("train", TINY)), 42)


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
