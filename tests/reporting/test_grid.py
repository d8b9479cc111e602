"""The table of a grid: runs labelled by what distinguishes them, seeds as one row, the best epoch by the monitor."""

import csv
import io

import numpy as np
import pytest
from omegaconf import OmegaConf

from modiste.errors import ModisteError
from modiste.reporting.build import build_table
from modiste.reporting.multirun import GridTable
from modiste.reporting.runs import differing, find_runs
from modiste.reporting.tables import grid, print_sheets
from modiste.reporting.tables.grid import grid_rows

MONITOR = {"metric": "val/retrieval/t2i/mrr", "mode": "max"}


def run(folder, mrr, overrides=(), monitor=MONITOR, metric="val/retrieval/t2i/mrr", **config):
    """A trained run directory: its configuration, overrides, and a log with ``mrr`` after each epoch."""
    (folder / "csv" / "version_0").mkdir(parents=True)
    lines = [f"{10 * (i + 1)},{i},{2.0 - i},{value}" for i, value in enumerate(mrr)]
    (folder / "csv" / "version_0" / "metrics.csv").write_text(
        "\n".join([f"step,epoch,val/loss,{metric}", *lines]) + "\n"
    )
    OmegaConf.save(
        OmegaConf.create({"name": "kagl", "run_dir": str(folder), "monitor": monitor} | config), folder / "config.yaml"
    )
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / "overrides.yaml")


@pytest.fixture
def folder(tmp_path):
    """Two losses, three seeds each."""
    for number, (loss, seed) in enumerate((loss, seed) for loss in ("clip", "siglip") for seed in range(3)):
        best = 0.5 + 0.1 * (loss == "siglip") + 0.01 * seed
        run(tmp_path / str(number), [0.2, best, 0.3], ["data=kagl", f"loss={loss}", f"seed={seed}"], seed=seed)
    return tmp_path


def test_seeds_are_one_row_and_the_best_setting_is_first(folder):
    rows, monitor, mode = grid_rows(folder)
    assert (monitor, mode) == ("val/retrieval/t2i/mrr", "max")
    assert [dict(row.settings) for row in rows] == [{"loss": "siglip"}, {"loss": "clip"}]
    values = np.array([0.6, 0.61, 0.62])
    assert rows[0].metrics[monitor] == pytest.approx(values.mean())
    assert rows[0].deviations[monitor] == pytest.approx(values.std(ddof=1))
    assert rows[0].metrics["val/loss"] == 1.0  # of the same epoch
    assert rows[0].seeds == ("0", "1", "2")


def test_the_table_names_settings_and_no_hashes(folder, capsys):
    print_sheets([grid(folder)])
    text = capsys.readouterr().out
    assert "0.61 ± 0.01" in text
    assert "siglip" in text
    assert "0, 1, 2" in text
    assert "data" not in text  # all runs have the same


def test_the_command_makes_it_of_a_directory_without_results(folder):
    (sheet,) = build_table([folder])
    assert sheet.grids[0].heads[:2] == ["loss", "seeds"]
    markdown = build_table([folder], style="markdown")
    assert "| siglip | 0, 1, 2 |" in markdown
    assert "val/loss" not in markdown
    assert "val/loss" in build_table([folder], style="markdown", every=True)
    lines = list(csv.DictReader(io.StringIO(build_table([folder], style="csv"))))
    assert [line["loss"] for line in lines] == ["siglip", "clip"]
    assert float(lines[0]["val/retrieval/t2i/mrr"]) == pytest.approx(0.61)


def test_an_error_is_best_when_lowest(tmp_path):
    monitor = {"metric": "val/hue/t2i/error", "mode": "min"}
    for lr, error in ((0.1, [0.5, 0.4]), (0.2, [0.3, 0.6])):
        run(tmp_path / str(lr), error, [f"optim.lr={lr}"], monitor, "val/hue/t2i/error")
    rows, _, _ = grid_rows(tmp_path)
    assert [(row.settings["optim.lr"], row.metrics["val/hue/t2i/error"]) for row in rows] == [
        ("0.2", 0.3),
        ("0.1", 0.4),
    ]


def test_runs_without_different_overrides_are_told_apart_by_their_configuration(tmp_path):
    run(tmp_path / "a", [0.1], loss={"_target_": "modiste.losses.clip.ClipLoss", "scale": 1}, optim={"lr": 0.1})
    run(tmp_path / "b", [0.1], loss={"_target_": "modiste.losses.siglip.SigLipLoss", "bias": 2}, optim={"lr": 0.2})
    assert differing(find_runs(tmp_path)) == [
        {"loss": "ClipLoss", "optim.lr": "0.1"},
        {"loss": "SigLipLoss", "optim.lr": "0.2"},
    ]


def test_a_default_of_one_run_is_shown_next_to_the_override_of_another(tmp_path):
    run(tmp_path / "a", [0.1], [], optim={"lr": 0.1})
    run(tmp_path / "b", [0.1], ["optim.lr=0.2"], optim={"lr": 0.2})
    assert differing(find_runs(tmp_path)) == [{"optim.lr": "0.1"}, {"optim.lr": "0.2"}]


def test_a_grid_ends_with_its_table(folder, capsys):
    GridTable().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    assert "0.61 ± 0.01" in capsys.readouterr().out


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(ModisteError, match="no training run that was validated"):
        grid(tmp_path)
    with pytest.raises(ModisteError, match="no training run that was validated"):
        build_table([tmp_path])
