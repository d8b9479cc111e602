"""Commands that are killed or interrupted at random: repeated, they give what nothing stopped."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import time
from pathlib import Path

from reliability import forks
from reliability.kills import TINY

SIGNALS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
}
DATA = ["data=synthetic_hard", "data.catalogue.products=200", "data.catalogue.size=24"]
JOBS = {
    "embed": ["embed", "run={run}", *DATA, "shard_rows=32", "batch_size=16", "number=1", "out={out}"],
    "prepare": ["prepare", *DATA, "size=32", "shard_rows=64", "out={out}"],
    "audit": ["audit", "data=synthetic", "run={run}", "out={out}"],
    "export": ["export", "run={run}", "format=hub", "out={out}"],
}
VARYING = ("README.md", "audit.json", ".lock")
"""Files that hold times or paths."""


def content(folder: Path) -> dict[str, str]:
    """File → digest; of those in `VARYING` only that they exist."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): "" if file.name in VARYING else hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def interrupted(command: list[str], folder: Path, log: Path, moment: float, numbers: list[int]) -> int:
    """The exit code of a command that gets signals; 0: it was over before."""
    pid = forks.start(command, folder, log, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    code = forks.forkserver.ended(pid, moment, every=0.002)
    if code is not None:
        return code
    for number in numbers:
        os.kill(pid, number)
        time.sleep(0.1 if len(numbers) > 1 else 0)
    return forks.wait(pid)


def faults(number: int, seed: int = 0, jobs: tuple[str, ...] = tuple(JOBS)) -> list[str]:
    """Interrupt each job ``number`` times, in each way in turn; what is wrong, an entry per fault."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        run = top / "run"
        if forks.run(["train", *TINY, "trainer.max_epochs=1", f"hydra.run.dir={run}"], top, top / "train.log"):
            raise RuntimeError((top / "train.log").read_text()[-2000:])
        for job in jobs:
            words = [word.format(run=run, out="{out}") if word[:1] != "{" else word for word in JOBS[job]]
            begun = time.monotonic()
            if forks.run([w.replace("{out}", str(top / job)) for w in words], top, top / f"{job}.log"):
                raise RuntimeError((top / f"{job}.log").read_text()[-2000:])
            seconds, whole = time.monotonic() - begun, content(top / job)
            for place, moment in enumerate(forks.moments(number, seconds, seed)):
                how = list(SIGNALS)[place % len(SIGNALS)]
                out, log = top / f"{job}{place}", top / f"{job}{place}.log"
                command = [word.replace("{out}", str(out)) for word in words]
                code = interrupted(command, top, log, moment, SIGNALS[how])
                said = log.read_text() if log.is_file() else ""
                what = f"{job}, {how} after {moment:.2f} of {seconds:.2f} s"
                if "Traceback" in said or (code not in (0, -signal.SIGKILL) and "Interrupted" not in said):
                    found.append(f"{what}: no sentence (exit code {code}): {said[-200:]}")
                if forks.run(command, top, log):
                    found.append(f"{what}: repeated, it fails: {log.read_text()[-200:]}")
                elif content(out) != whole:
                    found.append(f"{what}: repeated, it gives something else")
                found += [f"{what}: {file.name} is left" for file in top.rglob("*.tmp")]
    return found
