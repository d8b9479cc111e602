"""What is wrong with a monitor is said before training, and the direction of a task's error is known."""

import pytest
from omegaconf import OmegaConf

from helpers.task_fakes import Gap
from helpers.tiny_models import two_tower
from modiste.data.module import FashionDataModule, ValidationSet
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.tasks.retrieval import Retrieval
from modiste.training.monitor import settle_monitor


class NeedsModel:
    """A task that looks into the model, which is not there before training."""

    def __call__(self, embedder, catalogue, split):
        return embedder.model.patches()


@pytest.fixture(scope="module")
def sets():
    catalogue = RandomSplit({"train": 0.4, "val": 0.3, "test": 0.3})(Synthetic(products=40, views=1, size=32)())
    data = FashionDataModule(catalogue, two_tower(), batch_size=8, num_workers=0)
    tasks = {"gap": Gap(), "retrieval": Retrieval(), "inside": NeedsModel()}
    return {"val": ValidationSet(data, "val", tasks), "val/other": ValidationSet(data, "test", tasks)}


def settled(sets, metric, mode="${direction}"):
    config = OmegaConf.create({"direction": "max", "monitor": {"metric": metric, "mode": mode}})
    settle_monitor(config, sets)
    return config.monitor.mode


@pytest.mark.parametrize("set_", ["val", "val/other"])
def test_the_direction_is_the_tasks_own(sets, set_):
    assert settled(sets, f"{set_}/gap/gap") == "min"
    assert settled(sets, f"{set_}/gap/gap", None) == "min"
    assert settled(sets, f"{set_}/gap/gap", "min") == "min"
    assert settled(sets, f"{set_}/retrieval/t2i/mrr") == "max"
    assert settled(sets, f"{set_}/retrieval/t2i/median_rank") == "min"


def test_the_wrong_mode_and_an_unknown_metric_are_one_sentence(sets):
    with pytest.raises(ModisteError, match=r"keep the worst val/gap/gap: set monitor.mode=min"):
        settled(sets, "val/gap/gap", "max")
    with pytest.raises(ModisteError, match=r"which retrieval does not measure. Did you mean 'val/retrieval/t2i/mrr'"):
        settled(sets, "val/retrieval/t2i/mmr")


def test_losses_and_tasks_that_need_the_model_are_left_to_the_first_validation(sets):
    assert settled(sets, "val/loss", "min") == "min"
    assert settled(sets, "val/inside/accuracy") == "max"
