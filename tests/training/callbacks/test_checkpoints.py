"""Checkpoints are saved at clean points only, whole, and with finite weights."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.commands import TINY
from modiste.errors import ModisteError
from modiste.training import fit
from modiste.training.callbacks import (
    EMA,
    CheckpointFiles,
    EpochCheckpoint,
    OwnPaths,
    RecentCheckpoint,
    check_checkpoint_space,
)
from modiste.training.callbacks.checkpoints import RESUMABLE, validation_is_due
from modiste.utils import atomic
from modiste.utils.atomic import DiskFullError

STATE = {"state_dict": {"model.w": torch.ones(2)}, "global_step": 7, "epoch": 1, "hyper_parameters": {}}


@pytest.mark.parametrize(
    ("batch", "every", "due"), [(0, 4, False), (2, 4, False), (3, 4, True), (1, 2, True), (0, 2, False), (3, 3, True)]
)
def test_a_validation_is_due_after_the_last_batch_and_where_the_interval_ends(batch, every, due):
    trainer = SimpleNamespace(num_training_batches=4, val_check_batch=every)
    assert validation_is_due(trainer, batch) is due


def test_best_holds_weights_and_the_others_all_that_resuming_needs(tmp_path):
    full = STATE | {name: {} for name in RESUMABLE}
    for name in ("best", "last"):
        CheckpointFiles().save_checkpoint(full, tmp_path / f"{name}.ckpt")
    best, last = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best.keys() == STATE.keys()
    assert last.keys() == full.keys()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("place", ["local://{victim}", "{run}/../victim", "{victim}", "ftp://127.0.0.1:9/x", "..", 7])
def test_a_checkpoint_of_a_stranger_names_no_file_that_is_deleted(tmp_path, place, monkeypatch):
    """Lightning deletes what a checkpoint calls the best one before, a folder with all that is in it."""
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("it asks for a host"))
    victim, run = tmp_path / "victim", tmp_path / "run"
    (victim / "sub").mkdir(parents=True)
    run.mkdir()
    callback = EpochCheckpoint(dirpath=str(run), filename="last")
    named = place.format(victim=victim, run=run) if isinstance(place, str) else place
    own, paths = str(run / "last.ckpt"), ("best_model_path", "kth_best_model_path", "last_model_path")
    state = {**callback.state_dict(), **dict.fromkeys(paths, named), "best_k_models": {named: 1.0, own: 2.0}}
    OwnPaths().on_load_checkpoint(
        SimpleNamespace(checkpoint_callbacks=[callback]), None, {"callbacks": {callback.state_key: state, "x": 7}}
    )
    assert [state[name] for name in paths] == ["", "", ""]
    assert state["best_k_models"] == {own: 2.0}
    files = CheckpointFiles()
    for path in (victim, f"local://{victim}", run / "absent.ckpt"):
        files.remove_checkpoint(path)
    assert (victim / "sub").is_dir()
    (run / "old.ckpt").touch()
    files.remove_checkpoint(run / "old.ckpt")
    assert not list(run.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path, value):
    CheckpointFiles().save_checkpoint(STATE, tmp_path / "last.ckpt")
    broken = STATE | {"state_dict": {"model.w": torch.tensor([1.0, value])}}
    with pytest.raises(ModisteError, match=r"diverged at step 7.*model\.w.*optim\.lr"):
        CheckpointFiles().save_checkpoint(broken, tmp_path / "last.ckpt")
    torch.testing.assert_close(torch.load(tmp_path / "last.ckpt", weights_only=True), STATE)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the place of the folder")
    with pytest.raises(ModisteError, match=r"cannot be written.*continue="):
        CheckpointFiles().save_checkpoint(STATE, tmp_path / "checkpoints" / "last.ckpt")


def free(monkeypatch, size):
    """A disk with ``size`` bytes left."""
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size))


@pytest.mark.parametrize(
    ("averaged", "kept", "needed"), [(False, 1, 10), (True, 1, 13), (False, 3, 16), (False, -1, 19)]
)
def test_the_disk_has_room_for_what_will_be_kept_or_training_does_not_start(
    tmp_path, monkeypatch, averaged, kept, needed
):
    """Weights of 1 MiB, all trained: a state has 3 MiB, with an average 4; 1 + 3 and the 3 being written, and so on."""
    module = torch.nn.Linear(2**18, 1, bias=False)
    callbacks = [
        ModelCheckpoint(tmp_path / "checkpoints", "best", monitor="val/loss"),
        EpochCheckpoint(tmp_path / "checkpoints", "last", save_top_k=kept, monitor="val/loss"),
        RecentCheckpoint(tmp_path / "checkpoints", "recent", every_n_train_steps=1),
    ]
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, default_root_dir=tmp_path, logger=False, enable_progress_bar=False,
        callbacks=[*callbacks, *([EMA()] if averaged else [])],
    )  # fmt: skip
    free(monkeypatch, needed * 2**20)
    check_checkpoint_space(trainer, module)
    free(monkeypatch, needed * 2**20 - 1)
    with pytest.raises(
        DiskFullError, match=rf"run_dir={tmp_path}.*best, .*last, recent.* needs {needed} MiB.*free some"
    ):
        check_checkpoint_space(trainer, module)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(bytes(2**20))  # a run that continues replaces what exists
    check_checkpoint_space(trainer, module)


def test_a_full_disk_is_noticed_before_the_first_step_and_leaves_no_run(tmp_path, monkeypatch):
    free(monkeypatch, 2**10)
    with pytest.raises(DiskFullError, match=r"The training run in run_dir=.* needs .* MiB, and .* has 0 MiB left"):
        fit.train([*TINY, f"run_dir={tmp_path / 'run'}"])
    assert not list(tmp_path.glob("run/*.yaml"))
