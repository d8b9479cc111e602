"""The tables of benchmarks/reliability.md and benchmarks/soak.md, from the figures that the topics stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modiste.utils.hardware import environment
from modiste.utils.run_dir import read_json, write_json

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FIGURES = BENCHMARKS / "reliability"
COMMAND = "PYTHONPATH=tests python -m reliability"
WHAT = {
    "kills": "SIGKILL at a random moment of training (every third run is killed twice), identical after `continue`",
    "boundaries": "SIGKILL at every boundary: step, validation, before, during and after each file's writing, the end",
    "settings": "settings of training, killed at a random moment: averages, LoRA, accumulation, caches, batches, …",
    "hostile": "hostile runs, results, tables, weights and models: code run, file outside opened, secret leaked",
    "damage": "damaged caches, checkpoints, journals, manifests, shards, results: cut, emptied, a byte flipped, zeroed",
    "overrides": "fuzzed overrides: a sentence, or a sane configuration",
    "catalogues": "fuzzed tables: read, or a sentence",
    "images": "fuzzed images, by two decoders: read, or a bad row",
    "orphans": "parents killed by SIGTERM, SIGHUP, SIGKILL, Ctrl-C once and twice: processes left",
    "commands": "embed, prepare, audit and export, killed or interrupted in each way at a random moment: one "
    "sentence, and repeated, they give the same files",
    "planted": "pictures and titles of KAGL that nobody planted among an audit's: not reported as copies",
}
HEAD = f"""# Reliability

Each row is a script of `tests/reliability` that attacks Modiste as it is installed: `{COMMAND} TOPIC`, or
`{COMMAND}` for all. A short version of each is in the test suite. "Same" in training means: weights, moving average,
optimizer and schedule of the last checkpoint, weights of the best one, every validation and the number of steps, bit
for bit.
"""


PLANTED = """## Planted copies

Changed pictures and titles of 6,000 training rows of KAGL among 600 other rows (`tests/reliability/planted.py`), looked
for as `modiste audit` does.
Some of the other rows are copies, too, that KAGL itself holds: equal titles, and pairs that were looked at one by one
and are listed in the script. The thresholds were set on these rows and on 2,400 further ones, so that the fractions
that are found are those of the pictures they were chosen on."""


def store(name: str, found: dict[str, Any]) -> None:
    """Keep a topic's figures."""
    FIGURES.mkdir(exist_ok=True)
    write_json(FIGURES / f"{name}.json", found | {"environment": environment()})


def write() -> None:
    """Both tables."""
    (BENCHMARKS / "reliability.md").write_text(table(), encoding="utf-8")
    soaked = read_json(FIGURES / "soak.json")
    if soaked:
        (BENCHMARKS / "soak.md").write_text(soak_table(soaked), encoding="utf-8")


def table() -> str:
    """Topic by topic: cases, those that held, faults."""
    rows = ["| topic | what is tried | cases | held | seconds |", "| --- | --- | ---: | ---: | ---: |"]
    faults: list[str] = []
    for name, what in WHAT.items():
        found = read_json(FIGURES / f"{name}.json")
        if not found:
            rows.append(f"| `{name}` | {what} | — | — | — |")
            continue
        held = found["cases"] - len(found["faults"])
        rows.append(f"| `{name}` | {what} | {found['cases']:,} | {held:,} | {found['seconds']:,} |")
        faults += [f"- `{name}`: {fault}" for fault in found["faults"]]
    more = ["", "What did not hold:", "", *faults] if faults else []
    return "\n".join([HEAD, *rows, *more, *planted_table(), "", machine()]) + "\n"


def planted_table() -> list[str]:
    """How many planted copies an audit finds, kind by kind."""
    found = read_json(FIGURES / "planted.json")
    if not found:
        return []
    rows = [
        "",
        PLANTED,
        "",
        "| planted | copies | found | by `near` or equal titles alone |",
        "| --- | ---: | ---: | ---: |",
    ]
    rows += [f"| {kind} | {' | '.join(map(str, counts))} |" for kind, counts in found["kinds"].items()]
    for what, number in found["controls"].items():
        false = sum(fault.startswith(what) for fault in found["faults"])
        same = len(found["reported"][what]) - false
        rows.append(f"| controls: {what} | {number} | {same} true copies of KAGL's own, {false} false | — |")
    return rows


def machine(of: str = "*") -> str:
    """The machines of the figures, each with its topics; those of one topic alone."""
    topics: dict[str, list[str]] = {}
    for path in sorted(FIGURES.glob(f"{of}.json")):
        facts = json.loads(path.read_text())["environment"]
        name = f"{facts['processor']}, {facts['cores']} cores, torch {facts['packages']['torch']}"
        topics.setdefault(name, []).append(f"`{path.stem}`")
    return "\n".join(f"Measured on {name}: {', '.join(found)}." for name, found in topics.items())


def soak_table(found: dict[str, Any]) -> str:
    """Memory, descriptors and threads, early and late."""
    training, server = found["training"], found["server"]
    rows = [
        "| | done | memory early → late (largest), MiB | per 1,000, MiB | descriptors | threads |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    answers = ", ".join(f"{number:,} × {code}" for code, number in server["answers"].items())
    done = {
        "training": f"{training['done']:,.0f} steps, {training['validations']:,} validations",
        "server": f"{server['done']:,.0f} requests ({answers})",
    }
    for name, facts in (("training", training), ("server", server)):
        memory, descriptors, threads = (facts[key] for key in ("memory", "descriptors", "threads"))
        rows.append(
            f"| {name} | {done[name]} | {memory['early']:.0f} → {memory['late']:.0f} ({memory['most']:.0f}) | "
            f"{facts['memory per 1,000']:+.2f} | {descriptors['early']:.0f} → {descriptors['late']:.0f} | "
            f"{threads['early']:.0f} → {threads['late']:.0f} |"
        )
    head = f"""# Soak

`{COMMAND} soak`: a training run of a tiny model with a validation every ten steps, and `modiste serve` asked for
searches, pages, photos and embeddings, every sixth request wrong. Early is the median of the second tenth of the
samples, late that of the last.
"""
    return "\n".join([head, *rows, "", machine("soak")]) + "\n"
