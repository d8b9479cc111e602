"""The parts that CONTRIBUTING.md adds, as a stranger would add them: its blocks are written and its command is run."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

import modiste
from helpers.commands import TINY
from helpers.commands import modiste as command

TEXT = Path(modiste.__file__).parents[2] / "CONTRIBUTING.md"
SMALL = [word for word in TINY if not word.startswith("data=") and ".catalogue." not in word]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the documented command, with small towers, in a folder that holds nothing but the documented files."""
    folder = tmp_path_factory.mktemp("stranger")
    blocks = re.findall(r"```(python|yaml|sh)\n(.*?)```", TEXT.read_text(encoding="utf-8"), re.DOTALL)
    for kind, block in blocks:
        if kind != "sh":
            path = folder / block.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
    assert len(list(folder.rglob("*.*"))) == 6, "two files for each of the three parts"
    (documented,) = (block for kind, block in blocks if kind == "sh")
    words = shlex.split(documented)[1:]
    environment = {"MODISTE_ALLOW": "mine", "PYTHONPATH": f"{folder}:{Path(modiste.__file__).parents[1]}"}
    finished = command(*words, *SMALL, "trainer.max_epochs=1", "run_dir=run", cwd=folder, fork=False, **environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run", finished


def test_the_documented_parts_train_and_validate_without_an_edit(trained):
    run, finished = trained
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["loss"]["_target_"] == "mine.triplet.TripletLoss"
    assert config["data"]["catalogue"]["_target_"] == "mine.swatches.Swatches"
    assert "val/loss" in finished.stdout


def test_an_error_metric_is_followed_downwards(trained):
    run, _ = trained
    text = (run / "selection.json").read_text()
    assert '"val/modality_gap/gap": "min"' in text
