"""conf/loss/*.yaml build the losses with the options they name."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

FILES = sorted((Path(__file__).parents[2] / "conf" / "loss").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_builds_a_loss_that_runs(file):
    config = OmegaConf.load(file)
    options = set(config) - {"_target_"}
    assert options <= set(inspect.signature(get_class(config._target_)).parameters)
    loss = instantiate(config)
    loss.initialise(scale=None, bias=None, global_batch=4)
    image = torch.eye(4, requires_grad=True)
    loss(image, torch.eye(4), torch.arange(4)).backward()
    loss.clamp()
    assert image.grad.abs().sum() > 0
    assert loss.scale.item() >= 1
