"""Row 14: trials per hour of a search over the projections of frozen towers, in one process and in separate ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
from harness import Row

SETTINGS = [
    "sweep=heads", "data=synthetic", "data.catalogue.products=400", "data.catalogue.size=64", "data.batch_size=128",
    "image=lite", "image.size=64", "text=minilm", "tune.image.train=last_n", "tune.image.layers=1",
    "tune.text.train=last_n", "tune.text.layers=1", "features.cache=true", "trainer.max_epochs=3",
]  # fmt: skip


def seconds(folder: str, processes: str, trials: int) -> float:
    """Wall time of a sweep, from the command to the table."""
    modiste = str(Path(sys.executable).with_name("modiste"))
    place = f"hydra.run.dir={folder}/{processes}_{trials}"
    command = [modiste, "sweep", *SETTINGS, f"sweep.processes={processes}", f"sweep.trials={trials}", place]

    def work() -> None:
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MODISTE_CACHE": folder})
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])

    return harness.seconds(work)


def rows(quick: bool) -> Iterator[Row]:
    """Rates of both; the features are computed beforehand."""
    shared, own = (2, 1) if quick else (20, 4)
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder, "shared", 1)
        ours = shared * 3600 / seconds(folder, "shared", shared)
        theirs = own * 3600 / seconds(folder, "own", own)
    what = f"{shared} trials of 3 epochs on 400 synthetic products, EfficientNet-Lite0 and MiniLM frozen and cached"
    note = f"separate processes: rate of {own} trials; both find the same (tests/sweeps)"
    yield Row(14, what, "one process per trial", "rate", ours, theirs, "trials/h", ours / theirs, 3, 10, note)


if __name__ == "__main__":
    harness.main(__file__, rows)
