"""conf/loss/*.yaml build the losses with the options they name, and each is exact on several processes."""

import inspect

import pytest
import torch
import yaml
from hydra.utils import get_class
from omegaconf import OmegaConf

from modiste.config import compose, config_dir
from modiste.config.schema import value_problems
from modiste.losses.base import Origin
from modiste.losses.build import build_loss
from modiste.losses.testing import compare_processes

NAMES = sorted(file.stem for file in (config_dir() / "loss").glob("*.yaml"))
STRANGER = """
from modiste.losses import ContrastiveLoss, gather_pairs


def triplet(image, text, product_id):
    scores = image @ text.T
    negative = scores.masked_fill(product_id[:, None] == product_id, -1.0).amax(1)
    return (0.5 + negative - scores.diagonal()).clamp_min(0).mean()


class TripletLoss(ContrastiveLoss):
    def forward(self, image, text, product_id=None):
        return triplet(*gather_pairs(image, text, product_id))


class ForgetfulLoss(ContrastiveLoss):
    def forward(self, image, text, product_id=None):
        return triplet(image, text, product_id)


class LocalLoss(ForgetfulLoss):
    local_negatives = True
"""


def small_tiles(node):
    """The node with tiles that divide neither a process's rows nor all columns."""
    return {
        key: small_tiles(value) if isinstance(value, dict) else 4 if key == "tile" else value
        for key, value in node.items()
    }


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """Of every loss of conf/loss, and of a stranger's own, on two processes."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "strangers_losses.py").write_text(STRANGER)
    nodes = {name: OmegaConf.to_container(compose("train", [f"loss={name}"]).loss, resolve=True) for name in NAMES}
    nodes = {name: small_tiles(node) for name, node in nodes.items()}
    nodes |= {name: {"_target_": f"strangers_losses.{name}"} for name in ("TripletLoss", "ForgetfulLoss", "LocalLoss")}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("MODISTE_ALLOW", "strangers_losses")
        return compare_processes(nodes)


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_a_loss_that_runs(name):
    config = compose("train", [f"loss={name}"]).loss
    options = set(config) - {"_target_"}
    assert options <= set(inspect.signature(get_class(config._target_)).parameters)
    loss = build_loss(config, Origin(global_batch=4))
    image = torch.eye(4, 256, requires_grad=True)
    loss(image, torch.eye(4, 256)[[1, 2, 3, 0]], torch.arange(4)).backward()
    loss.clamp()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("group", ["loss", "term"])
def test_no_number_of_a_loss_or_a_term_may_be_negative(group):
    """None of them has a meaning below zero; their ranges are the annotations of the classes."""
    for file in (config_dir() / group).glob("*.yaml"):
        config = yaml.safe_load(file.read_text())
        node = config if group == "loss" else config[file.stem]
        numbers = [key for key, value in node.items() if isinstance(value, int | float)]
        assert numbers or "dims" in node, file
        for key in numbers:
            assert value_problems(OmegaConf.create({group: {**node, key: -1}})), f"{file}: {key}=-1"


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one_with_the_whole_batch(differences, name):
    assert differences[name] == ""


def test_a_loss_of_one_s_own_is_exact_if_it_gathers_and_found_out_if_not(differences):
    assert differences["TripletLoss"] == ""
    assert "differs by" in differences["ForgetfulLoss"]
    assert differences["LocalLoss"] == "", "it says so itself"
