"""Keep results of a run in an experiment's folder: python experiments/keep.py runs/kagl_lite experiments/here [NAME …]

What is large stays with the run: example queries, confusion matrices, tables per class. The rest is what
`modiste table` reads and `modiste verify EXPERIMENT run=RUN` compares. The folder of data sets is called ``data``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

LARGE = ("examples", "confusion", "tables")
FACTS = ("cost.json", "environment.json")


def main(run: Path, experiment: Path, *names: str) -> None:
    """Keep the results of these names, by default all, and what the training cost on which machine."""
    (experiment / "results").mkdir(parents=True, exist_ok=True)
    for file in sorted((run / "results").glob("*.json")):
        if names and file.name not in names:
            continue
        text = file.read_text().replace(os.environ.get("MODISTE_DATA", "data"), "data")
        content = {key: value for key, value in json.loads(text).items() if key not in LARGE}
        (experiment / "results" / file.name).write_text(json.dumps(content, indent=1) + "\n")
    for name in FACTS:
        shutil.copy(run / name, experiment / name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *sys.argv[3:])
