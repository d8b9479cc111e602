"""Which validation each criterion would choose is written."""

import json

from helpers.tiny_training import Line, train
from modiste.training.callbacks import Selection


def test_the_chosen_validation_is_the_lowest_loss_and_survives_a_restart(tmp_path):
    first = Selection(str(tmp_path), "val/loss", "min")
    train(Line(), tmp_path, first, epochs=2)
    again = Selection(str(tmp_path), "val/loss", "min")
    again.load_state_dict(first.state_dict())
    assert again.validations == first.validations
    train(Line([0.5]), tmp_path, again, epochs=1)
    assert [validation.values["val/loss"] for validation in again.validations] == [3.0, 1.0, 0.5]
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text())
