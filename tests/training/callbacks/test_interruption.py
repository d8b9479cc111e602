"""A request to stop ends training after its step, with the state saved; a second one at once."""

import os
import signal
import time

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from helpers.tiny_training import Line, train
from modiste.training.callbacks import Interrupted, Interruptible


class Signals(Callback):
    """Sends this process signals while a batch is on its way."""

    def __init__(self, *numbers, at=4):
        self.numbers, self.at = numbers, at

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_step_is_finished_and_saved(tmp_path, number):
    before = signal.getsignal(number)
    whole = Line()
    train(whole, tmp_path)
    with pytest.raises(Interrupted, match="step 5"):
        train(Line(), tmp_path, Signals(number), Interruptible(str(tmp_path)))
    saved = torch.load(tmp_path / "checkpoints" / "recent.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    assert torch.equal(saved["state_dict"]["model.weight"], whole.seen[4])
    assert signal.getsignal(number) == before


def test_a_step_of_several_batches_is_finished_first(tmp_path):
    with pytest.raises(Interrupted, match="step 2"):
        train(Line(), tmp_path, Signals(signal.SIGINT, at=1), Interruptible(str(tmp_path)), accumulate_grad_batches=2)


def test_a_validation_that_is_due_comes_first(tmp_path):
    module = Line()
    with pytest.raises(Interrupted, match="step 3"):
        train(module, tmp_path, Signals(signal.SIGINT, at=2), Interruptible(str(tmp_path)))
    assert float(module.trainer.callback_metrics["val/loss"]) == 3.0


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(Line(), tmp_path, Signals(signal.SIGINT, signal.SIGINT), Interruptible(str(tmp_path)))
    assert not (tmp_path / "checkpoints" / "recent.ckpt").exists()


class LoseWorker(Callback):
    """Asks for a stop and loses a worker of a data loader while a batch is on its way."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4:
            loader = iter(DataLoader(range(8), num_workers=1))
            next(loader)
            os.kill(os.getpid(), signal.SIGTERM)
            loader._workers[0].kill()
            loader._workers[0].join()
            time.sleep(0.2)  # here torch's handler of SIGCHLD would raise


def test_a_worker_killed_along_with_the_request_does_not_end_the_step(tmp_path):
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(Interrupted, match="step 5"):
            train(Line(), tmp_path, LoseWorker(), Interruptible(str(tmp_path)))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (tmp_path / "checkpoints" / "recent.ckpt").exists()
