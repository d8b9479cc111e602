"""Report on a data set, as `modiste data` writes it: statistics, sheets, settings of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from modiste.data import build, proposal
from modiste.data.catalogue import Catalogue
from modiste.data.facts import describe
from modiste.data.samplers import fitting_batch_size
from modiste.errors import ModisteError
from modiste.reporting.data_sheet import draw_sheet
from modiste.utils.run_dir import write_json


@dataclass(frozen=True)
class DataReport:
    """What `report_config` found and wrote.

    Attributes:
        facts: Statistics, see `modiste.data.facts.describe`.
        columns: Columns of a table, see `modiste.data.proposal.columns`; None for a data set with a name.
        files: ``data.json``, ``sheet.png`` and, with ``scenes``, ``scenes.png``.
        saved: With ``write``, the YAML of the detected settings.
        train: Arguments with which `modiste train` reads ``saved``.
    """

    facts: dict[str, Any]
    columns: tuple[dict[str, str], dict[str, list[str]]] | None
    files: Sequence[Path]
    saved: Path | None = None
    train: Sequence[str] = ()


def report_config(cfg: DictConfig) -> DataReport:
    """Describe ``cfg.data``, and write the report to ``cfg.run_dir``.

    Args:
        cfg: The composed ``data`` configuration.

    Raises:
        ModisteError: The data set is missing, ``write`` is not a valid name, or its file exists.
    """
    is_table, folder = proposal.is_table(cfg.data), Path(cfg.run_dir)
    if cfg.write and not is_table:
        raise ModisteError("write= saves the detected settings of a table: modiste data shop.csv write=shop.")
    catalogue = build.load(cfg.data)
    saved = proposal.write(cfg.write, cfg.data, catalogue, Path(cfg.write_to)) if cfg.write else None
    facts, files = write_report(catalogue, folder, cfg.seed)
    if cfg.scenes:
        from modiste.data.scenes import Composer
        from modiste.reporting.scene_sheet import draw_scenes

        files.append(folder / "scenes.png")
        draw_scenes(Composer(cfg.scenes).bind(catalogue, cfg.seed), files[-1])
    columns = proposal.columns(cfg.data, catalogue) if is_table else None
    train = _training(saved, catalogue, cfg.data.batch_size) if saved else []
    return DataReport(facts, columns, files, saved, train)


def write_report(catalogue: Catalogue, folder: Path, seed: int = 0) -> tuple[dict[str, Any], list[Path]]:
    """Write the statistics and the contact sheet of a catalogue.

    Args:
        catalogue: The catalogue.
        folder: Folder of ``data.json`` and ``sheet.png``.
        seed: Seed of the choice of products on the sheet.

    Returns:
        The statistics (`modiste.data.facts.describe`), and the files.

    >>> import tempfile
    >>> from modiste.data.synthetic import Synthetic
    >>> facts, files = write_report(Synthetic(products=4, views=1, size=16)(), Path(tempfile.mkdtemp()))
    >>> facts["distinct"]["product_id"], [file.name for file in files]
    (4, ['data.json', 'sheet.png'])
    """
    facts, sheet = describe(catalogue), folder / "sheet.png"
    draw_sheet(catalogue, sheet, seed)
    write_json(folder / "data.json", {**facts, "seed": seed, "sheet": sheet.name})
    return facts, [folder / "data.json", sheet]


def _training(saved: Path, catalogue: Catalogue, batch_size: int) -> list[str]:
    words = ["--config-dir", str(saved.parents[1]), f"data={saved.stem}"]
    pairs = catalogue.splits.get("train", 0)
    return [*words, f"data.batch_size={fitting_batch_size(pairs)}"] if pairs < batch_size else words
