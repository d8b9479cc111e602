"""Killed in mid-epoch and continued, a run ends with the weights of one that was never stopped, bit for bit."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from helpers.commands import TINY, modiste
from helpers.resumed import assert_same_end, checkpoint, stop_at_second_save
from modiste.utils.run_dir import RunDir

# All that could lose its place: dropout, augmentation, caption sampling, workers, momentum, a moving average.
NOISY = [
    *TINY,
    "callbacks=[default,ema]",
    "callbacks.recent.every_n_train_steps=3",
    "text.config.hidden_dropout_prob=0.2",
    "data.augment=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]",
    "data.captions.templates=['{text}','{colour} {category}']",
]
pytestmark = pytest.mark.slow


def train(cwd, run, *overrides, **options):
    return modiste("train", *NOISY, f"hydra.run.dir={run}", *overrides, cwd=cwd, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    finished = train(folder, "run")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"


def test_the_average_moves_and_is_what_is_validated(whole):
    (metrics,) = whole.glob("csv/version_*/metrics.csv")
    losses = [float(row["val/loss"]) for row in csv.DictReader(metrics.open()) if row["val/loss"]]
    assert len(set(losses)) == 3
    saved = checkpoint(whole)
    assert any(not torch.equal(saved["state_dict"][n], saved["current_model_state"][n]) for n in saved["state_dict"])


def test_sigkill_in_mid_epoch_then_continue_equals_the_uninterrupted_run(whole, tmp_path):
    process = train(tmp_path, "run", background=True)
    assert stop_at_second_save(tmp_path / "run", process, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = checkpoint(tmp_path / "run", "recent")
    batches = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["batch"]
    assert 0 < batches < checkpoint(whole)["global_step"] / 3, "the kill was not in mid-epoch"
    continued = modiste("train", f"continue={tmp_path / 'run'}", cwd=tmp_path)
    assert continued.returncode == 0, continued.stdout + continued.stderr
    assert_same_end(whole, tmp_path / "run")


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(whole, tmp_path):
    process = train(tmp_path, "run", background=True)
    assert stop_at_second_save(tmp_path / "run", process, signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130, printed
    assert f"modiste train continue={tmp_path / 'run'}" in printed
    assert "Traceback" not in printed
    resumed = modiste("train", f"resume={tmp_path / 'run'}", "hydra.run.dir=other", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_end(whole, tmp_path / "other")
    assert yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())["text"]["config"]["hidden_size"] == 32


def test_sigterm_to_the_whole_group_saves_the_step_and_says_how_to_go_on(tmp_path):
    """As `timeout` and job schedulers send it: to the data loader's workers, too."""
    command = [sys.executable, "-m", "modiste", "train", *NOISY, "trainer.max_epochs=200", "data.num_workers=2"]
    process = subprocess.Popen(
        [*command, "hydra.run.dir=run"], cwd=tmp_path, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not list((tmp_path / "run").glob("checkpoints/*.ckpt")) and time.monotonic() < end:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130, printed
    assert "modiste train continue=run" in printed or f"modiste train continue={tmp_path / 'run'}" in printed
    assert "Traceback" not in printed
    assert RunDir.find(tmp_path / "run").unfinished
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)
