"""One line per epoch, and which epoch was best."""

from types import SimpleNamespace

from modiste.training.callbacks import EpochLines


def trainer(epoch, fast_dev_run=False, **metrics):
    named = {name.replace("_", "/"): value for name, value in metrics.items()}
    return SimpleNamespace(
        current_epoch=epoch, max_epochs=3, callback_metrics=named, sanity_checking=False, is_global_zero=True,
        fast_dev_run=fast_dev_run, callbacks=[], world_size=1,
    )  # fmt: skip


def test_each_epoch_prints_a_line_and_the_end_says_which_was_kept(tmp_path, capsys):
    lines = EpochLines(str(tmp_path), "val/loss", "min")
    for epoch, loss in enumerate((2.0, 1.0, 1.5)):
        lines.on_train_epoch_start(trainer(epoch), None)
        lines.on_validation_end(trainer(epoch, train_loss=3.0, val_loss=loss), None)
    lines.on_train_end(trainer(3), None)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed[:3]] == ["1/3", "2/3", "3/3"]
    assert [line.endswith("best") for line in printed[:3]] == [True, True, False]
    assert printed[3] == "Trained to the end; epoch 2 is best by val/loss (min): 1.0000."
    assert (tmp_path / "train.log").read_text().count("\n") == 4


def test_a_trial_of_one_step_says_its_losses_and_writes_nothing(tmp_path, capsys):
    lines = EpochLines(str(tmp_path / "run"), "val/loss", "min")
    lines.on_train_epoch_start(trainer(0, fast_dev_run=True), None)
    lines.on_validation_end(trainer(0, fast_dev_run=True, train_loss=3.0, val_loss=2.5), None)
    lines.on_train_end(trainer(1, fast_dev_run=True), None)
    epoch, end = capsys.readouterr().out.splitlines()
    assert "train/loss 3.0000  val/loss 2.5000" in epoch
    assert end == "A training and a validation step ran; no weights were saved."
    assert not (tmp_path / "run").exists()


def test_what_was_best_survives_a_continuation(tmp_path):
    lines = EpochLines(str(tmp_path), "val/loss", "min")
    lines.on_validation_end(trainer(0, val_loss=1.0), None)
    again = EpochLines(str(tmp_path), "val/loss", "min")
    again.load_state_dict(lines.state_dict())
    assert again.best == (0, 1.0)
