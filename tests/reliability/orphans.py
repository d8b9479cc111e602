"""Parents that are killed: what they started ends with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reliability.kills import TINY

MARK = "MODISTE_ORPHANS"
GRACE = 40.0
"""Seconds in which everything has to be gone; a training run may save its state first."""
SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "SIGKILL": [signal.SIGKILL],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
}
LONG = [*TINY, "trainer.max_epochs=200"]
SAVED = "checkpoints/last.ckpt"
JOBS = {
    "embed number=2": (
        ["embed", "run={run}", "data=synthetic_hard", "data.catalogue.products=2000", "data.catalogue.size=24",
         "shard_rows=8", "batch_size=4", "number=2", "out={out}"],
        "image-00001.npy",
    ),
    "train trainer=ddp_cpu": (
        ["train", *LONG, "image.name=test_vit", "trainer=ddp_cpu", "hydra.run.dir={out}"], SAVED,
    ),
    "train data.num_workers=2": (["train", *LONG, "data.num_workers=2", "hydra.run.dir={out}"], SAVED),
    "sweep sweep.processes=own": (
        ["sweep", "sweep=heads", *LONG, "sweep.trials=1", "sweep.processes=own", "hydra.run.dir={out}"],
        f"trial_000/{SAVED}",
    ),
}  # fmt: skip


def marked(mark: str) -> list[int]:
    """The processes that inherited a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"{MARK}={mark}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                found += [int(folder.name)] if (folder / "cmdline").read_bytes() else []  # none: a zombie
        except OSError:
            continue
    return found


def left(job: str, how: str, folder: Path, run: Path) -> int | str:
    """Number of processes that outlive a job killed in some way, or why it was not seen."""
    words, sign = JOBS[job]
    mark, out = f"{os.getpid()}-{time.monotonic_ns()}", folder / "out"
    command = [word.format(run=run, out=out) if word[:1] != "{" else word for word in words]
    # Ctrl-C goes to all processes of the terminal's foreground group.
    process = subprocess.Popen(
        [sys.executable, "-m", "modiste", *command], cwd=folder, env={**os.environ, MARK: mark}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
    )  # fmt: skip
    end = time.monotonic() + 240
    while not (out / sign).exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            return f"it did not start (exit code {process.wait()})"
        time.sleep(0.05)
    for number in SIGNALS[how]:
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        time.sleep(0.5)
    end = time.monotonic() + GRACE
    while time.monotonic() < end:
        process.poll()
        if not marked(mark):
            return 0
        time.sleep(0.2)
    remaining = marked(mark)
    for pid in remaining:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    return len(remaining)


def measure(
    jobs: tuple[str, ...] = tuple(JOBS), ways: tuple[str, ...] = tuple(SIGNALS)
) -> dict[str, dict[str, int | str]]:
    """Job → way to kill it → processes left."""
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        run = top / "run"
        command = [sys.executable, "-m", "modiste", "train", *TINY, "trainer.max_epochs=1", f"hydra.run.dir={run}"]
        subprocess.run(command, cwd=top, check=True, capture_output=True)
        found: dict[str, dict[str, int | str]] = {}
        for job in jobs:
            for how in ways:
                folder = top / f"{len(found)}-{how}"
                folder.mkdir()
                found.setdefault(job, {})[how] = left(job, how, folder, run)
        return found
