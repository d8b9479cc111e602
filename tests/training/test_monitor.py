"""What is wrong with a monitor is said before training, and the direction of a task's error is known."""

import pytest
from omegaconf import OmegaConf

from helpers.commands import TINY
from helpers.task_fakes import Gap
from helpers.tiny_models import two_tower
from modiste.config import compose, config_dir
from modiste.data.module import FashionDataModule, ValidationSet
from modiste.data.splits import RandomSplit
from modiste.data.synthetic import Synthetic
from modiste.errors import ModisteError
from modiste.tasks.retrieval import Retrieval
from modiste.training.fit import train
from modiste.training.monitor import settle_monitor

RECIPES = sorted(file.stem for file in (config_dir() / "experiment").glob("*.yaml"))


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


def settled(sets, metric, mode="${direction}", mean=()):
    monitor = {"metric": metric, "mode": mode, "mean": list(mean)}
    config = OmegaConf.create({"direction": "max", "monitor": monitor})
    settle_monitor(config, sets)
    return config.monitor.mode


@pytest.mark.parametrize("set_", ["val", "val/other"])
def test_the_direction_is_the_tasks_own(sets, set_):
    assert settled(sets, f"{set_}/gap/gap") == "min"
    assert settled(sets, f"{set_}/gap/gap", None) == "min"
    assert settled(sets, f"{set_}/gap/gap", "min") == "min"
    assert settled(sets, f"{set_}/retrieval/t2i/mrr") == "max"
    assert settled(sets, f"{set_}/retrieval/t2i/median_rank") == "min"
    assert settled(sets, f"{set_}/loss") == "min"


def test_the_wrong_mode_and_an_unknown_metric_are_one_sentence(sets):
    with pytest.raises(ModisteError, match=r"keep the worst val/gap/gap: set monitor\.mode=min"):
        settled(sets, "val/gap/gap", "max")
    for loss in ("val/loss", "val/other/loss"):
        with pytest.raises(ModisteError, match=f"keep the worst {loss}: set monitor.mode=min"):
            settled(sets, loss, "max")
    with pytest.raises(ModisteError, match=r"which retrieval does not measure. Did you mean 'val/retrieval/t2i/mrr'"):
        settled(sets, "val/retrieval/t2i/mmr")


def test_tasks_that_need_the_model_are_checked_in_the_first_validation(sets):
    assert settled(sets, "val/inside/accuracy") == "max"
    assert settled(sets, "val/inside/accuracy", "min") == "min"
    assert settled(sets, "val/inside/accuracy", None) == "max", "callbacks need a mode"


def test_a_mean_has_the_direction_of_its_metrics(sets):
    assert settled(sets, "val/mean", mean=["val/gap/gap", "val/other/loss"]) == "min"
    assert settled(sets, "val/mean", mean=["val/retrieval/t2i/mrr", "val/inside/accuracy"]) == "max"
    with pytest.raises(ModisteError, match=r"keep the worst val/mean: set monitor\.mode=max"):
        settled(sets, "val/mean", "min", ["val/retrieval/t2i/mrr", "val/other/retrieval/t2i/mrr"])
    with pytest.raises(ModisteError, match=r"monitor\.mean mixes metrics where higher is better with val/gap/gap"):
        settled(sets, "val/mean", mean=["val/retrieval/t2i/mrr", "val/gap/gap"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_monitor_of_every_recipe_can_be_changed_without_its_mode(recipe, sets):
    assert "mode:" not in (config_dir() / "experiment" / f"{recipe}.yaml").read_text()
    for name, mode in (("loss", "min"), ("retrieval/t2i/mrr", "max"), ("retrieval/t2i/median_rank", "min")):
        config = compose("train", [f"experiment={recipe}", f"monitor.metric=val/{name}"])
        settle_monitor(config, sets)
        assert (config.monitor.mode, config.callbacks.epochs.mode) == (mode, mode)


@pytest.mark.parametrize("more", [[], ["~callbacks.selection"]])
def test_a_wrong_mode_is_refused_before_the_first_step(tmp_path, more):
    words = [*TINY, "data.num_workers=0", "monitor.mode=max", *more, f"run_dir={tmp_path}/run"]
    with pytest.raises(ModisteError, match=r"keep the worst val/loss: set monitor\.mode=min"):
        train(words)
    assert not (tmp_path / "run").exists()
