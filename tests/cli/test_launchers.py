"""Multiruns on Slurm, on Ray and as processes of this machine: the launchers' configs, and one that really runs."""

import importlib.util
import os
import signal
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from helpers.commands import TINY, modiste
from helpers.resumed import assert_same_end
from modiste.cli import main
from modiste.config import LAUNCHERS, VERSION_BASE, config_dir, validate
from modiste.config import compose as compose_job
from modiste.config.messages import explain_missing_config

PLUGINS = {
    "slurm": ("hydra_plugins.hydra_submitit_launcher", "SlurmLauncher"),
    "slurm_nodes": ("hydra_plugins.hydra_submitit_launcher", "SlurmLauncher"),
    "local": ("hydra_plugins.hydra_submitit_launcher", "LocalLauncher"),
    "ray_cluster": ("hydra_plugins.hydra_ray_launcher", "RayLauncher"),
}


def installed(launcher):
    try:
        return importlib.util.find_spec(PLUGINS[launcher][0]) is not None
    except ModuleNotFoundError:  # no hydra_plugins at all
        return False


def refused(launcher, capsys):
    """Without its plugin, a launcher is one sentence with what to install; Ray's is in no extra of the tests."""
    assert launcher == "ray_cluster", "the extra dev brings the plugin of this one"
    assert main(["train", "-m", f"hydra/launcher={launcher}", "seed=1"]) == 2
    assert f"pip install {LAUNCHERS['ray']}" in capsys.readouterr().err


@pytest.mark.parametrize("launcher", sorted(file.stem for file in (config_dir() / "hydra" / "launcher").glob("*.yaml")))
def test_every_launcher_composes_with_its_plugins_settings_and_is_built(launcher, capsys):
    """A key that the plugin does not have is refused by its schema."""
    if not installed(launcher):
        return refused(launcher, capsys)
    name = PLUGINS[launcher][1]
    own = [] if launcher == "ray_cluster" else ["hydra.launcher.nodes=2", "hydra.launcher.cpus_per_task=4"]
    own += ["trainer.devices=4"] if launcher == "slurm_nodes" else []
    with initialize_config_dir(config_dir=str(config_dir()), **VERSION_BASE):
        config = compose("train", [f"hydra/launcher={launcher}", "seed=1", *own], return_hydra_config=True)
    node = config.hydra.launcher
    assert node._target_.endswith(name)
    if own:
        assert (node.nodes, node.cpus_per_task, node.timeout_min) == (2, 4, 1440)
    OmegaConf.set_readonly(config.hydra, False)
    config.hydra.sweep.dir, config.hydra.job.name = "sweep", "train"
    built = Plugins.instance()._instantiate(node)
    assert isinstance(built, Launcher)
    assert type(built).__name__ == name


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_over_several_nodes_asks_slurm_for_a_task_per_gpu(strategy):
    given = ["hydra/launcher=slurm_nodes", f"trainer={strategy}", "trainer.num_nodes=2", "trainer.devices=4"]
    given += ["continue=auto", "data.batch_size=8192"]
    with initialize_config_dir(config_dir=str(config_dir()), **VERSION_BASE):
        config = compose("train", [*given, "run_dir=run"], return_hydra_config=True)
    node = config.hydra.launcher
    assert (node.nodes, node.tasks_per_node, node.gpus_per_node) == (2, 4, 4)
    assert node.max_num_timeout > 0
    assert (config.trainer.num_nodes, config.trainer.devices, config["continue"]) == (2, 4, "auto")
    validate(compose_job("train", given[1:]))


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_as_one_that_was_not(tmp_path):
    """submitit's own requeueing, by its launcher for this machine; of Slurm only the queue is another."""
    if not installed("local"):
        pytest.skip("submitit's launcher is not installed: pip install 'modiste[slurm]'")
    given = ["-m", *TINY, "hydra/launcher=local", "continue=auto", "callbacks.recent.every_n_train_steps=3"]
    path = os.pathsep.join(sys.path)
    job = modiste("train", *given, "hydra.sweep.dir=grid", cwd=tmp_path, background=True, PYTHONPATH=path)
    run = tmp_path / "grid" / "0"
    assert preempt(run, job), job.communicate()[0]
    assert job.wait(timeout=200) == 0, job.communicate()[0]
    logs = "".join(file.read_text() for file in (tmp_path / "grid" / ".submitit").glob("*/*_log.*"))
    assert "this job is preempted" in logs
    whole = modiste("train", *TINY, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert_same_end(tmp_path / "whole", run)


def preempt(run, job):
    """Sends SIGUSR2 to the job's process when the run has saved a step; False when it ended before."""
    while job.poll() is None:
        if (run / "checkpoints" / "recent.ckpt").exists():
            (number,) = (int(pid) for pid in children_of_controller(job.pid))
            os.kill(number, signal.SIGUSR2)
            return True
        time.sleep(0.01)
    return False


def children_of_controller(pid):
    """submitit starts a controller, and that the job."""
    for controller in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from Path(f"/proc/{controller}/task/{controller}/children").read_text().split()


def test_continue_auto_is_the_directory_itself_once_it_has_a_checkpoint(tmp_path):
    from modiste.training.fit import settle_continue

    def settled():
        config = OmegaConf.create({"init": "other", "resume": None, "continue": "auto", "run_dir": str(tmp_path)})
        settle_continue(config)
        return config["continue"], config.init

    assert settled() == (None, "other")
    (tmp_path / "checkpoints").mkdir()
    with zipfile.ZipFile(tmp_path / "checkpoints" / "recent.ckpt", "w") as file:
        file.writestr("data", "x")
    assert settled() == (str(tmp_path), None)


@pytest.mark.parametrize("plugin", LAUNCHERS)
def test_a_plugin_that_is_not_installed_is_one_sentence(plugin):
    missing = SimpleNamespace(missing_cfg_file=f"hydra/launcher/{plugin}", options=[])
    text = explain_missing_config(missing, "train", ["hydra/launcher=slurm"], [config_dir()])
    assert text == f"The launcher {plugin} is not installed: pip install {LAUNCHERS[plugin]}."


def test_help_and_completion_do_not_look_for_plugins(capsys):
    assert main(["train", "--help"]) == 0
    assert "submitit" not in capsys.readouterr().out
    assert "submitit" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "ray_cluster"])
def test_a_multirun_really_runs(launcher, tmp_path, capsys):
    """Pickled, and unpickled in another process; of submitit, the way that Slurm's jobs go, too."""
    if not installed(launcher):
        return refused(launcher, capsys)
    own = ["hydra.launcher.ray.remote.num_cpus=1"] if launcher == "ray_cluster" else []
    done = modiste(
        "train", "-m", *TINY, *own, "debug=step", f"hydra/launcher={launcher}", "loss=clip,siglip",
        "hydra.sweep.dir=grid", cwd=tmp_path, fork=False, PYTHONPATH=os.pathsep.join(sys.path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for job, loss in enumerate(("clip", "siglip")):
        config = OmegaConf.load(tmp_path / "grid" / str(job) / ".hydra" / "config.yaml")
        assert config.loss._target_.startswith(f"modiste.losses.{loss}.")
    if launcher == "local":
        assert len(list((tmp_path / "grid" / ".submitit").glob("*/*_result.pkl"))) == 2
        logs = "".join(file.read_text() for file in (tmp_path / "grid" / ".submitit").glob("*/*_log.*"))
        assert logs.count("Job completed successfully") >= 2
        assert logs.count("val/loss") >= 2
