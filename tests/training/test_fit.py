"""Training adds nothing that the configuration leaves out."""

from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from modiste.config import compose
from modiste.training.fit import build_trainer
from modiste.utils.run_dir import RunDir


@pytest.mark.parametrize("null", ["progress", "best last recent interrupt"])
def test_a_callback_set_to_null_is_not_replaced_by_lightnings_own(null: str, tmp_path):
    """Lightning adds a progress bar and a checkpoint of its own unless told not to."""
    config = compose("train", [f"run_dir={tmp_path}", *(f"callbacks.{name}=null" for name in null.split())])
    trainer = build_trainer(config, RunDir(tmp_path), {})
    assert bool(trainer.progress_bar_callback) == (null != "progress")
    assert any(isinstance(callback, ProgressBar) for callback in trainer.callbacks) == (null != "progress")
    assert any(isinstance(callback, Checkpoint) for callback in trainer.callbacks) == (null == "progress")
