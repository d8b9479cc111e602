"""A command in a process of its own imports nothing from the working directory, which may be a stranger's."""

import os
import subprocess
import sys

import pytest

from modiste.utils.own_process import own_command, own_environment


def test_a_module_of_the_working_directory_is_not_imported(tmp_path):
    for name in ("modiste", "yaml", "runpy", "json", "sys"):
        (tmp_path / f"{name}.py").write_text("open('PWNED', 'w')")
    command, environment = own_command("--version"), own_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "modiste" in done.stdout
    assert not (tmp_path / "PWNED").exists()


def test_wandbs_settings_of_the_working_directory_are_not_read(tmp_path):
    """They could name the host that gets the key."""
    pytest.importorskip("wandb")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\nentity = stranger\n")
    code = (
        "from modiste.training.loggers import set_up_wandb; set_up_wandb(offline=False); "
        "import wandb, os; s = wandb.setup().settings; print(s.base_url, s.entity, s.root_dir == os.getcwd())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1" not in done.stdout
    assert done.stdout.split()[1:] == ["None", "True"]


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_key_wandb_is_offline_from_its_set_up_on(offline, tmp_path):
    """What Lightning says of it in the environment later, wandb does not read again."""
    pytest.importorskip("wandb")
    code = (
        f"from modiste.training.loggers import set_up_wandb; set_up_wandb(offline={offline}); "
        "import wandb; print(wandb.setup().settings.mode)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.split()[-1:] == (["offline"] if offline else ["online"]), done.stderr
