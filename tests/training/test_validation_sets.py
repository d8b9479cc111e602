"""Further validation sets: composed as modiste evaluate does, measured as it does, and followed by the monitor."""

import csv
import json
from unittest.mock import Mock

import pytest
import torch
from omegaconf import open_dict

from helpers.commands import TINY, modiste
from modiste.config import compose, validate
from modiste.errors import ModisteError
from modiste.training.module import ContrastiveModule, ValidationEmbeddings
from modiste.training.validation_sets import validation_specs

HELD = "data.held_out={column: category, count: 4, seed: 1}"
THUMBNAIL = "data.corruptions=[{_target_: modiste.data.augment.Thumbnail, p: 1.0}]"
THUMBNAILS = (
    "+transfer.thumbnails={data.corruptions: [{_target_: modiste.data.augment.Thumbnail, p: 1.0}], "
    "task: [zeroshot], task.zeroshot.attributes: [category]}"
)
OTHER = "+transfer.other={data: synthetic, data.catalogue.products: 60, data.catalogue.seed: 5, split: test}"


def sets(*words):
    return {name: spec.config for name, spec in validation_specs(compose("train", words)).items()}


# -------------------------------------------------------------------------------------------------------- composition


def test_a_set_is_the_trainings_own_data_and_tasks_unless_it_says_otherwise():
    found = sets(
        HELD, THUMBNAILS, OTHER, "data.catalogue.size=32", "task.retrieval.ks=[3]", "data.batch_size=7", "seed=9"
    )
    assert list(found) == ["held_out", "thumbnails", "other"]
    held_out, thumbnails, other = found.values()
    assert (held_out.split, thumbnails.split, other.split) == ("val_held_out", "val", "test")
    assert list(held_out.task.retrieval.ks) == [3]
    assert list(thumbnails.task) == ["zeroshot"]
    assert list(other.task) == ["retrieval"]
    assert thumbnails.data.catalogue.size == 32
    assert other.data.catalogue.size == 128
    assert (held_out.data.held_out.count, thumbnails.data.held_out.count, other.data.held_out) == (4, 4, None)
    assert (len(held_out.data.corruptions), len(thumbnails.data.corruptions)) == (0, 1)
    assert {found[name].data.batch_size for name in found} == {7}
    assert {found[name].data.seed for name in found} == {9}


def test_prompts_of_a_set_are_of_its_own_data():
    (kagl,) = sets("+transfer.shop={data: kagl, task: [zeroshot]}").values()
    assert "articleType" in kagl.task.zeroshot.prompts
    assert "pattern" not in kagl.task.zeroshot.prompts


def test_values_that_were_resolved_are_not_resolved_again(monkeypatch):
    """They may come from a file, whose parts are harmless each."""
    monkeypatch.setenv("SECRET", "hunter2")
    config = compose("train", ["data=synthetic"])
    with open_dict(config):
        config.data.classes.q = {"a": "$", "b": "{oc.env:SECRET}"}
        config.data.prompts.default = ["${data.classes.q.a}${data.classes.q.b}"]
        config.transfer = {"own": {"split": "val"}}
    (spec,) = validation_specs(config).values()
    assert list(spec.config.data.prompts.default) == ["${oc.env:SECRET}"]


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_a_set_of_one_row_is_measured_like_any_other(count, dim):
    embeddings = ValidationEmbeddings()
    embeddings.update(torch.ones(count, dim), torch.ones(count, dim), torch.arange(count))
    assert [tuple(part.shape) for part in embeddings.gathered()] == [(count, dim), (count, dim), (count,)]


def test_without_any_there_is_none_and_ones_own_held_out_set_wins():
    assert sets() == {}
    mine = sets(HELD, "+transfer.held_out={split: val_held_out, task: [zeroshot]}")
    assert list(mine["held_out"].task) == ["zeroshot"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+transfer.a={data: kgal}", r"transfer\.a: .*Did you mean 'kagl'"),
        ("+transfer.a={data.catlogue.size: 3}", r"transfer\.a: .*catalogue"),
        ("+transfer.a={task: [marqo], data: kagl}", r"transfer\.a: .*test set"),
        ("+transfer.a={task.retrieval.gallery: all}", r"transfer\.a: .*validation split only"),
        ("+transfer.a={model: clip_b32}", r"transfer\.a: .*one model"),
    ],
)
def test_mistakes_name_the_set(word, message):
    with pytest.raises(ModisteError, match=message):
        sets(word)


def test_the_monitor_may_follow_a_set_that_there_is():
    for metric in ("val/held_out/loss", "val/held_out/retrieval/t2i/mrr", "val/other/retrieval/t2i/mrr", "val/loss"):
        validate(compose("train", [HELD, OTHER, f"monitor.metric={metric}"]))
    with pytest.raises(ModisteError, match="no task measures"):
        validate(compose("train", [OTHER, "monitor.metric=val/held_out/loss"]))
    with pytest.raises(ModisteError, match=r"transfer\.retrieval.*name of a task"):
        validate(compose("train", ["+transfer.retrieval={data: kagl}"]))


MEAN = "monitor.mean=[val/retrieval/t2i/mrr,val/other/retrieval/t2i/mrr]"


def test_the_monitor_may_follow_the_mean_of_several_sets():
    validate(compose("train", [OTHER, MEAN, "monitor.metric=val/mean"]))
    for words, message in (
        (["monitor.metric=val/mean"], r"mean of nothing: list its metrics in monitor\.mean"),
        ([MEAN], r"'monitor\.mean\[1\]' is val/other/retrieval/t2i/mrr, which no task measures"),
        (["+transfer.mean={data: kagl}"], r"transfer\.mean.*name of val/mean"),
    ):
        with pytest.raises(ModisteError, match=message):
            validate(compose("train", words))


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (["val/retrieval/t2i/mrr", "val/retrieval/t2i/mr"], "which is not measured. Did you mean"),
        (["val/retrieval/t2i/mrr", "val/loss"], "mixes metrics where higher is better with val/loss"),
    ],
)
def test_a_mean_is_of_measured_metrics_of_one_direction(mean, message):
    module = ContrastiveModule(torch.nn.Identity(), torch.nn.Identity(), mean=mean)
    module.higher_is_better = {"val/retrieval/t2i/mrr": True, "val/loss": False}
    with pytest.raises(ModisteError, match=message):
        module._direction_of_mean({"val/retrieval/t2i/mrr": 0.5, "val/loss": 1.0})


@pytest.mark.parametrize(("metric", "mode", "better"), [("val/t/mrr", "min", "max"), ("val/t/gap", "max", "min")])
def test_a_wrong_mode_of_a_metric_that_only_validation_knows_is_refused_then(metric, mode, better):
    """Whatever callbacks there are: a task may fail on the random embeddings before training."""
    config = {"monitor": {"metric": metric, "mode": mode}}
    module = ContrastiveModule(torch.nn.Identity(), torch.nn.Identity(), config=config)
    module.higher_is_better = {"val/t/mrr": True, "val/t/gap": False}
    with pytest.raises(ModisteError, match=f"keep the worst {metric}: set monitor.mode={better}"):
        module.on_validation_epoch_end()


def test_validation_metrics_are_reduced_over_the_processes(monkeypatch):
    loss = Mock(spec=torch.nn.Module, return_value=torch.tensor(1.0))
    model = Mock(spec=torch.nn.Module, return_value=(torch.ones(2, 3), torch.ones(2, 3)))
    module, log = ContrastiveModule(model, loss), Mock()
    monkeypatch.setattr(module, "log", log)
    monkeypatch.setattr(ContrastiveModule, "loggers", [])
    module.validation_step(dict.fromkeys(("pixels", "tokens", "product")), 0)
    module._log("val/retrieval/t2i/mrr", 0.5, higher_is_better=True)
    assert [call.args[0] for call in log.call_args_list] == ["val/loss", "val/retrieval/t2i/mrr"]
    assert all(call.kwargs["sync_dist"] for call in log.call_args_list)


# ----------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def run(folder):
    monitor = ("monitor.metric=val/thumbnails/zeroshot/category/accuracy",)
    words = ("optim.schedule=constant", "hydra.run.dir=run")  # a schedule that ended is not extended
    finished = modiste("train", *TINY, HELD, THUMBNAILS, OTHER, *monitor, *words, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"


def logged(run):
    (path,) = run.glob("csv/version_*/metrics.csv")
    return [row for row in csv.DictReader(path.open()) if row["val/loss"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task", "words", "file"),
    [
        ("held_out", "retrieval", ["split=val_held_out"], "synthetic.val_held_out.retrieval"),
        (
            "thumbnails",
            "zeroshot",
            ["split=val", THUMBNAIL, "task.zeroshot.attributes=[category]"],
            "synthetic.val.zeroshot.corrupted_Thumbnail",
        ),
        (
            "other",
            "retrieval",
            ["data=synthetic", "data.catalogue.products=60", "data.catalogue.seed=5", "split=test"],
            "synthetic.test.retrieval",
        ),
    ],
)
def test_validation_and_modiste_evaluate_give_the_same_metrics(name, task, words, file, run, folder):
    finished = modiste("evaluate", f"run={run}", "checkpoint=last", f"task=[{task}]", *words, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    metrics = json.loads((run / "results" / f"{file}.json").read_text())["metrics"]
    last = logged(run)[-1]
    assert len(metrics) > 3
    for metric, interval in metrics.items():
        assert float(last[f"val/{name}/{task}/{metric}"]) == pytest.approx(interval["value"], abs=1e-6), metric


@pytest.mark.slow
def test_the_best_checkpoint_and_the_selection_follow_the_curves(run):
    rows = logged(run)
    content = json.loads((run / "selection.json").read_text())
    assert len(content["validations"]) == len(rows) == 3
    assert set(content["criteria"]) == {
        "val/loss", "val/held_out/loss", "val/thumbnails/loss", "val/other/loss", "val/retrieval/t2i/mrr",
        "val/held_out/retrieval/t2i/mrr", "val/other/retrieval/t2i/mrr",
        "val/thumbnails/zeroshot/category/weighted_f1", "val/thumbnails/zeroshot/category/accuracy",
    }  # fmt: skip
    for choice in content["choices"]:
        column = [float(row[choice["criterion"]]) for row in rows]
        best = min(column) if content["criteria"][choice["criterion"]] == "min" else max(column)
        assert choice["epoch"] == column.index(best)
    monitor = [float(row["val/thumbnails/zeroshot/category/accuracy"]) for row in rows]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == monitor.index(max(monitor))
    assert "Which epoch each criterion chooses" in (run / "report.html").read_text()


@pytest.mark.slow
def test_the_checkpoint_follows_the_mean_over_the_sets(folder):
    words = (*TINY, OTHER, MEAN, "monitor.metric=val/mean", "hydra.run.dir=mean")
    finished = modiste("train", *words, cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = logged(folder / "mean")
    means = [float(row["val/mean"]) for row in rows]
    names = ("val/retrieval/t2i/mrr", "val/other/retrieval/t2i/mrr")
    assert means == pytest.approx([sum(float(row[name]) for name in names) / 2 for row in rows], rel=1e-6)
    best = torch.load(folder / "mean" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == means.index(max(means))
    content = json.loads((folder / "mean" / "selection.json").read_text())
    assert content["criteria"]["val/mean"] == "max"


@pytest.mark.slow
def test_a_continued_run_keeps_the_validations_of_before(run, folder):
    again = modiste("train", f"continue={run}", "trainer.max_epochs=4", "callbacks.early_stopping=null", cwd=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    content = json.loads((run / "selection.json").read_text())
    assert [validation["epoch"] for validation in content["validations"]] == [0, 1, 2, 3]


@pytest.mark.slow
def test_cached_features_serve_the_further_sets_too(folder):
    frozen = ("tune.image.train=last_n", "tune.image.layers=1", "features.cache=true", "trainer.max_epochs=1")
    for cache in ("true", "false"):
        words = (*frozen, f"features.cache={cache}", f"hydra.run.dir=cache_{cache}")
        finished = modiste("train", *TINY, HELD, THUMBNAILS, *words, cwd=folder)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    with_cache, without = (logged(folder / f"cache_{cache}")[-1] for cache in ("true", "false"))
    for name in ("val/held_out/loss", "val/thumbnails/loss", "val/held_out/retrieval/t2i/mrr"):
        assert float(with_cache[name]) == pytest.approx(float(without[name]), abs=1e-4), name


@pytest.mark.slow
def test_two_processes_measure_the_sets_as_one_does(folder):
    same = [*TINY, "image.name=test_vit", "trainer.max_epochs=1", "optim.lr=1e-12"]
    for trainer in ("cpu", "ddp_cpu"):
        finished = modiste(
            "train", *same, HELD, THUMBNAILS, f"trainer={trainer}", f"hydra.run.dir={trainer}", cwd=folder
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
    one, two = (logged(folder / trainer)[-1] for trainer in ("cpu", "ddp_cpu"))
    names = [name for name in one if name.startswith(("val/held_out/", "val/thumbnails/"))]
    assert len(names) > 10
    for name in names:
        assert float(two[name]) == pytest.approx(float(one[name]), abs=1e-4), name
