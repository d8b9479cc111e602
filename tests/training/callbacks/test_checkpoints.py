"""Checkpoints are saved at clean points only, whole, and with finite weights."""

from types import SimpleNamespace

import pytest
import torch

from modiste.errors import ModisteError
from modiste.training.callbacks import CheckpointFiles
from modiste.training.callbacks.checkpoints import RESUMABLE, validation_is_due

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
