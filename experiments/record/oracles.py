"""What an oracle that knows some attributes exactly would score on KAGL: python experiments/record/oracles.py

The oracle ranks the products that agree with the wanted one in all of the attributes first, in random order: with n of
them, its expected recall@k is min(k / n, 1). A title that several products share is read as any of them. Brands are
those that `modiste.data.datasets.kagl.brands` reads in the titles.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from modiste.data.datasets.kagl import Kagl
from modiste.tasks.retrieval import read_judgements

DATA = Path(os.environ.get("MODISTE_DATA", "data"))
ORACLES = {
    "type": ["articleType"],
    "type, colour": ["articleType", "baseColour"],
    "type, colour, gender": ["articleType", "baseColour", "gender"],
    "type, colour, gender, brand": ["articleType", "baseColour", "gender", "brand"],
}


def expected_recall(wanted: list[list[str]], keys: dict[str, tuple[str, ...]], k: int) -> float:
    """Mean over queries of min(k / n, 1), n being the products of the wanted ones' keys."""
    sizes: dict[tuple[str, ...], int] = {}
    for key in keys.values():
        sizes[key] = sizes.get(key, 0) + 1
    candidates = [sum(sizes[key] for key in {keys[item] for item in items}) for items in wanted]
    return sum(min(k / n, 1.0) for n in candidates) / len(candidates)


def main() -> None:
    """Write ``oracles.json`` next to this file and print it."""
    catalogue = Kagl(str(DATA / "fashion-product-images-small.zip"), brand=True)()
    folder = DATA / "marqo-kagl"
    wanted = list(read_judgements(folder / "ground_truth_text-image.json").values())
    gallery = {str(item) for file in folder.glob("ground_truth_*.json")
               for items in read_judgements(file).values() for item in items}  # fmt: skip
    columns = {name: catalogue.column(name) for name in ORACLES["type, colour, gender, brand"]}
    products = catalogue.column("product_id")
    results = {}
    for known, names in ORACLES.items():
        keys = {p: tuple(columns[name][row] for name in names) for row, p in enumerate(products) if p in gallery}
        recall = {f"recall@{k}": expected_recall(wanted, keys, k) for k in (1, 10)}
        results[known] = recall | {"avg_recall": sum(recall.values()) / 2}
    counts = {"queries": len(wanted), "gallery": len(gallery)}
    text = json.dumps({"counts": counts, "expected": results}, indent=1)
    Path(__file__).with_name("oracles.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
