"""What every benchmark shares: ours and its peer interleaved in one run, peak memory of a subprocess, one JSON a topic.

A script of this directory has two functions, and ends with ``harness.main(__file__, rows, cases)``:

- ``rows(quick)`` measures and yields a `Row` for every quantity (``quick``: small sizes, to see that it runs);
- ``cases`` names what is measured for memory: name → function (**sizes) that prepares and returns the work to do.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modiste.utils.hardware import environment, has_bf16

RESULTS = Path(__file__).parent / "results"
Work = Callable[[], Any]
Case = Callable[..., Work]


@dataclass(frozen=True)
class Row:
    """One measured ratio.

    Attributes:
        number: Its line in the table of targets.
        what: What is done, with sizes and units.
        peer: Package (and function) it is compared with.
        quantity: ``time``, ``memory``, ``rate`` or ``bytes``.
        ours: Our median, in ``unit``.
        theirs: The peer's median.
        unit: Of both.
        ratio: How many times better ours is: the median of the rounds' ratios.
        must: The ratio that has to hold, or None.
        aim: The ratio aimed at, or None.
        note: Exactness that goes with it, or why an aim is missed.
    """

    number: int
    what: str
    peer: str
    quantity: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    must: float | None = None
    aim: float | None = None
    note: str = ""


class Apart:
    """Work in a separate process, which waits while others work: a peer as its users run it, without the settings
    that our commands make in their process (`modiste.utils.hardware.keep_pages`).

    Args:
        prepare: Function of a benchmark script that returns the work; it and ``sizes`` have to be picklable. It has
            run when this is made.
    """

    def __init__(self, prepare: Case, **sizes: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_serve, args=(end, prepare, sizes), daemon=True)
        self.process.start()
        end.close()
        self.pipe.recv()  # the work is prepared

    def __call__(self) -> Any:
        """What the work returns. Raises EOFError where its process has ended."""
        self.pipe.send(None)
        return self.pipe.recv()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: Any, prepare: Case, sizes: dict[str, Any]) -> None:
    work = prepare(**sizes)
    pipe.send(None)
    try:
        while True:
            pipe.recv()
            pipe.send(work())
    except EOFError:  # nobody asks any more
        pass


def interleave(ours: Work, theirs: Work, rounds: int = 5, warm_up: int = 1) -> tuple[float, float, float]:
    """Median seconds of ours, of theirs, and the median over rounds of theirs / ours.

    The two take turns, so that whatever else the machine does meets both; who goes first alternates.
    """
    for _ in range(warm_up):
        ours(), theirs()
    times: dict[Work, list[float]] = {ours: [], theirs: []}
    for index in range(rounds):
        for work in (ours, theirs) if index % 2 == 0 else (theirs, ours):
            times[work].append(seconds(work))
    ratios = [b / a for a, b in zip(times[ours], times[theirs], strict=True)]
    return statistics.median(times[ours]), statistics.median(times[theirs]), statistics.median(ratios)


def seconds(work: Work) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def release() -> None:
    """Give freed memory back to the system, which `modiste.utils.hardware.keep_pages` keeps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_mib(script: str, case: str, rounds: int = 3, **sizes: Any) -> float:
    """Median over fresh processes of the memory (MiB) that a case needs beyond what its preparation holds."""
    command = [sys.executable, script, "--memory", case, json.dumps(sizes)]
    peaks = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{case} {sizes}: {done.stderr[-2000:]}")
        peaks.append(float(done.stdout.splitlines()[-1]))
    return statistics.median(peaks)


ONLY: set[int] = set()
"""Numbers of the rows that are measured; none: all."""


def wanted(number: int) -> bool:
    """Whether a row should be measured; a script asks before it does what takes long."""
    return not ONLY or number in ONLY


def others(path: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of ``path`` that are not measured now. Raises SystemExit where they are of another machine."""
    if not ONLY or not path.is_file():
        return []
    stored = json.loads(path.read_text())
    if stored["environment"] != facts:
        raise SystemExit(f"{path} is of another machine or other packages: measure all rows, without --rows.")
    return [row for row in stored["rows"] if row["number"] not in ONLY]


def main(script: str, rows: Callable[[bool], Iterator[Row]], cases: Mapping[str, Case] | None = None) -> None:
    """The command line of a benchmark script: measures, prints and writes ``results/<topic>.json``."""
    parser = argparse.ArgumentParser(description=f"Benchmark of {Path(script).stem}")
    parser.add_argument("--quick", action="store_true", help="small sizes, writes nothing: only to see that it runs")
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[], help="numbers of the rows to measure: all by default"
    )
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "SIZES"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.memory:
        case, sizes = chosen.memory
        print(_peak((cases or {})[case](**json.loads(sizes))))
        return
    ONLY.update(chosen.rows)
    file, facts = RESULTS / f"{Path(script).stem}.json", {**environment(), "bf16": has_bf16()}
    measured = others(file, facts)
    for row in filter(lambda row: wanted(row.number), rows(chosen.quick)):
        print(f"{row.number:>3} {row.what} | {row.quantity}: {row.ratio:.2f}× better than {row.peer}"
              f" ({row.ours:.4g} against {row.theirs:.4g} {row.unit}) {row.note}", flush=True)  # fmt: skip
        measured.append(asdict(row))
        if not chosen.quick:  # each as it comes: hours may be lost with an interrupted run
            store(file, facts, measured)


def store(file: Path, facts: dict[str, Any], measured: list[dict[str, Any]]) -> None:
    """The measured rows, by number, with their environment."""
    RESULTS.mkdir(exist_ok=True)
    content = {"environment": facts, "rows": sorted(measured, key=lambda row: row["number"])}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _peak(work: Work) -> float:
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM restarts
    work()
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
