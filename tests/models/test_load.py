"""Weights and configurations of checkpoints, which may be somebody else's."""

from pathlib import Path

import pytest
import torch

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.models.load import load_folded, load_weights, save_weights, starting_point


def test_the_configuration_in_a_checkpoint_with_adapters_is_data(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    config = {
        "tune": {"image": {"train": "lora"}},
        "model": {"_target_": "modiste.pretrained.exported.load_exported", "source": "./x-${oc.env:SECRET_TOKEN}"},
    }
    torch.save({"state_dict": {}, "hyper_parameters": {"config": config}}, tmp_path / "a.ckpt")
    with pytest.raises(ModisteError, match=r"'model\.source' calls a resolver") as refused:
        load_folded(two_tower(), tmp_path / "a.ckpt")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["loss.logit_scale", "loss.logit_bias"])
@pytest.mark.parametrize("value", [torch.zeros(1).expand(2**33), torch.zeros(3), "x"], ids=["stride", "three", "word"])
def test_the_temperature_of_a_checkpoint_is_one_number(name, value, tmp_path):
    torch.save({"state_dict": {name: value}}, tmp_path / "a.ckpt")
    with pytest.raises(ModisteError, match=r"is refused|is not one number: use a checkpoint written by modiste train"):
        load_weights(two_tower(), tmp_path / "a.ckpt")


STRIDES = {"optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(1).expand(2**33)}}}]}


@pytest.mark.parametrize("word", ["continue", "resume"])
@pytest.mark.parametrize("content", [STRIDES, Path], ids=["strides", "pickle"])
def test_a_checkpoint_is_checked_before_training_resumes(content, word, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").touch()
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ModisteError, match="is refused: it is damaged or holds more than weights"):
        starting_point({"continue": None, "resume": None, "init": None} | {word: str(tmp_path)})


@pytest.mark.parametrize(("scale", "bias"), [(None, None), (12.25, None), (110.0, -10.0)])
def test_saved_weights_come_back_with_temperature_and_bias(tmp_path, scale, bias):
    model, other = two_tower(), two_tower()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
    model.initial_scale, model.initial_bias = scale, bias
    save_weights(model, tmp_path / "weights.ckpt")
    load_weights(other, tmp_path / "weights.ckpt")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (other.initial_scale, other.initial_bias) == (pytest.approx(scale), bias)
