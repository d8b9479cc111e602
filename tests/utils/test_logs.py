"""Messages go to stderr in one form, and to the log of the run directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

CONF = Path(__file__).parents[2] / "conf"


def test_every_command_says_where_its_messages_go():
    """Without a setting of its own a command would print them on stdout, in Hydra's form."""
    roots = list(CONF.glob("[!_]*.yaml"))
    assert len(roots) > 10
    for path in roots:
        defaults = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        chosen = [entry.get("override hydra/job_logging") for entry in defaults if isinstance(entry, dict)]
        assert "train" in defaults or {"console", "run"} & set(chosen), path.name


def test_messages_of_a_catalogue_are_on_stderr_and_in_the_log(tmp_path: Path):
    (tmp_path / "shop.csv").write_text("image,text\nnone.jpg,a red dress\n", encoding="utf-8")
    line = [sys.executable, "-m", "modiste", "data", "data=table", "data.catalogue.path=shop.csv"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert not done.stdout
    first, *_, last = done.stderr.splitlines()
    assert first == "shop.csv: utf-8, cells separated by commas; 1 rows, 2 columns"
    assert last.startswith("Error: Data set 'table' has no usable row")
    (log,) = tmp_path.glob("runs/data/*/*/data.log")
    assert re.match(r"\[[-\d]{10} [:\d]{8}\] shop.csv: utf-8", log.read_text(encoding="utf-8"))
