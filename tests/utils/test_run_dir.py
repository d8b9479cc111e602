"""Finding a run's checkpoints, whatever a kill has left."""

import os

import pytest
import torch

from modiste.cli import main
from modiste.errors import ModisteError
from modiste.evaluation.store import ResultStore
from modiste.utils.lock import exclusive, held
from modiste.utils.run_dir import EVALUATED, RunDir, check_links, read_json, read_text


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


def test_a_file_that_one_would_wait_for_is_one_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        for read in (read_text, read_json):
            with pytest.raises(ModisteError, match=f"'{tmp_path / name}' is a pipe or a device: delete it"):
                read(tmp_path / name)
    assert read_json(tmp_path / "missing") == {}
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")


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


@pytest.mark.parametrize("name", ["train.log", "figures", "csv/version_0", ".in_use.json", "checkpoints/last.ckpt"])
def test_nothing_is_written_through_a_link_out_of_the_directory(run, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("victim")
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(elsewhere / "rc" if "." in name else elsewhere)
    with pytest.raises(ModisteError, match=f"{name} leads out of {run.path}: put"):
        check_links(run.path)
    for lock in (exclusive, held):
        with pytest.raises(ModisteError, match="leads out"), lock(run.path):
            pass
    assert not list(elsewhere.iterdir())
    if name.startswith("checkpoints"):
        check_links(run.path, EVALUATED)
    else:
        with pytest.raises(ModisteError, match="leads out"):
            ResultStore(run)


def test_links_within_the_directory_stay_and_a_pipe_is_refused(run):
    (run.path / "newest").symlink_to("checkpoints")
    check_links(run.path)
    check_links(run.path / "absent")
    os.mkfifo(run.path / "train.log")
    with pytest.raises(ModisteError, match="pipe or a device"):
        check_links(run.path)


@pytest.mark.parametrize("trial", ["", "trial_000/seed_1"])
def test_wandbs_own_links_to_its_logs_are_no_strangers(tmp_path, trial):
    """`continue` of a run or a sweep with wandb: each of wandb's runs links its log from wandb's cache."""
    folder, run, cache = tmp_path / "run", tmp_path / "run" / trial, tmp_path / "cache"
    (run / "wandb" / "offline-run-1" / "logs").mkdir(parents=True)
    cache.mkdir()
    (run / "wandb" / "offline-run-1" / "logs" / "debug-core.log").symlink_to(cache / "core.log")
    (run / "wandb" / "latest-run").symlink_to("offline-run-1")
    check_links(folder)
    others = ("debug.log", "settings", "x/hparams.yaml", "offline-run-1/logs/metrics.csv", "offline-run-1/files/a")
    for name in others:
        (run / "wandb" / name).parent.mkdir(exist_ok=True)
        (run / "wandb" / name).symlink_to(cache / "core.log")
        with pytest.raises(ModisteError, match="leads out of"):
            check_links(folder)
        (run / "wandb" / name).unlink()
    (run / "wandb" / "offline-run-1" / "logs" / "debug.log").symlink_to(cache)  # a folder
    with pytest.raises(ModisteError, match="leads out of"):
        check_links(folder)


def test_a_folder_of_the_name_wandb_elsewhere_hides_no_link(tmp_path):
    place = tmp_path / "run" / "figures" / "wandb" / "run-1" / "logs"
    place.mkdir(parents=True)
    (place / "debug-core.log").symlink_to("/etc/passwd")
    with pytest.raises(ModisteError, match="leads out of"):
        check_links(tmp_path / "run")


def test_a_folder_whose_name_hydra_would_resolve_is_refused(tmp_path, monkeypatch):
    """A stranger may have named it: what is made of its path would lie elsewhere."""
    run = tmp_path / "..${oc.env:HOME}" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(ModisteError, match="which Hydra would resolve: rename the folder"):
        RunDir.find(run)
    monkeypatch.chdir(run.parent)
    with pytest.raises(ModisteError, match="rename the folder"):
        RunDir.find("run")
    assert main(["data", "x.csv"]) == 2  # nor is it worked in
