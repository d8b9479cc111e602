"""conf/loss/*.yaml build the losses with the options they name."""

import inspect

import pytest
import torch
from hydra.utils import get_class

from modiste.config import compose, config_dir, instantiate

FILES = sorted((config_dir() / "loss").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_builds_a_loss_that_runs(file):
    config = compose("train", [f"loss={file.stem}"]).loss
    options = set(config) - {"_target_"}
    assert options <= set(inspect.signature(get_class(config._target_)).parameters)
    loss = instantiate(config)
    loss.initialise(scale=None, bias=None, global_batch=4)
    image = torch.eye(4, 256, requires_grad=True)
    loss(image, torch.eye(4, 256), torch.arange(4)).backward()
    loss.clamp()
    assert image.grad.abs().sum() > 0
    assert loss.scale.item() >= 1
