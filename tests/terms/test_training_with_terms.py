"""`modiste train term=[…]`: logged, not in checkpoints, the same after an interruption."""

import csv

import pytest
import torch

from helpers.commands import TINY, modiste

pytestmark = pytest.mark.slow
# The schedule must not know how long the training is, so that a shorter one is the beginning of a longer one.
TERMS = [*TINY, "image.name=test_vit", "text.config.hidden_dropout_prob=0", "optim.schedule=constant", "optim.warmup=0"]
TERMS += ["term=[distill,soft_labels]", "term.distill.image_features=1.0", "term.soft_labels.teacher=start"]
TERMS += ["callbacks.early_stopping=null"]


def train(cwd, *words):
    run = modiste("train", *words, cwd=cwd)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terms")
    train(folder, *TERMS, "trainer.max_epochs=2", "hydra.run.dir=whole")
    return folder


def rows(run, name):
    (metrics,) = run.glob("csv/version_*/metrics.csv")
    return [float(row[name]) for row in csv.DictReader(metrics.open()) if row.get(name)]


def checkpoint(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_terms_are_logged_and_the_start_is_kept_beside_the_checkpoints(folder):
    run = folder / "whole"
    distill = rows(run, "train/distill")
    assert abs(distill[0]) < 1e-5, "the student begins as its teacher"
    assert distill[-1] > 1e-4
    assert rows(run, "train/soft_labels")
    state, start = checkpoint(run), torch.load(run / "start.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in state["state_dict"]} == {"model", "loss"}
    assert start["state_dict"].keys() <= state["state_dict"].keys()
    assert any(not torch.equal(start["state_dict"][n], state["state_dict"][n]) for n in start["state_dict"])


@pytest.mark.parametrize("how", ["continue", "resume"])
def test_a_training_that_goes_on_has_the_teacher_of_its_beginning(folder, how):
    train(folder, *TERMS, "trainer.max_epochs=1", f"hydra.run.dir={how}")
    more = [f"{how}={folder / how}", "trainer.max_epochs=2"]
    train(folder, *more, *([] if how == "continue" else ["hydra.run.dir=resumed"]))
    whole, other = checkpoint(folder / "whole"), checkpoint(folder / ("resumed" if how == "resume" else how))
    assert whole["global_step"] == other["global_step"] > 0
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name


def test_a_term_that_comes_later_needs_a_named_teacher_and_takes_a_run(folder):
    train(folder, *TINY, "trainer.max_epochs=1", "hydra.run.dir=plain")
    refused = modiste("train", f"resume={folder / 'plain'}", "term=[distill]", "trainer.max_epochs=2", cwd=folder)
    assert refused.returncode != 0
    assert "term.distill.teacher=" in refused.stderr
    assert "Traceback" not in refused.stderr
    train(folder, *TINY, "term=[distill]", f"term.distill.teacher={folder / 'plain'}", "debug=step")


def test_the_start_teaches_on_cached_features_too(folder):
    heads = [f"tune.{tower}.{key}" for tower in ("image", "text") for key in ("train=last_n", "layers=1")]
    train(folder, *TINY, "features.cache=true", *heads, "term=[distill,soft_labels]", "debug=step")


def test_two_processes_equal_one(folder):
    same = [
        *TERMS,
        "trainer.max_epochs=1",
        "callbacks=default",
        "optim.optimizer._target_=torch.optim.SGD",
        "optim.lr=0.1",
    ]
    same += ["~optim.optimizer.betas", "~optim.optimizer.eps"]
    for trainer in ("cpu", "ddp_cpu"):
        train(folder, *same, f"trainer={trainer}", "grad_cache.micro_batch=3", f"hydra.run.dir={trainer}")
    one, two = (checkpoint(folder / trainer)["state_dict"] for trainer in ("cpu", "ddp_cpu"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2e-4, atol=2e-5, msg=name)
