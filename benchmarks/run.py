"""Runs the benchmarks and writes their table into benchmarks/README.md: python benchmarks/run.py [topic …] [--table]"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from modiste.reporting.tables.sheets import formatted_table

HERE = Path(__file__).parent
OTHERS = ("gpu", "harness", "pack_kagl", "run")  # gpu.py has a separate table
TOPICS = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in OTHERS)
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def table() -> str:
    """Every measured row as Markdown, by its number in the list of targets, and the machine."""
    rows: list[dict] = []
    machines: dict[str, list[str]] = {}
    for path in sorted((HERE / "results").glob("*.json")):
        file = json.loads(path.read_text())
        if path.stem in OTHERS or not file["rows"]:  # gpu.py's and scaling.py's, which have separate tables
            continue
        rows += [row | {"topic": path.stem} for row in file["rows"]]
        facts = file["environment"]
        units = "with" if facts.get("bf16") else "without"
        torch = f"torch {facts['packages']['torch']}"
        machine = f"{facts['processor']}, {facts['cores']} cores, {units} bf16 units, {torch}"
        machines.setdefault(machine, []).append(f"`{path.stem}.py`")
    heads = ["#", "what", "peer", "quantity", "ours", "peer's", "ratio", "must", "aim", "holds", "by"]
    measured_rows = map(cells, sorted(rows, key=lambda row: row["number"]))
    measured = "; ".join(f"{', '.join(topics)} on {machine}" for machine, topics in sorted(machines.items()))
    return f"{formatted_table(heads, 'l' * len(heads), measured_rows)}\n\nMeasured: {measured}."


def cells(row: dict) -> list:
    """One row of the table."""
    must, aim = (f"{row[name]:g}×" if row[name] else "–" for name in ("must", "aim"))
    what = "; ".join(filter(None, (row["what"], row["note"])))
    ours, theirs = (f"{row[name]:.4g} {row['unit']}" for name in ("ours", "theirs"))
    ratio, by = f"**{row['ratio']:.3g}×**", f"`{row['topic']}.py`"
    return [row["number"], what, row["peer"], row["quantity"], ours, theirs, ratio, must, aim, holds(row), by]


def holds(row: dict) -> str:
    """Which of the two targets the ratio reaches."""
    if row["must"] is None:
        return "–"
    if row["ratio"] < row["must"]:
        return "**no**"
    return "aim" if row["aim"] and row["ratio"] >= row["aim"] else "must"


def write_table() -> None:
    """Put the table between its marks in the README."""
    readme = HERE / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}")


def main() -> int:
    """Run each topic in a separate process; a topic that fails does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], help=f"of {', '.join(TOPICS)}; none: all")
    parser.add_argument("--table", action="store_true", help="only write the table of what was measured")
    chosen = parser.parse_args()
    topics = [] if chosen.table else chosen.topics or TOPICS
    failed = [topic for topic in topics if subprocess.run([sys.executable, str(HERE / f"{topic}.py")]).returncode]
    write_table()
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
