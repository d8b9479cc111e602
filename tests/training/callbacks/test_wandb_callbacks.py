"""What a run sends to wandb besides metrics: sample retrievals, results, costs and the best weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from modiste.data.catalogue import Card, Catalogue
from modiste.data.sources import ArrayImages
from modiste.training.callbacks import wandb as module
from modiste.training.callbacks.wandb import Artifacts, SampleRetrievals

EXAMPLE = {"kind": "t2i", "query": "a red dress", "rank": 2, "results": [{"row": 7}, {"row": 5}]}


class Logger:
    """A wandb logger that keeps what it is given."""

    def __init__(self):
        self.tables, self.artifacts = {}, {}
        self.experiment = SimpleNamespace(id="r1", summary={}, log_artifact=self.keep)

    def keep(self, artifact, aliases=()):
        self.artifacts[artifact.name] = artifact, list(aliases)

    def log_table(self, key, columns, data):
        self.tables[key] = columns, data


@pytest.fixture
def logger(monkeypatch):
    made = Logger()
    monkeypatch.setattr(module, "wandb_loggers", lambda trainer: [made])
    return made


def catalogue():
    """Rows 5 to 7 of a catalogue, each of one colour."""
    pixels = np.stack([np.full((4, 4, 3), 30 * row, np.uint8) for row in range(8)])
    columns = {name: [str(row) for row in range(8)] for name in ("product_id", "image", "text")}
    whole = Catalogue.build(Card("tiny"), {**columns, "split": ["train"] * 5 + ["val"] * 3}, ArrayImages(pixels))
    return whole.select(split="val")


def test_a_table_has_a_line_per_query_and_the_photos_of_its_best_rows(logger):
    results = {"retrieval": SimpleNamespace(examples=[EXAMPLE, {**EXAMPLE, "kind": "i2t"}, EXAMPLE])}
    trainer = SimpleNamespace(datamodule=SimpleNamespace(catalogue=catalogue()))
    SampleRetrievals(count=1, thumbnails=3).on_validation_end(trainer, SimpleNamespace(results=results))
    columns, (row,) = logger.tables["val/retrieval/samples"]
    assert columns == ["query", "rank", "top 1", "top 2", "top 3"]
    assert row[:2] == ["a red dress", 2]
    assert [np.asarray(shown.image)[0, 0, 0] for shown in row[2:4]] == [210, 150]
    assert row[4] is None


def test_nothing_is_sent_without_examples_or_a_catalogue(logger):
    for examples, data in (([], SimpleNamespace(catalogue=catalogue())), ([EXAMPLE], None)):
        results = {"retrieval": SimpleNamespace(examples=examples)}
        trainer = SimpleNamespace(datamodule=data)
        SampleRetrievals().on_validation_end(trainer, SimpleNamespace(results=results))
    assert logger.tables == {}


@pytest.mark.parametrize("upload", [False, True])
def test_the_end_sends_results_cost_and_the_best_weights(logger, tmp_path, upload):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (tmp_path / "cost.json").write_text('{"seconds": 12.5}')
    trainer = SimpleNamespace(callback_metrics={"val/loss": 0.5, "train/loss": 0.7})
    results = {"retrieval": SimpleNamespace(to_json=lambda: {"t2i/mrr": 0.25})}
    Artifacts(str(tmp_path), upload).on_fit_end(trainer, SimpleNamespace(results=results))
    (sent, _), (weights, aliases) = logger.artifacts["results-r1"], logger.artifacts["weights-r1"]
    with open(sent.manifest.entries["results.json"].local_path, encoding="utf-8") as file:
        assert json.load(file) == {"metrics": {"val/loss": 0.5}, "results": {"retrieval": {"t2i/mrr": 0.25}}}
    assert "cost.json" in sent.manifest.entries
    assert logger.experiment.summary == {"cost/seconds": 12.5}
    entry = weights.manifest.entries["best.ckpt"]
    assert (entry.ref is None) == upload
    assert aliases == ["best"]
    assert weights.metadata["val/loss"] == 0.5


def test_a_run_without_checkpoints_sends_its_results_alone(logger, tmp_path):
    Artifacts(str(tmp_path)).on_fit_end(SimpleNamespace(callback_metrics={}), SimpleNamespace(results={}))
    assert list(logger.artifacts) == ["results-r1"]
