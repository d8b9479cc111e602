"""The next command, as a command prints it, works when it is pasted: from a table, in folders with spaces."""

import csv
import re
import shlex

import pytest
from PIL import Image

from helpers.commands import TOWERS, modiste

pytestmark = pytest.mark.slow
SHOP = ["data=table", "data.catalogue.path=my shop.csv", "data.catalogue.images=my photos", "data.num_workers=0"]
TRAIN = ["data.batch_size=4", *TOWERS, "trainer.max_epochs=1"]
WITHOUT_TEST = "data.split.fractions={train: 0.6, val: 0.4, test: 0}"


@pytest.fixture
def shop(tmp_path):
    """A table without attributes."""
    (tmp_path / "my photos").mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32), (10 * number, 99, 9)).save(tmp_path / "my photos" / f"{number}.png")
    with (tmp_path / "my shop.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "text"), *((f"{n}.png", f"hat {n}") for n in range(24))])
    return tmp_path


def run(folder, *words):
    done = modiste(*words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def printed(output):
    """The words of the command at the end."""
    return shlex.split(re.findall(r": modiste (.*)", output)[-1])


def test_a_run_is_evaluated_on_what_it_has(shop):
    output = run(shop, "train", *SHOP, *TRAIN, WITHOUT_TEST, "run_dir=my run")
    command = printed(output)
    assert command[-1] == "split=val"
    assert "Skipped zeroshot: table has no attribute" in run(shop, *command)
    assert modiste(*command, "task=[zeroshot]", cwd=shop).returncode == 1  # asked for, it is a mistake


@pytest.mark.parametrize("kind", ["pixels", "webdataset"])
def test_prepared_images_are_trained_on(shop, kind):
    size = ["size=32", "crop_pct=0.95"] if kind == "pixels" else [f"format={kind}"]
    output = run(shop, "prepare", *SHOP, *size, "data.batch_size=4", WITHOUT_TEST, "out=my ready")
    run(shop, *printed(output), *TRAIN, "run_dir=run")
