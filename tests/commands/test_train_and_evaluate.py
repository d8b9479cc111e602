"""From `modiste train` to `modiste table`, as a user runs them, on one small run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from helpers.commands import TINY, modiste
from helpers.wandb_log import OfflineRun
from modiste.embedding.embedder import fingerprint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
ALL = ["callbacks.early_stopping=null"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(folder):
    finished = modiste("train", *TINY, "trainer.max_epochs=8", *ALL, "name=small", "hydra.run.dir=run", cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def evaluated(run, folder):
    finished = modiste("evaluate", f"run={run}", "task=[retrieval,zeroshot]", cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def result(run, task, split="test"):
    return json.loads((run / "results" / f"synthetic.{split}.{task}.json").read_text())


def test_a_run_directory_describes_itself(run):
    for name in (
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "cost.json",
        "report.html",
        "figures/curves.loss.svg",
    ):
        assert (run / name).is_file(), name
    assert json.loads((run / "status.json").read_text()) == {"finished": True}
    assert "data=synthetic" in yaml.safe_load((run / "overrides.yaml").read_text())
    cost = json.loads((run / "cost.json").read_text())
    epoch = cost["pairs"] / 8
    assert epoch % 16 == 0
    assert cost["steps"] == cost["pairs"] / 16
    assert cost["seconds"] > 0


def test_a_checkpoint_holds_the_configuration_and_loads_with_weights_only(run):
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["config"]["name"] == "small"


def test_training_learns(run):
    (metrics,) = run.glob("csv/version_*/metrics.csv")
    losses = [float(row["train/loss"]) for row in csv.DictReader(metrics.open()) if row["train/loss"]]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_load_gives_model_transform_and_tokenizer(run):
    import modiste as package

    model, transform, tokenizer = package.load(str(run))
    assert not model.training
    assert transform is model.preprocess
    embedding = model.encode_text(tokenizer(["a red dress"]))
    assert embedding.shape == (1, 32)
    torch.testing.assert_close(embedding.norm(), torch.tensor(1.0))
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in model.state_dict().items())


def test_results_say_what_they_are_results_of(run, evaluated):
    import modiste as package

    retrieval = result(run, "retrieval")
    assert retrieval["model"]["fingerprint"] == fingerprint(package.load(str(run)).model)
    assert retrieval["model"]["name"] == "small"
    assert retrieval["model"]["in_domain"] is True
    assert retrieval["counts"]
    assert retrieval["environment"]["packages"]["torch"]
    for metric in retrieval["metrics"].values():
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert "category/weighted_f1" in result(run, "zeroshot")["metrics"]
    assert "t2i/mrr" in evaluated.stdout
    assert (run / "report.html").read_text().count("<img") >= 3


def test_evaluate_says_that_a_run_is_unfinished(run, evaluated, folder):
    assert "unfinished" not in evaluated.stdout
    shutil.copytree(run, folder / "stopped")
    (folder / "stopped" / "status.json").write_text('{"finished": false}')
    again = modiste("evaluate", "run=stopped", "task=[retrieval]", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "Training of stopped is unfinished: complete it with modiste train continue=stopped\n" in again.stdout


def test_an_existing_result_is_kept_until_something_changes(run, evaluated, folder):
    before = result(run, "retrieval")
    again = modiste("evaluate", f"run={run}", "task=[retrieval]", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert result(run, "retrieval") == before
    other = modiste("evaluate", f"run={run}", "task=[retrieval]", "task.retrieval.ks=[1,3]", cwd=folder)
    assert other.returncode == 0, other.stderr
    assert "t2i/recall@3" in result(run, "retrieval")["metrics"]
    back = modiste("evaluate", f"run={run}", "task=[retrieval]", cwd=folder)
    assert back.returncode == 0, back.stderr
    assert result(run, "retrieval")["metrics"] == before["metrics"]


def test_a_result_says_which_backend_made_its_embeddings_but_for_torch(run, evaluated, folder):
    plain = result(run, "retrieval")
    assert "backends" not in plain
    assert "backend" not in plain["model"]["describe"]
    words = ("task=[retrieval]", "backend=channels_last", "variant=other")
    finished = modiste("evaluate", f"run={run}", *words, cwd=folder)
    assert finished.returncode == 0, finished.stderr
    other = json.loads((run / "results" / "synthetic.test.retrieval.other.json").read_text())
    assert other["model"]["describe"]["backend"] == "channels_last"
    assert other["backends"] == {"image": "channels_last", "text": "channels_last"}
    assert other["metrics"]["t2i/mrr"]["value"] == pytest.approx(plain["metrics"]["t2i/mrr"]["value"], abs=1e-3)


def test_other_labels_are_other_results(run, evaluated, monkeypatch):
    from modiste.data.synthetic import Synthetic
    from modiste.evaluation import store
    from modiste.evaluation.store import file_digest, strings

    catalogue = Synthetic(products=20, views=1, size=32)()
    relabelled = catalogue.replace_column("colour", ["red"] * len(catalogue))
    resplit = catalogue.replace_column("split", ["test"] * len(catalogue))
    assert len({c.fingerprint() for c in (catalogue, relabelled, resplit)}) == 3
    assert list(strings({"a": ["x", {"b": "y"}], "c": 1})) == ["x", "y"]
    assert file_digest(run / "config.yaml") != file_digest(run / "overrides.yaml") != ""
    assert file_digest(run / "results") != file_digest(run / "checkpoints") == ""
    monkeypatch.setattr(store, "MOST_FILES", 1)  # a task's configuration may name any folder, such as /
    assert file_digest(run / "results") == file_digest(Path("/dev/zero")) == ""


def test_embeddings_on_disk_give_the_same_numbers_as_the_model(run, evaluated, folder):
    import modiste as package
    from modiste.config import compose
    from modiste.data.build import load as load_catalogue
    from modiste.embedding.embedder import ModelEmbedder

    tiny_data = [word for word in TINY if word.startswith("data")]
    catalogue = load_catalogue(compose("evaluate", tiny_data).data)
    embedder = ModelEmbedder(package.load(str(run)).model)
    np.save(folder / "images.npy", embedder.images(catalogue).numpy())
    np.save(folder / "texts.npy", embedder.texts(catalogue.column("text")).numpy())
    files = ["embeddings.image=images.npy", "embeddings.text=texts.npy"]
    finished = modiste("evaluate", *files, *tiny_data, "task=[retrieval]", "hydra.run.dir=matrices", cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    ours, models = (
        result(next((folder / "matrices").glob("*/results")).parent, "retrieval")["metrics"],
        result(run, "retrieval")["metrics"],
    )
    assert {name: m["value"] for name, m in ours.items()} == pytest.approx(
        {name: m["value"] for name, m in models.items()}
    )


def test_the_notebook_runs_on_a_run_directory(run, monkeypatch, capsys):
    notebook = json.loads((ROOT / "notebooks" / "search.ipynb").read_text())
    monkeypatch.setenv("MODISTE_RUN", str(run))
    names = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["sheet"].size == (640, 128)
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_table_shows_the_run(run, evaluated, folder):
    table = modiste("table", str(run), cwd=folder)
    assert table.returncode == 0, table.stderr
    assert "small" in table.stdout
    result = json.loads((run / "results" / "synthetic.test.retrieval.json").read_text())
    for direction in ("t2i", "i2t"):
        assert f"{result['metrics'][f'{direction}/mrr']['value']:.3f}" in table.stdout


def test_init_takes_weights_only(run, folder):
    started = modiste(
        "train", *TINY, f"init={run}", "optim.lr=1e-12", "trainer.max_epochs=1", "hydra.run.dir=from", cwd=folder
    )
    assert started.returncode == 0, started.stdout + started.stderr
    first = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    second = torch.load(folder / "from" / "checkpoints" / "last.ckpt", weights_only=True)
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert second["global_step"] * (last["epoch"] + 1) == last["global_step"]  # one epoch's, counted from 0
    for name, parameter in first["state_dict"].items():
        if name.startswith("model.text."):
            torch.testing.assert_close(second["state_dict"][name], parameter)


def test_weights_of_another_model_are_refused_in_one_sentence(run, folder):
    refused = modiste("train", *TINY, "model.embed_dim=16", f"init={run}", cwd=folder)
    assert refused.returncode == 1
    assert "do not match this model" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("damage", ["cut off", "more than weights"])
def test_a_damaged_or_suspicious_checkpoint_is_refused_in_one_sentence(damage, run, folder):
    broken = folder / damage.replace(" ", "_")
    shutil.copytree(run, broken)
    for path in (broken / "checkpoints").iterdir():
        if damage == "cut off":
            path.write_bytes(path.read_bytes()[:1000])
        else:
            torch.save({"state_dict": {}, "more": shutil.rmtree}, path)
    refused = modiste("evaluate", f"run={broken}", cwd=folder)
    assert refused.returncode == 1
    assert ("no complete checkpoint" if damage == "cut off" else "is refused") in refused.stderr
    assert "Traceback" not in refused.stderr


def test_resuming_with_another_model_or_optimizer_is_one_sentence(run, folder):
    for change, message in (
        ("model.embed_dim=16", "do not match this model"),
        ("tune.text.train=frozen", "start with init"),
    ):
        refused = modiste("train", f"resume={run}", change, "hydra.run.dir=refused", cwd=folder)
        assert refused.returncode == 1
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("mode", ["limit", "overfit", "profile"])
def test_debug_modes(mode, folder):
    debug = [word for word in TINY if not word.startswith(("trainer.", "data.batch"))]
    short = ["trainer.max_epochs=2"] if mode == "overfit" else []
    run = modiste("train", *debug, "data.batch_size=32", f"debug={mode}", *short, f"hydra.run.dir={mode}", cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    if mode == "profile":
        (profile,) = (folder / mode).glob("*profile*.txt")
        assert "run_training_batch" in profile.read_text()


def test_bf16_and_early_stopping(folder):
    run = modiste(
        *("train", *TINY, "trainer.precision=bf16-mixed", "optim.lr=1e-12", "trainer.max_epochs=6"),
        *("callbacks.early_stopping.patience=1", "hydra.run.dir=still"),
        cwd=folder,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    config = yaml.safe_load((folder / "still" / "config.yaml").read_text())
    cost = json.loads((folder / "still" / "cost.json").read_text())
    assert cost["pairs"] / config["data"]["batch_size"] == cost["steps"]
    (metrics,) = (folder / "still").glob("csv/version_*/metrics.csv")
    assert 2 <= sum(line.split(",")[0] != "" for line in metrics.read_text().splitlines()[1:]) < 6 * 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "task=[zeroshot]", "monitor.metric=val/retrieval/t2i/mrr"], "no task measures"),
        (["train", "task=[retrieval,marqo]"], "test set"),
        (["train", "task.retrieval.gallery=all"], "validation split only"),
        (["train", "image=timm", "image.pretrained=false", "image.size=100"], "multiple of its patch size of 16"),
        (["train", "trainer=gpu"], "this machine has no GPU: train with trainer=cpu"),
        (["train", "trainer=ddp_cpu", "trainer.devices=1000"], "'trainer.devices' is 1000, but this machine has"),
        (["train", "trainer.num_nodes=1000"], "nothing starts the processes on the other machines"),
        (["train", "trainer.max_epochs=0"], "'trainer.max_epochs' is 0: nothing would be trained"),
        (["train", "trainer.limit_train_batches=0"], "give more, or null for no limit"),
        (["evaluate"], "No model given: run=DIR"),
        (["evaluate", "embeddings.image=a.npy"], "needs both"),
    ],
    ids=" ".join,
)
def test_contradictions_are_one_sentence(words, message, folder):
    if "gpu" in words[-1] and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused = modiste(*words, "data.catalogue.products=60", cwd=folder)
    assert refused.returncode in (1, 2), refused.stdout + refused.stderr
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_code_target_in_a_runs_config_is_refused(run, folder):
    hostile = folder / "hostile"
    shutil.copytree(run, hostile)
    text = (hostile / "config.yaml").read_text().replace("modiste.models.dual_encoder.TwoTower", "os.system")
    (hostile / "config.yaml").write_text(text)
    refused = modiste("evaluate", f"run={hostile}", cwd=folder)
    assert refused.returncode != 0
    assert "os.system" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_wandb_logs_offline_without_an_account_and_its_summary_holds_the_best(folder):
    pytest.importorskip("wandb")
    short = ["trainer.max_epochs=2", "optim.schedule=constant"]  # a cosine's end is final
    words = [*TINY, *short, "logger=wandb", "hydra.run.dir=wandb_run"]
    finished = modiste("train", *words, cwd=folder, WANDB_API_KEY="")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run_id = json.loads((folder / "wandb_run" / "logger.json").read_text())["wandb"]
    (offline,) = (folder / "wandb_run" / "wandb").glob(f"offline-run-*-{run_id}")
    run = OfflineRun(offline)
    assert run.name == "synthetic-seed0"  # data and seed: there is no recipe
    config = yaml.safe_load((folder / "wandb_run" / "config.yaml").read_text())
    assert run.config["optim.lr"] == config["optim"]["lr"]
    for name, best in (("val/loss", min), ("val/retrieval/t2i/mrr", max), ("val/retrieval/t2i/median_rank", min)):
        values = [step[name] for step in run.history if name in step]
        assert len(values) == 2
        assert run.summary[name] == {best.__name__: pytest.approx(best(values))}
    rates = {"train/lr/image/0/decay", "train/lr/text/0/no_decay", "train/lr/loss/no_decay"}
    assert {"train/loss", "val/retrieval/samples", *rates} <= set(run.summary)
    table, _ = (json.loads(file.read_text()) for file in offline.glob("files/media/table/val/retrieval/*.json"))
    assert table["columns"][:3] == ["query", "rank", "top 1"]
    assert len(table["data"]) >= 4
    # The table's own file stands in for pictures by their type; they are in the run's artifact of the same name.
    assert all(isinstance(row[0], str) and row[1] >= 1 and row[2] == "Image" for row in table["data"])


def test_the_runs_of_a_grid_are_named_apart_in_wandb(folder):
    pytest.importorskip("wandb")
    words = [*TINY, "trainer.max_epochs=1", "optim.lr=1e-3,1e-2", "logger=wandb", "hydra.sweep.dir=grid"]
    finished = modiste("train", "-m", *words, cwd=folder, WANDB_API_KEY="")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    names = [OfflineRun(offline).name for offline in sorted(folder.glob("grid/*/wandb/offline-run-*"))]
    assert names == ["synthetic-seed0 lr=0.001", "synthetic-seed0 lr=0.01"]


def test_wandb_says_that_an_offline_run_cannot_be_continued(folder):
    again = modiste("train", "continue=wandb_run", "trainer.max_epochs=3", cwd=folder, WANDB_API_KEY="")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "cannot resume an offline run" in again.stdout + again.stderr
    assert len(list((folder / "wandb_run" / "wandb").glob("offline-run-*"))) == 2


def test_tensorboard_by_one_word(folder):
    pytest.importorskip("tensorboard")
    finished = modiste("train", *TINY, "logger=tensorboard", "trainer.max_epochs=1", "hydra.run.dir=tb", cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert list((folder / "tb").rglob("events.out.tfevents.*"))
