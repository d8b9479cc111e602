"""Finding a run's checkpoints, whatever a kill has left."""

import os

import pytest
import torch

from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for age, name in enumerate(("recent", "last", "best")):  # best is the oldest
        torch.save({"state_dict": {}}, folder / f"{name}.ckpt")
        os.utime(folder / f"{name}.ckpt", (1000 - age, 1000 - age))
    return RunDir.find(tmp_path)


def test_last_is_the_newest_state_and_best_the_best(run):
    assert run.checkpoint("last").name == "recent.ckpt"
    assert run.checkpoint("best").name == "best.ckpt"


def test_a_file_that_a_kill_cut_off_is_passed_over(run):
    recent = run.checkpoints / "recent.ckpt"
    recent.write_bytes(recent.read_bytes()[:-100])
    assert run.checkpoint("last").name == "last.ckpt"
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ModisteError, match="no complete checkpoint"):
        run.checkpoint("last")


def test_what_is_no_run_is_one_sentence(run):
    with pytest.raises(ModisteError, match="is not a run directory"):
        RunDir.find(run.checkpoints)
    with pytest.raises(ModisteError, match="There is no run directory"):
        RunDir.find(run.path / "nowhere")


def test_a_folder_of_runs_names_the_newest(tmp_path):
    """`modiste train` writes runs/NAME/TIME; run=runs/NAME is what one tries next."""
    for name in ("2026-11-28_10-00-00", "2026-11-29_09-00-00"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("name: a")
    with pytest.raises(ModisteError, match=r"It holds runs; the newest is .*2026-11-29_09-00-00\.$"):
        RunDir.find(tmp_path)


def test_a_near_miss_is_suggested_as_it_has_to_be_typed(run, monkeypatch):
    monkeypatch.chdir(run.path.parent.parent)
    folder = run.path.parent.name
    near = f"{run.path.name[:-1]}x"
    with pytest.raises(ModisteError, match=f"Did you mean '{folder}/{run.path.name}'"):
        RunDir.find(f"{folder}/{near}")
    with pytest.raises(ModisteError, match=f"Did you mean '{run.path}'"):
        RunDir.find(run.path.parent / near)


def test_a_run_says_whether_it_is_unfinished(run):
    assert not run.unfinished  # nothing is recorded
    for finished in (False, True):
        run.write_json("status", {"finished": finished})
        assert run.unfinished != finished


def test_hydras_record_is_no_run(tmp_path):
    """A run that ended before it began has a .hydra/config.yaml and nothing else."""
    hydra = tmp_path / "run" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "config.yaml").write_text("name: a")
    for path in (hydra, hydra.parent):
        with pytest.raises(ModisteError, match=r"it has no config\.yaml\.$"):
            RunDir.find(path)
    assert RunDir.of(hydra) is None


@pytest.mark.parametrize("kind", ["last", "best"])
def test_a_checkpoint_with_a_flipped_byte_is_never_used(run, kind, caplog):
    chosen = run.checkpoint(kind)
    torch.save({"state_dict": {"weight": torch.arange(1000.0)}}, chosen)
    os.utime(chosen, (2000, 2000))
    assert run.checkpoint(kind) == chosen
    data = bytearray(chosen.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chosen.write_bytes(data)
    os.utime(chosen, (2000, 2000))
    assert run.checkpoint(kind) != chosen
    assert f"{chosen.name} is damaged" in caplog.text
