"""LookBench: image-to-image retrieval in four subsets whose galleries share 58,275 distractors.

Source: Gao et al., arXiv:2601.14706, and the card of huggingface.co/datasets/srpone/look-bench: one configuration per
subset with the splits ``query`` and ``gallery``, and the configuration ``noise`` with the distractors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modiste.data.catalogue import Card, Catalogue, as_text
from modiste.data.datasets.hub import Hub
from modiste.data.datasets.table import find_parquet, from_dataset, read_parquet, read_schema
from modiste.data.download import note_partial
from modiste.data.sources import ArrowImages
from modiste.data.text_tables import Columns
from modiste.errors import ModisteError
from modiste.utils.ranges import BadRows

HUB = "srpone/look-bench"
CARD = Card(
    name="lookbench",
    title="LookBench",
    licence="Apache-2.0 (as the data set's card states; the distractors are Fashion200k's)",
    citation="C. Gao, S. Xue, Y. Peng, J. Fu, T. Gu, S. Li, F. Zhou, LookBench: A Live and Holistic Open Benchmark for "
    "Fashion Image Retrieval, arXiv:2601.14706, 2026",
    homepage=f"https://huggingface.co/datasets/{HUB}",
    # Queries 1,011 + 193 + 981 + 160; gallery 3,951 + 979 + 3,278 + 571 and the distractors.
    expected={"rows": 69_399, "query": 2_345, "gallery": 67_054},
    download=f"Get it with: hf download {HUB} --repo-type dataset --local-dir FOLDER.",
)
SUBSETS = {
    "real_studio_flat": "RealStudioFlat",
    "aigen_studio": "AIGen-Studio",
    "real_streetlook": "RealStreetLook",
    "aigen_streetlook": "AIGen-StreetLook",
}
"""Configuration on the hub → subset in the paper."""
SPLITS = ("query", "gallery")
NOISE, EVERY = "noise", "all"
"""Configuration of the distractors, and their value of ``subset``, since every subset's gallery has them."""
NOISE_CATEGORY = "noise data"
OPTIONAL = ("other_attributes", "task", "difficulty")


@dataclass(frozen=True)
class Part:
    """One split of one configuration."""

    config: str
    split: str

    @property
    def subset(self) -> str:
        """Value of its rows in the column ``subset``."""
        return SUBSETS.get(self.config, EVERY)

    @property
    def pattern(self) -> str:
        """Pattern of its files in the folder of the configuration; the distractors' folder has only a gallery."""
        return "*" if self.config == NOISE else f"{self.split}*"


PARTS = [*(Part(config, split) for config in SUBSETS for split in SPLITS), Part(NOISE, "gallery")]


@dataclass(frozen=True)
class LookBench:
    """Read all four subsets and the distractors as one catalogue, every image once.

    The column ``subset`` is the subset of a query or gallery row, and "all" for distractors, which are in every
    gallery. Splits are ``query`` and ``gallery``. Relevance within a subset: equal ``category`` and ``main_attribute``
    (fine), or equal ``category`` (coarse); the category of distractors is "noise data", which no query has. Item ids
    are unique only within a subset, so product_id is ``<subset>-<item_ID>``. There are no captions; text = main
    attribute and category.

    Attributes:
        path: Folder of the download, or ``srpone/look-bench`` to load it from the hub.
        version: Subfolder of a dated release, used if it exists.
        revision: Commit, branch or tag on the hub.
        max_bad: See `Catalogue.build`.

    Raises:
        ModisteError: ``path`` has no such data, parts are missing, or the hub cannot be reached.
    """

    path: str
    version: str = "v20251201"
    revision: str | None = None
    max_bad: BadRows | None = None

    def __call__(self) -> Catalogue:
        import datasets

        folder = Path(self.path).expanduser()
        loaded = self._from_hub() if self.path == HUB and not folder.is_dir() else self._from_folder(folder)
        tables = [_columns(part, dataset) for part, dataset in loaded.items()]
        names = dict.fromkeys(name for table in tables for name in table)
        columns: Columns = {
            name: [value for table in tables for value in table.get(name, [""] * len(table["image"]))] for name in names
        }
        columns["image"] = [str(i) for i in range(len(columns["image"]))]
        pictures = [
            dataset.select_columns("image").cast_column("image", datasets.Image(decode=False))
            for dataset in loaded.values()
        ]
        images = ArrowImages(datasets.concatenate_datasets(pictures), "image")
        return note_partial(Catalogue.build(CARD, columns, images, self.max_bad))

    def _from_hub(self) -> dict[Part, Any]:
        return {part: Hub(HUB, config=part.config, revision=self.revision).load(part.split) for part in PARTS}

    def _from_folder(self, folder: Path) -> dict[Part, Any]:
        root = folder / self.version if (folder / self.version).is_dir() else folder
        files = {part: find_parquet(root / part.config, CARD, part.pattern) for part in PARTS}
        missing = [f"{part.config}/{part.split}" for part in PARTS if not files[part]]
        if len(missing) == len(PARTS):
            what = "holds none of LookBench's files" if folder.is_dir() else "does not exist"
            raise ModisteError(
                f"{folder} {what}. {CARD.download} Then set data.catalogue.path to FOLDER; or set it to {HUB} to load "
                "it from the hub."
            )
        if missing:
            raise ModisteError(
                f"The download of LookBench in {root} is incomplete: {', '.join(missing)} of {len(PARTS)} parts are "
                f"missing. Run the download again to fetch them. {CARD.download}"
            )
        return {part: read_parquet(paths, _wanted(paths[0])) for part, paths in files.items()}


def _wanted(file: Path) -> list[str]:
    """The columns to read, without the uncropped photos (``raw_image``), half of the file's bytes."""
    present = read_schema(file).names
    return [name for name in ("image", "item_ID", "category", "main_attribute", *OPTIONAL) if name in present]


def _columns(part: Part, dataset: Any) -> Columns:
    labels = () if part.config == NOISE else ("category", "main_attribute")
    optional = [name for name in OPTIONAL if name in dataset.column_names]
    names = {"product_id": "item_ID", "image": "image", "text": "item_ID"} | {
        name: name for name in (*labels, *optional)
    }
    columns, _ = from_dataset(dataset, names, attributes=[], name=CARD.name)
    if part.config == NOISE:
        columns |= {"category": [NOISE_CATEGORY] * len(dataset), "main_attribute": [""] * len(dataset)}
    return columns | {
        "product_id": [f"{part.subset}-{as_text(item)}" for item in columns["product_id"]],
        "text": [
            f"{as_text(main).replace('_', ' ')} {as_text(category)}".strip()
            for main, category in zip(columns["main_attribute"], columns["category"], strict=True)
        ],
        "split": [part.split] * len(dataset),
        "subset": [part.subset] * len(dataset),
    }
