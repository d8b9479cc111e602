"""Training adds nothing that the configuration leaves out."""

from __future__ import annotations

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from omegaconf import OmegaConf

from helpers.commands import TINY
from helpers.resumed import assert_same_state, checkpoint
from modiste.config import compose, locate, quote
from modiste.errors import ModisteError
from modiste.training.fit import build_loggers, build_trainer, train
from modiste.utils.run_dir import RunDir


@pytest.mark.parametrize("null", ["progress", "best last recent interrupt"])
def test_a_callback_set_to_null_is_not_replaced_by_lightnings_own(null: str, tmp_path):
    """Lightning adds a progress bar and a checkpoint of its own unless told not to."""
    config = compose("train", [f"run_dir={tmp_path}", *(f"callbacks.{name}=null" for name in null.split())])
    trainer = build_trainer(config, RunDir(tmp_path), {})
    assert bool(trainer.progress_bar_callback) == (null != "progress")
    assert any(isinstance(callback, ProgressBar) for callback in trainer.callbacks) == (null != "progress")
    assert any(isinstance(callback, Checkpoint) for callback in trainer.callbacks) == (null == "progress")


@pytest.mark.parametrize("word", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2", "xla"])
def test_a_strategy_that_unpickles_checkpoints_is_refused(word, tmp_path):
    """Lightning's FSDP does, whatever `weights_only` says; the run that names it may be a stranger's."""
    with pytest.raises(ModisteError, match="use auto, ddp, or trainer=fsdp"):
        train([f"run_dir={tmp_path}", f"+trainer.strategy={word}"])
    with pytest.raises(ModisteError, match="may not be instantiated"):
        locate("lightning.pytorch.strategies.FSDPStrategy")


class Killed(Callback):
    """Ends a run before the first step of its second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("killed")


def test_a_continued_run_with_settings_that_it_cannot_take_is_left_as_it_was(tmp_path):
    train([*TINY, f"run_dir={tmp_path}", "trainer.max_epochs=1"])
    before = {path: path.read_bytes() for path in tmp_path.glob("*.yaml")}
    with pytest.raises(ModisteError, match=r"does not match in 'loss\.logit_bias'.*start with init=RUN"):
        train([f"continue={tmp_path}", "trainer.max_epochs=2", "loss=siglip"])
    with pytest.raises(ModisteError, match=r"is trained to the end, and optim\.lr=5 would change nothing in it"):
        train([f"continue={tmp_path}", "optim.lr=5"])
    assert {path: path.read_bytes() for path in tmp_path.glob("*.yaml")} == before
    assert train([f"continue={tmp_path}"]).path == tmp_path, "concluding it again is no change"


def test_a_run_with_max_steps_continues_at_the_end_of_an_epoch_and_skips_none(tmp_path):
    """Lightning takes the finished epoch for an interrupted one."""
    words = [*TINY, "data.limit=48", "data.num_workers=0", "trainer.max_epochs=2", "trainer.max_steps=5"]
    whole = train([*words, f"run_dir={tmp_path}/whole"]).path
    with pytest.raises(RuntimeError, match="killed"):
        train([*words, f"run_dir={tmp_path}/run"], callbacks=[Killed()])
    continued = train([f"continue={tmp_path}/run"]).path
    assert checkpoint(continued, "recent")["global_step"] == 5
    assert_same_state(checkpoint(whole, "recent"), checkpoint(continued, "recent"))


def test_the_callers_configuration_stays_as_it_is(tmp_path):
    """Training settles the run directory, continue=auto and the monitor's mode in a copy."""
    words = [*TINY, "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "continue=auto"]
    config = compose("train", [*words, f"run_dir={tmp_path}/run", "monitor.metric=val/retrieval/t2i/median_rank"])
    before = OmegaConf.to_container(config)
    assert train(config).path.is_dir()
    assert OmegaConf.to_container(config) == before


def test_a_run_directory_whose_name_tensorboard_would_expand_is_refused(tmp_path):
    pytest.importorskip("tensorboard")
    run = RunDir(tmp_path / "$TOKEN")
    config = compose("train", ["logger=tensorboard", f"run_dir={quote(str(run.path))}"])
    with pytest.raises(ModisteError, match=r"TensorBoard reads the \$ of .*: rename the folder"):
        build_loggers(config, run)
