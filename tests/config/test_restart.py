"""A run that starts again begins with its own overrides, and has the settings that it was stopped with."""

import functools
import re

import pytest
from omegaconf import OmegaConf, open_dict

from modiste.config import compose, quote
from modiste.config.restart import check_in_place, check_unchanged, restart
from modiste.errors import ModisteError

STARTED = ["image=small", "loss=siglip", "optim.lr=0.002"]


@functools.cache
def started():
    return compose("train", STARTED)


@pytest.fixture
def run(tmp_path):
    """The directory of a run that was started with `STARTED`; its place needs quotes."""
    folder = tmp_path / "a (run)"
    folder.mkdir()
    config = started().copy()
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


def restarted(run, *own, key="resume", root="train"):
    """The configuration of a restart, checked as the command line does."""
    overrides = [f"{key}={quote(str(run))}", *own]
    found = restart(overrides, {"loss", "image", "data", "logger", "callbacks"})
    place = [f"run_dir={quote(str(run))}"] if found.continues else []
    line = [*found.overrides, *place, *overrides]
    config = compose(root, line)
    check_in_place(config, line, lambda words: compose(root, words))
    return config


ELSEWHERE = (
    "callbacks.best.dirpath=/elsewhere",
    "callbacks.best.dirpath=here",
    "callbacks.best.dirpath=/run/a",
    "callbacks.best.filename=../../x",
    "+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: 'ftp://host/x'}",
    "+callbacks.x={filename: '~/x'}",
    "++logger.x.name=file::host",
    "++logger.x.name='~/x'",
    "++logger.x.save_dir=.",
    "++logger.x.version=$TOKEN",
    "++logger.x.version='.$EMPTY./.$EMPTY./x'",
    "trainer.profiler={filename: x, dirpath: x}",
    "++trainer.default_root_dir=x",
    "++logger.wandb={entity: stranger}",
    "callbacks.cost.run_dir=mine",
    "callbacks.recent.filename='{step:c}tmp/x'",
    "callbacks.recent.filename=x",
    "++logger.x={save_dir: '${run_dir}/..'}",
    "++logger.x={name: a, sub_dir: '${cost.currency}'}",
    "log_dir=/elsewhere",
    "log_dir=/",
    "name=../x",
    "name=/x",
    "data.name='../x'",
    "tags=['../../victim'] name='${tags.0}'",
    "data={name: '../../victim'}",
    "tags=['../../victim'] data.name='${tags.0}'",
    "+loss.x='../x' name='${loss.x}'",
)


@pytest.mark.parametrize("line", ELSEWHERE)
def test_a_file_does_not_say_where_a_training_writes(run, line):
    """The run may be a stranger's."""
    override = re.split(r" (?=(?:name|data\.name)=)", line)
    OmegaConf.save(OmegaConf.create([*STARTED, *override]), run / "overrides.yaml")
    with pytest.raises(ModisteError, match="a file may not say where a training run writes"):
        restarted(run, key="continue" if "dirpath" in line else "resume")


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("callbacks.best.dirpath=/elsewhere", "callbacks.best.dirpath=/mine"),
        ("+callbacks.x={filename: '~/x'}", "~callbacks.x"),
        ("++logger.x.version=$TOKEN", "++logger.x.version=x"),
        ("++logger.wandb={entity: stranger}", "++logger.wandb={entity: me}"),
        ("log_dir=/elsewhere", "log_dir=mine"),
        ("data={name: '../../victim'}", "name=x"),
    ],
)
def test_what_the_command_line_says_takes_the_place_of_what_a_file_may_not(run, line, own):
    OmegaConf.save(OmegaConf.create([*STARTED, line]), run / "overrides.yaml")
    restarted(run, own)


def test_continue_auto_beside_resume_does_not_spare_the_check(run):
    OmegaConf.save(OmegaConf.create([*STARTED, "callbacks.best.dirpath=/x"]), run / "overrides.yaml")
    with pytest.raises(ModisteError, match="a file may not say where a training run writes"):
        restarted(run, "continue=auto")


@pytest.mark.parametrize(
    "line", ["trainer.profiler=${tags[0]}", r"callbacks.best.dirpath=$\{name\}", "name=${tags[0]}"]
)
def test_what_a_stored_sweep_tries_does_not_say_where_its_trials_write(run, line):
    OmegaConf.save(OmegaConf.create([*STARTED, "tags=[a]", line]), run / "overrides.yaml")
    with pytest.raises(ModisteError, match="a file may not say where a"):
        restarted(run, key="continue", root="sweep")


def test_a_stored_sweep_does_not_say_where_its_trials_write(run):
    space = "sweep.space={callbacks.best.filename: {choices: [/x]}}"
    OmegaConf.save(OmegaConf.create([*STARTED, space]), run / "overrides.yaml")
    with pytest.raises(ModisteError, match="a file may not say where a training run writes"):
        restarted(run, key="continue", root="sweep")


def test_values_of_a_file_do_not_make_a_resolvers_call_together(run):
    """Resolved once it would be one, and a reader that resolves it again would call it."""
    parts = ["data.classes.q.a='$'", "data.classes.q.b='{oc.env:SECRET}'"]
    whole = "transfer={mine: '${data.classes.q.a}${data.classes.q.b}'}"
    OmegaConf.save(OmegaConf.create([f"++{part}" for part in parts] + [whole]), run / "overrides.yaml")
    with pytest.raises(ModisteError, match="a file may not call a resolver"):
        restarted(run)


def test_the_folder_of_runs_and_what_leads_nowhere_are_taken_over(run):
    kept = [
        f"log_dir={quote(str(run.parents[1]))}", f"name={quote(run.parent.name)}", "callbacks.best.monitor=val/loss",
        "trainer.max_epochs=2", "logger=tensorboard", "logger.tensorboard.version=second", "++logger.x.name=a/b",
    ]  # fmt: skip
    OmegaConf.save(OmegaConf.create([*kept, "run_dir=/elsewhere", "init=/other"]), run / "overrides.yaml")
    config = restarted(run)
    assert (config.log_dir, config.name) == (str(run.parents[1]), run.parent.name)
    assert config.logger.tensorboard.version == "second"


def test_a_plain_name_in_the_usual_folder_is_taken_over(run):
    OmegaConf.save(OmegaConf.create(["name=study/a"]), run / "overrides.yaml")
    assert restarted(run).name == "study/a"


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
