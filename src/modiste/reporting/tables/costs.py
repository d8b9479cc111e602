"""Costs of training runs, from the ``cost.json`` of their run directories."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modiste.reporting.tables.blocks import EMPTY
from modiste.reporting.tables.results import StoredResult
from modiste.reporting.tables.sheets import Grid, Item, Sheet
from modiste.utils.run_dir import read_json

Cost = Mapping[str, Any]
NUMBERS = ("seconds", "pairs", "steps", "peak_memory_mb", "peak_gpu_memory_mb", "energy_kwh", "co2e_kg", "price")
CAPTION = "Training, all continuations together"
MEASURED = "Energy and CO2e are of all its machines, by codecarbon: estimates where a processor has no counters."
WORLD = "CO2e at the world's average of electricity."


def cost_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The training cost of the run directory that holds ``result``; empty if unknown.

    Raises:
        ModisteError: ``cost.json`` is damaged.
    """
    path = result.path.parent.parent / "cost.json" if isinstance(result, StoredResult) else Path()
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def cost_words(cost: Cost) -> dict[str, str]:
    """Format the values of ``cost.json``, with units.

    >>> cost_words({"seconds": 3725, "pairs": 7450, "energy_kwh": 0.0512, "price": 1.5, "currency": "EUR"})
    {'wall time': '1 h 2 min', 'pairs': '7,450', 'pairs/s': '2.0', 'energy': '0.0512 kWh', 'price': '1.5 EUR'}
    """
    known = {name: cost[name] for name in NUMBERS if isinstance(cost.get(name), (int, float))}
    if known.get("seconds") and "pairs" in known:
        known["rate"] = known["pairs"] / known["seconds"]
    shown = {
        "wall time": ("seconds", duration),
        "pairs": ("pairs", "{:,.0f}".format),
        "pairs/s": ("rate", "{:,.1f}".format),
        "steps": ("steps", "{:,.0f}".format),
        "peak memory": ("peak_memory_mb", "{:,.0f} MB".format),
        "peak GPU memory": ("peak_gpu_memory_mb", "{:,.0f} MB".format),
        "energy": ("energy_kwh", "{:.3g} kWh".format),
        "CO2e": ("co2e_kg", "{:.3g} kg".format),
        "price": ("price", f"{{:.3g}} {cost.get('currency', '')}".rstrip().format),
    }
    return {label: write(known[name]) for label, (name, write) in shown.items() if name in known}


def duration(seconds: float) -> str:
    """Format seconds.

    >>> duration(3725), duration(65), duration(6.25)
    ('1 h 2 min', '1 min 5 s', '6.2 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def cost_sheet(results: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Sheet]:
    """Cost table of (model name, result) pairs, one row per training run; empty if no cost is known."""
    costs = costs_by_model(results)
    if not costs:
        return []
    words = {name: cost_words(cost) for name, cost in costs.items()}
    every = [label for found in words.values() for label in found]
    columns = [label for label in cost_words(dict.fromkeys(NUMBERS, 1)) if label in every]
    rows = [[Item(name), *(Item(found.get(label, EMPTY)) for label in columns)] for name, found in words.items()]
    notes = [note for cost in costs.values() for note in cost_notes(cost)]
    grid = Grid(["model", *columns], f"l{'r' * len(columns)}", rows)
    return [Sheet("Cost of training", [grid], CAPTION, list(dict.fromkeys(notes)))]


def cost_notes(cost: Cost) -> list[str]:
    """Notes on how the energy was measured; empty if it was not."""
    measured = [MEASURED] if "energy_kwh" in cost else []
    return [*measured, *([WORLD] if cost.get("country") == "world" else [])]


def costs_by_model(results: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Model name → training cost; runs that share a name are labelled by their folder."""
    found: dict[tuple[str, Path], dict[str, Any]] = {}
    for name, result in results:
        cost = cost_of(result)
        if cost and isinstance(result, StoredResult):
            found[name, result.path.parent.parent.resolve()] = cost
    names = [name for name, _ in found]
    return {
        name if names.count(name) == 1 else f"{name} ({'/'.join(place.parts[-2:])})": cost
        for (name, place), cost in found.items()
    }
