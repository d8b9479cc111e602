"""SIGKILL in training, at random and at every boundary: continued, a run ends as one that nothing stopped.

A boundary is a step, a validation batch, or a phase in which a file is written (`watched`). The n-th one kills the
process, for every n that a whole run has. What has to be equal: the last checkpoint (weights, moving average,
optimizer, schedule), the best one, the validations, and the number of steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reliability import forks

TINY = [
    "data=synthetic_hard", "data.catalogue.products=80", "data.catalogue.size=24", "data.limit=64",
    "data.batch_size=16", "data.num_workers=0", "image=timm", "image.name=test_resnet", "image.pretrained=false",
    "image.size=32", "text.config.hidden_size=32", "text.config.intermediate_size=32",
    "text.config.vocab_size=256",
    "text.tokenizer.buckets=256", "text.config.hidden_dropout_prob=0.2", "model.embed_dim=32",
    "trainer.max_epochs=3", "trainer.log_every_n_steps=1", "callbacks.recent.every_n_train_steps=1",
]  # fmt: skip
"""12 steps in 3 epochs."""
SHORT = (*TINY, "trainer.max_epochs=2", "data.limit=48")
"""6 steps in 2 epochs."""


class Counter:
    """Kills this process at the n-th event; counts them where n is None."""

    def __init__(self, at: int | None, record: Path | None = None) -> None:
        self.at, self.record, self.count = at, record, 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.record is not None:
            with self.record.open("a") as file:
                file.write(name + "\n")
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def watched(counter: Counter) -> Callable[[], None]:
    """Makes the boundaries of training call ``counter``, in the process that calls the returned function."""

    def install() -> None:
        from lightning.pytorch import Trainer

        import modiste.training.callbacks.checkpoints as checkpoints
        import modiste.utils.atomic as atomic
        from modiste.training.module import ContrastiveModule

        def around(owner: Any, name: str, label: str) -> None:
            original = getattr(owner, name)

            def wrapped(*arguments: Any, **options: Any) -> Any:
                counter(f"before {label}")
                result = original(*arguments, **options)
                counter(f"after {label}")
                return result

            setattr(owner, name, wrapped)

        around(ContrastiveModule, "optimizer_step", "an optimizer step")
        around(ContrastiveModule, "validation_step", "a validation batch")
        around(ContrastiveModule, "on_validation_epoch_end", "measuring a validation")
        around(Trainer, "fit", "training")
        original = atomic.atomic

        @contextlib.contextmanager
        def phases(path: Path, durable: bool = True) -> Iterator[Path]:
            if path.suffix == ".svg":  # drawn from the rest, when all is done
                with original(path, durable) as unfinished:
                    yield unfinished
                return
            counter(f"before writing {path.name}")
            with original(path, durable) as unfinished:
                yield unfinished
                if counter.at is not None and counter.count + 1 == counter.at:  # half of it
                    os.truncate(unfinished, unfinished.stat().st_size // 2)
                counter(f"while writing {path.name}")
            counter(f"after writing {path.name}")

        atomic.atomic = checkpoints.atomic = phases

    return install


def summary(run: Path) -> dict[str, Any]:
    """What has to be equal of two runs."""
    import torch

    def digest(value: Any) -> str:
        found = hashlib.sha256()

        def add(part: Any) -> None:
            if isinstance(part, torch.Tensor):
                found.update(str((part.dtype, part.shape)).encode() + part.contiguous().numpy().tobytes())
            elif isinstance(part, dict):
                for key in sorted(part, key=str):
                    found.update(str(key).encode())
                    add(part[key])
            elif isinstance(part, (list, tuple)):
                for item in part:
                    add(item)
            else:
                found.update(repr(part).encode())

        add(value)
        return found.hexdigest()

    facts: dict[str, Any] = {}
    newest = max((run / "checkpoints" / f"{name}.ckpt" for name in ("last", "recent")), key=changed)
    for name, path in (("last", newest), ("best", run / "checkpoints" / "best.ckpt")):
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
        facts[f"{name}: steps"] = (checkpoint["epoch"], checkpoint["global_step"])
        for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
            if part in checkpoint:
                facts[f"{name}: {part}"] = digest(checkpoint[part])
    facts["selection"] = json.loads((run / "selection.json").read_text())
    return facts


def changed(path: Path) -> int:
    """When a file was written; 0: there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def difference(whole: dict[str, Any], run: Path) -> str:
    """The names of what differs from a whole run; empty: nothing."""
    try:
        other = forks.apart(summary, run)
    except RuntimeError:
        return "no complete run"
    return ", ".join(name for name in whole if whole[name] != other.get(name))


def whole_run(folder: Path, settings: Sequence[str], record: Path | None = None) -> tuple[dict[str, Any], float]:
    """The summary of a run that nothing stops, and its seconds."""
    begun = time.monotonic()
    code = forks.run(
        ["train", *settings, f"hydra.run.dir={folder / 'whole'}"],
        folder,
        folder / "whole.log",
        watched(Counter(None, record)),
    )
    if code:
        raise RuntimeError((folder / "whole.log").read_text()[-2000:])
    return forks.apart(summary, folder / "whole"), time.monotonic() - begun


def finish(run: Path, settings: Sequence[str], whole: dict[str, Any]) -> str:
    """Continue a killed run to its end; what is wrong then, or an empty string."""
    log = run.with_suffix(".log")
    # Killed before it had written what it is, nothing can be continued, and nothing was lost.
    command = [f"continue={run}"] if (run / "overrides.yaml").is_file() else [*settings, f"hydra.run.dir={run}"]
    code = forks.run(["train", *command], run.parent, log)
    if code:
        return f"exit code {code}: {log.read_text().strip().splitlines()[-1]}"
    left = [file.name for file in run.rglob("*.tmp")]
    return difference(whole, run) or (f"left: {left}" if left else "")


def random_kills(number: int, seed: int, settings: Sequence[str] = TINY) -> list[str]:
    """Kill ``number`` times at random moments, every third run twice; what is wrong, an entry per fault."""
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole, seconds = whole_run(folder, settings)
        killed = 0
        for attempt, share in enumerate(forks.moments(3 * number, 1.0, seed)):
            if killed >= number:
                break
            run, moment, begun = folder / f"run{attempt}", share * seconds, time.monotonic()
            pid = forks.start(["train", *settings, f"hydra.run.dir={run}"], folder, run.with_suffix(".log"))
            if forks.kill_after(pid, moment) != -signal.SIGKILL:
                seconds = min(seconds, time.monotonic() - begun)  # it was over before
                continue
            killed += 1
            if attempt % 3 == 0 and (run / "overrides.yaml").is_file():
                pid = forks.start(["train", f"continue={run}"], folder, run.with_suffix(".log"))
                killed += forks.kill_after(pid, (seconds - moment) / 2) == -signal.SIGKILL
            wrong = finish(run, settings, whole)
            if wrong:
                faults.append(f"killed after {moment:.2f} of {seconds:.2f} s: {wrong}")
        if killed < number:
            raise RuntimeError(f"only {killed} of {number} kills came in time")
    return faults


def aimed_kills(settings: Sequence[str] = SHORT, every: int = 1) -> tuple[int, list[str]]:
    """Kill at every event of a run (or every ``every``-th); how many there were, and what is wrong."""
    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        record = folder / "events"
        whole, _ = whole_run(folder, settings, record)
        events = record.read_text().splitlines()
        chosen = range(1, len(events) + 1, every)
        for number in chosen:
            run = folder / f"run{number}"
            command = ["train", *settings, f"hydra.run.dir={run}"]
            code = forks.run(command, folder, run.with_suffix(".log"), watched(Counter(number)))
            if code != -signal.SIGKILL:
                faults.append(f"event {number} ({events[number - 1]}) did not come: exit code {code}")
                continue
            wrong = finish(run, settings, whole)
            if wrong:
                faults.append(f"killed {events[number - 1]} (event {number}): {wrong}")
    return len(chosen), faults
