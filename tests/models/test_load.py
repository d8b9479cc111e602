"""Weights and configurations of checkpoints, which may be somebody else's."""

import pytest
import torch

from helpers.tiny_models import two_tower
from modiste.errors import ModisteError
from modiste.models.load import load_folded


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
