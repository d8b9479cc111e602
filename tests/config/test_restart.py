"""A run that starts again begins with its own overrides, and has the settings that it was stopped with."""

import pytest
from omegaconf import OmegaConf, open_dict

from modiste.config import compose, quote
from modiste.config.restart import check_unchanged, restart
from modiste.errors import ModisteError

STARTED = ["image=small", "loss=siglip", "optim.lr=0.002"]


@pytest.fixture
def run(tmp_path):
    """The directory of a run that was started with `STARTED`; its place needs quotes."""
    folder = tmp_path / "a (run)"
    folder.mkdir()
    config = compose("train", STARTED)
    with open_dict(config):
        config.run_dir = str(folder)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    OmegaConf.save(OmegaConf.create(STARTED), folder / "overrides.yaml")
    return folder


def again(run, *more):
    """The configuration of ``continue=RUN``, and its overrides."""
    overrides = [f"continue={quote(str(run))}", *more]
    found = restart(overrides, {"loss", "image", "data"})
    assert found.run == run
    assert found.continues
    line = [*found.overrides, f"run_dir={quote(str(run))}", *overrides]
    return compose("train", line), line


def test_it_begins_with_its_own_overrides_and_the_new_ones_win(run):
    config, line = again(run, "optim.lr=0.01", "loss=clip")
    assert line[:1] == ["image=small"]
    assert config.optim.lr == 0.01
    assert "clip" in config.loss._target_.lower()
    assert config.run_dir == str(run)
    check_unchanged(config, line)  # what the user says may differ


def test_a_value_that_another_of_the_stored_overrides_replaced_may_come_back(run):
    earlier = ["optim.lr=0.01", "loss=clip", *STARTED, "loss.init_bias=-5"]
    OmegaConf.save(OmegaConf.create(earlier), run / "overrides.yaml")
    config, line = again(run, "optim.lr=0.01")
    assert config.optim.lr == 0.01
    check_unchanged(config, line)
    assert "loss.init_bias=-5" not in restart([f"resume={quote(str(run))}", "loss=clip"], {"loss"}).overrides


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.best.dirpath=/elsewhere", "callbacks.best.dirpath=here", "callbacks.best.filename=../../x",
        "callbacks.best={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: 'ftp://host/x'}",
        "+callbacks.x={filename: '~/x'}", "++logger.x.name=file::host", r"logger.x.name=\~/x",
        "logger.tensorboard.save_dir=.", "trainer.profiler={filename: x, dirpath: x}", "trainer.default_root_dir=x",
        "logger.wandb.entity=stranger", "sweep.space={callbacks.best.filename: {choices: [/x]}}",
        "callbacks.cost.run_dir=mine", "callbacks.recent.filename='{step:c}tmp/x'", "callbacks.recent.filename=x",
        "logger.tensorboard.name=${cost.currency}", "logger.tensorboard.sub_dir=x", "log_dir=/elsewhere",
        "name=../x", "name=a/b", "log_dir=/",
        "data.name='../x'",
    ],
)  # fmt: skip
def test_a_file_does_not_say_where_a_training_writes(run, override):
    """The run may be a stranger's; what is given on the command line takes its place."""
    OmegaConf.save(OmegaConf.create([*STARTED, override]), run / "overrides.yaml")
    for key in ("continue", "resume"):
        with pytest.raises(ModisteError, match="give it again on the command line"):
            restart([f"{key}={quote(str(run))}"], {"loss"})
        own = override.partition("=")[0]
        found = restart([f"{key}={quote(str(run))}", f"{own}=mine"], {"loss"})
        assert override not in found.overrides


def test_the_place_of_a_run_is_not_taken_over_and_its_folder_of_runs_is(run):
    kept = [f"log_dir={quote(str(run.parent))}", "callbacks.best.monitor=val/loss", "trainer.max_epochs=2", "name=a"]
    OmegaConf.save(OmegaConf.create([*kept, "run_dir=/elsewhere", "init=/other"]), run / "overrides.yaml")
    assert restart([f"resume={quote(str(run))}"], {"loss"}).overrides == kept


def test_an_unchanged_configuration_passes(run):
    check_unchanged(*again(run))


@pytest.mark.parametrize("key", ["optim.weight_decay", "data.batch_size", "loss.tile"])
def test_a_default_that_was_edited_meanwhile_is_named_with_both_values(run, key):
    config, line = again(run)
    before = OmegaConf.select(config, key)
    OmegaConf.update(config, key, 3 * before)
    with pytest.raises(ModisteError, match=rf"started with {key}={before}, .* sets to {3 * before}: give {key}="):
        check_unchanged(config, line)
    check_unchanged(config, [*line, f"{key}={3 * before}"])


def test_a_new_recipe_and_new_or_removed_keys_may_change_what_they_like(run):
    config, line = again(run)
    with open_dict(config):
        config.optim.something_new = 1
        del config.optim["warmup"]
    check_unchanged(config, line)
    config.seed += 1
    check_unchanged(config, [*line, "experiment=demo"])
    with pytest.raises(ModisteError, match="seed="):
        check_unchanged(config, line)


def test_a_group_that_is_chosen_again_keeps_its_keys_and_another_takes_them_with_it(run):
    OmegaConf.save(OmegaConf.create([*STARTED, "loss.init_bias=-5"]), run / "overrides.yaml")
    resume = f"resume={quote(str(run))}"
    assert "loss.init_bias=-5" in restart([resume, "loss=siglip"], {"loss", "image"}).overrides
    assert "loss.init_bias=-5" not in restart([resume, "loss=clip"], {"loss", "image"}).overrides


def test_what_names_no_run_is_none(run):
    assert restart(["continue=auto", "loss=clip"], {"loss"}) is None
    assert restart(["init=elsewhere", "resume=null"], {"loss"}) is None
