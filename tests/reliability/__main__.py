"""Attack Modiste and write what held; all topics, or those that are named.

``PYTHONPATH=tests python -m reliability [TOPIC …] [--number N]``

Figures go to benchmarks/reliability/, the tables that are made of them to benchmarks/reliability.md and
benchmarks/soak.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Topic = Callable[[int], dict[str, Any]]


def kills(number: int) -> dict[str, Any]:
    """Random kills of a training run."""
    from reliability import kills

    return {"cases": number, "faults": kills.random_kills(number, seed=0)}


def boundaries(number: int) -> dict[str, Any]:
    """A kill at every boundary of a run to an epoch's end and of one that max_steps ends within an epoch."""
    from reliability import kills

    runs = [kills.aimed_kills(), kills.aimed_kills((*kills.SHORT, "trainer.max_steps=5"))]
    return {"cases": sum(cases for cases, _ in runs), "faults": [fault for _, faults in runs for fault in faults]}


def settings(number: int) -> dict[str, Any]:
    """Each setting of training once."""
    from reliability import settings

    found = settings.measure()
    return {"cases": len(found), "faults": [f"{name}: {wrong}" for name, wrong in found.items() if wrong]}


def hostile(number: int) -> dict[str, Any]:
    """Every hostile case once."""
    from reliability import hostile

    cases, faults = hostile.measure()
    return {"cases": cases, "faults": faults}


def damage(number: int) -> dict[str, Any]:
    """Every kind of file, damaged in every way."""
    from reliability import damage

    cases, faults = damage.measure()
    return {"cases": cases, "faults": faults}


def overrides(number: int) -> dict[str, Any]:
    """Random overrides of the command line."""
    from reliability import overrides

    return {"cases": number, "faults": overrides.faults(number)}


def catalogues(number: int) -> dict[str, Any]:
    """Mutated tables."""
    from reliability import fuzz

    return {"cases": number, "faults": fuzz.catalogues(number)}


def images(number: int) -> dict[str, Any]:
    """Mutated pictures."""
    from reliability import fuzz

    return {"cases": number, "faults": fuzz.images(number)}


def orphans(number: int) -> dict[str, Any]:
    """Each job, killed in each way."""
    from reliability import orphans

    found = orphans.measure()
    faults = [f"{job}, {how}: {left}" for job, ways in found.items() for how, left in ways.items() if left]
    return {"cases": sum(map(len, found.values())), "faults": faults}


def commands(number: int) -> dict[str, Any]:
    """Each job of the command line, interrupted at random."""
    from reliability import commands

    return {"cases": number * len(commands.JOBS), "faults": commands.faults(number)}


def planted(number: int) -> dict[str, Any]:
    """Copies of KAGL's pictures and titles, planted; a fault is a control that is reported and is no copy."""
    from reliability import planted

    found = planted.measure()
    faults = [
        f"{what}: {control!r} is no copy of {of!r}" for what, pairs in found.false.items() for control, of in pairs
    ]
    facts = {"kinds": found.kinds, "controls": found.controls, "reported": found.reported}
    return {"cases": sum(found.controls.values()), "faults": faults, **facts}


def soak(number: int) -> dict[str, Any]:
    """A long training run and a long-lived server."""
    from reliability import soak

    return {"training": soak.training(number), "server": soak.server(number), "faults": []}


TOPICS: dict[str, tuple[Topic, int]] = {
    "kills": (kills, 100),
    "boundaries": (boundaries, 0),
    "settings": (settings, 0),
    "hostile": (hostile, 0),
    "damage": (damage, 0),
    "overrides": (overrides, 1000),
    "catalogues": (catalogues, 1000),
    "images": (images, 10_000),
    "orphans": (orphans, 0),
    "commands": (commands, 15),
    "planted": (planted, 0),
    "soak": (soak, 10_000),
}
"""Topic → its function and its usual number."""


def main() -> int:
    """Run the topics; 1 where one of them found a fault."""
    from reliability import report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], metavar="TOPIC", help=f"of {', '.join(TOPICS)}")
    parser.add_argument("--number", type=int, help="cases; the usual number by default")
    parser.add_argument("--table", action="store_true", help="only write the tables of what was measured")
    chosen = parser.parse_args()
    # A shell ignores it in what it starts with &, and so would every process that the topics interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults = 0
    for name in [] if chosen.table else chosen.topics or TOPICS:
        function, usual = TOPICS[name]
        begun = time.monotonic()
        found = function(chosen.number or usual)
        print(f"{name}: {found.get('cases', '')} cases, {len(found['faults'])} faults", *found["faults"], sep="\n  ")
        report.store(name, found | {"seconds": round(time.monotonic() - begun)})
        faults += len(found["faults"])
    report.write()
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
