"""Memory and descriptors of a long training run and of a server that answers for long: both have to stay flat."""

from __future__ import annotations

import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reliability.kills import TINY

WORDS = ("red", "blue", "green", "black", "white", "dress", "shirt", "coat", "striped", "plain", "long", "linen")
Sample = dict[str, float]


def sample(pid: int) -> Sample:
    """Resident memory (MiB), open descriptors and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {
        "memory": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": descriptors,
        "threads": int(status["Threads"]),
    }


def flatness(samples: list[Sample], key: str = "done") -> dict[str, Any]:
    """Medians of the second and of the last tenth, the largest value, and memory per thousand of ``key`` by a line."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    after = samples[tenth:]
    slope = float(np.polyfit([s[key] for s in after], [s["memory"] for s in after], 1)[0]) if len(after) > 2 else 0.0
    facts: dict[str, Any] = {"samples": len(samples), "done": samples[-1][key], "memory per 1,000": 1000 * slope}
    for name in ("memory", "descriptors", "threads"):
        facts[name] = {
            "early": statistics.median(s[name] for s in early),
            "late": statistics.median(s[name] for s in late),
            "most": max(s[name] for s in samples),
        }
    return facts


def training(steps: int, every: int = 10) -> dict[str, Any]:
    """Train ``steps`` steps with a validation every ``every``."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        words = [
            *TINY, f"data.limit={4 * every}", "data.batch_size=4", "trainer.max_epochs=-1",
            f"trainer.max_steps={steps}",
            "callbacks.recent.every_n_train_steps=1000", "callbacks.early_stopping=null", f"hydra.run.dir={run}",
        ]  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "modiste", "train", *words], stdout=subprocess.DEVNULL)
        samples: list[Sample] = []
        log = run / "csv" / "version_0" / "metrics.csv"
        while process.poll() is None:
            done = last_step(log)
            if done and (not samples or done >= samples[-1]["done"] + steps / 200):
                samples.append(sample(process.pid) | {"done": done})
            time.sleep(0.2)
        if process.returncode:
            raise RuntimeError(f"training ended with code {process.returncode}")
        validations = len(json.loads((run / "selection.json").read_text())["validations"])
        return flatness(samples) | {"validations": validations}


def last_step(log: Path) -> int:
    """The step of the last line of a metrics log."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        names = file.readline().decode().strip().split(",")
        file.seek(max(0, log.stat().st_size - 4096))
        lines = [line.decode().split(",") for line in file.read().splitlines()]
    place = names.index("step")
    steps = [int(cells[place]) for cells in lines if len(cells) == len(names) and cells[place].isdigit()]
    return max(steps, default=0)


def server(requests: int) -> dict[str, Any]:
    """Ask a server: searches by words, pages, photos, wrong requests."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for words in (
            ["train", *TINY, "trainer.max_epochs=1", f"hydra.run.dir={folder / 'run'}"],
            ["index", f"run={folder / 'run'}", f"out={folder / 'index'}"],
        ):
            subprocess.run([sys.executable, "-m", "modiste", *words], check=True, capture_output=True, cwd=folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "modiste", "serve", f"index={folder / 'index'}", f"port={port}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
        try:
            wait_for(lambda: ask(port, "/health") == 200, 120)
            return _asked(process.pid, port, requests)
        finally:
            process.terminate()
            process.wait(30)


def _asked(pid: int, port: int, requests: int) -> dict[str, Any]:
    draw, answers, samples = random.Random(0), {}, []
    kinds: list[Callable[[], int]] = [
        lambda: ask(port, "/search", {"text": " ".join(draw.sample(WORDS, 3))}),
        lambda: ask(port, "/search", {"text": draw.choice(WORDS), "k": 50}),
        lambda: ask(port, f"/image/{draw.randrange(60)}"),
        lambda: ask(port, "/catalogue"),
        lambda: ask(port, "/search", {"text": 7, "unknown": []}),
        lambda: ask(port, "/v1/embeddings", {"input": [draw.choice(WORDS)], "model": "x"}),
    ]
    for number in range(requests):
        code = kinds[number % len(kinds)]()
        answers[code] = answers.get(code, 0) + 1
        if number % max(1, requests // 200) == 0:
            samples.append(sample(pid) | {"done": number + 1})
    samples.append(sample(pid) | {"done": requests})
    return flatness(samples) | {"answers": dict(sorted(answers.items()))}


def ask(port: int, path: str, body: Any = None) -> int:
    """The status of an answer; 0: there is none."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        return error.code
    except OSError:
        return 0


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Raise TimeoutError where a condition does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the server does not answer")
        time.sleep(0.2)
