"""Row 17: how long `modiste --help` takes, and a training run from the command to the end of its first step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
from harness import Row
from lightning.pytorch import Callback

HERE = Path(__file__).parent


class StopAfterFirstStep(Callback):
    """Ends the process as soon as the first step is done."""

    def on_train_batch_end(self, *_: object) -> None:
        os._exit(0)


def seconds(*arguments: str, rounds: int) -> float:
    """Median wall time of a `modiste` process."""
    command = [str(Path(sys.executable).with_name("modiste")), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "MODISTE_ALLOW": "startup"}

    def work() -> None:
        # Output goes to a file: a pipe would stay open until the orphaned loader processes notice, 5 s later.
        with tempfile.TemporaryFile("w+") as output:
            failed = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
            if failed:
                output.seek(0)
                raise RuntimeError(output.read()[-2000:])

    return statistics.median(harness.seconds(work) for _ in range(rounds))


def rows(quick: bool) -> Iterator[Row]:
    """There is no peer: the ratio is that of the time allowed to the time taken."""
    rounds = 1 if quick else 5
    taken = seconds("--help", rounds=rounds)
    yield Row(17, "modiste --help", "0.5 s", "time", taken, 0.5, "s", 0.5 / taken, 1, 0.5 / 0.3)
    with tempfile.TemporaryDirectory() as folder:
        train = ("train", "experiment=demo", "+callbacks.stop={_target_: startup.StopAfterFirstStep}")
        taken = seconds(*train, f"hydra.run.dir={folder}/run", rounds=rounds)
    what = "modiste train experiment=demo, from the command to the end of the first step"
    yield Row(17, what, "12 s", "time", taken, 12, "s", 12 / taken, 1, 12 / 8)


if __name__ == "__main__":
    harness.main(__file__, rows)
