"""modiste merge: the curve is that of modiste evaluate, the merged run is a run, and what was measured is kept."""

import json
import math

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import modiste as package
from helpers.commands import TINY, modiste
from modiste.cli import main
from modiste.config import compose
from modiste.embedding.embedder import fingerprint
from modiste.evaluation.overlap import training_data
from modiste.models.load import build_model, model_at_start
from modiste.utils.run_dir import RunDir

METRIC = "val/retrieval/t2i/mrr"
SMALL = ["alphas=[0,0.5,1]", "task=[retrieval]", "batch_size=64"]
OTHER = "transfer={transfer: {data: synthetic, data.catalogue.products: 60, data.catalogue.size: 32, "
OTHER += "data.catalogue.seed: 5, task: [zeroshot], task.zeroshot.attributes: [category,colour]}}"


def write_run(folder, *overrides, scale=20.0):
    """A run directory as training leaves it, of weights that nobody trained."""
    config = OmegaConf.to_container(compose("train", [*TINY, f"run_dir={folder}", *overrides]), resolve=True)
    torch.manual_seed(config["seed"])
    model = build_model(OmegaConf.create(config))
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(config["seed"] + 1)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state["loss.logit_scale"] = torch.tensor(math.log(scale))
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state}, folder / "checkpoints" / "best.ckpt")
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of one architecture, one of another, and the first two merged."""
    folder = tmp_path_factory.mktemp("merge")
    write_run(folder / "a", "seed=1")
    write_run(folder / "b", "seed=2", scale=80.0)
    write_run(folder / "narrow", "model.embed_dim=16")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["merge", "first=a", "second=b", "out=ab", OTHER, *SMALL]) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def read(folder, name="merge"):
    return json.loads((folder / f"{name}.json").read_text())


def weights(run):
    return torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]


def test_the_curve_is_that_of_evaluate_on_the_validation_split(here):
    merged = read(here / "ab")
    for run, row in (("a", merged["curve"][0]), ("b", merged["curve"][-1])):
        assert main(["evaluate", f"run={run}", "task=[retrieval]", "split=val", "batch_size=64"]) == 0
        evaluated = read(here / run / "results", "synthetic.val.retrieval")
        assert row["fingerprint"] == evaluated["model"]["fingerprint"]
        assert {f"val/retrieval/{name}": m for name, m in evaluated["metrics"].items()}.items() <= row.items()
    assert [row["alpha"] for row in merged["curve"]] == [0, 0.5, 1]
    assert all("transfer/zeroshot/colour/weighted_f1" in row for row in merged["curve"])
    assert merged["domains"]["transfer"] == {"data": "synthetic", "split": "val", "tasks": ["zeroshot"]}


def test_the_merged_run_holds_the_interpolated_weights_of_the_alpha_with_the_best_metric(here):
    merged = read(here / "ab")
    alpha = merged["alpha"]
    assert alpha == max(merged["curve"], key=lambda row: row[METRIC]["value"])["alpha"]
    assert main(["merge", "first=a", "second=b", "out=quarter", "alphas=[0.25]", *SMALL[1:]]) == 0
    first, second, found = (weights(here / name) for name in ("a", "b", "quarter"))
    assert found.keys() == first.keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = 0.75 * first[name].double().numpy() + 0.25 * second[name].double().numpy()
            np.testing.assert_allclose(tensor.double().numpy(), mean, rtol=1e-6, atol=1e-12)
        else:
            assert torch.equal(tensor, first[name])
    model = package.load("quarter").model
    assert fingerprint(model) == read(here / "quarter")["curve"][0]["fingerprint"]
    assert model.initial_scale == pytest.approx(20**0.75 * 80**0.25, rel=1e-5)


def test_the_merged_run_is_evaluated_trained_on_and_merged_again(here, capsys):
    assert main(["evaluate", "run=ab", "task=[retrieval]", "split=val", "batch_size=64"]) == 0
    result, merged = read(here / "ab" / "results", "synthetic.val.retrieval"), read(here / "ab")
    row = next(row for row in merged["curve"] if row["alpha"] == merged["alpha"])
    assert result["metrics"]["t2i/mrr"] == row[METRIC]
    assert (here / "ab" / "report.html").is_file()
    assert main(["merge", "first=a", "second=ab", "out=again", "alphas=[0.5]", *SMALL[1:]]) == 0
    origin = OmegaConf.load(here / "again" / "config.yaml").merge
    assert (origin.first, origin.second, origin.alpha) == ("a", "ab", 0.5)
    trained_on = list(training_data(OmegaConf.load(here / "again" / "config.yaml")))
    assert [data.name for data in trained_on] == ["synthetic"] * 2, "of a and b, each once"
    assert main(["merge", "first=start", "second=ab", *SMALL]) == 1
    assert "was merged, not trained" in capsys.readouterr().err


def test_two_merges_average_three_runs(here):
    """The soup of docs/guides/adapt.md."""
    write_run(here / "c", "seed=3", scale=50.0)
    assert main(["merge", "first=a", "second=b", "alphas=[0.5]", "out=two", *SMALL[1:]]) == 0
    assert main(["merge", "first=two", "second=c", "alphas=[0.33333333]", "out=soup", *SMALL[1:]]) == 0
    *runs, soup = (weights(here / name) for name in ("a", "b", "c", "soup"))
    for name, tensor in soup.items():
        if tensor.is_floating_point():
            mean = np.mean([run[name].double().numpy() for run in runs], axis=0)
            np.testing.assert_allclose(tensor.double().numpy(), mean, rtol=1e-5, atol=1e-7)
    trained_on = list(training_data(OmegaConf.load(here / "soup" / "config.yaml")))
    assert [data.name for data in trained_on] == ["synthetic"] * 3


def test_what_was_measured_is_kept_and_a_further_alpha_is_added(here, capsys):
    files = {path: path.stat().st_mtime_ns for path in (here / "ab" / "alphas").iterdir()}
    assert len(files) == 6
    before = read(here / "ab")
    arguments = ["merge", "first=a", "second=b", "out=ab", OTHER, *SMALL[1:]]
    next(iter(files)).unlink()  # as a kill would have left it
    assert main([*arguments, "alphas=[0,0.5,0.75,1]"]) == 0
    said = capsys.readouterr().err
    assert (said.count("(kept)"), len(list((here / "ab" / "alphas").iterdir()))) == (5, 8)
    kept = [path for path, time in files.items() if path.stat().st_mtime_ns == time]
    assert len(kept) == 5
    after = read(here / "ab")
    assert [row for row in after["curve"] if row["alpha"] != 0.75] == before["curve"]
    capsys.readouterr()
    assert main([*arguments, "alphas=[0.5]", "backend=channels_last"]) == 0
    assert "(kept)" not in capsys.readouterr().err, "results of another backend are others"
    assert main([*arguments, "alphas=[0.5]", "task.retrieval.ks=[1,3]"]) == 0
    assert f"{METRIC[:-3]}recall@3" in read(here / "ab")["curve"][0], "another protocol is another result"


def test_the_picture_shows_both_curves(here):
    pixels = np.asarray(Image.open(here / "ab" / "figures" / "merge.png").convert("L"), dtype=float)
    assert pixels.shape[1] > 1.5 * pixels.shape[0]
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]):
        assert half.std() > 5, "a panel is blank"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["first=a"], ["needs two models", "second=RUN"]),
        (["first=missing", "second=b"], ["no run directory missing"]),
        (["first=./aa", "second=b"], ["no run directory aa", "Did you mean 'a'?"]),
        (["first=a", "second=ab/alphas"], ["not a run directory"]),
        (["first=a", "second=narrow"], ["differ in architecture", "(32, ", "(16, ", "same model"]),
        (["first=a", "second=b", "alphas=[0,1.5]"], ["alphas", "1.5", "from 0 to 1"]),
        (["first=a", "second=b", "alphas=[]"], ["alphas is empty"]),
        (["first=a", "second=b", "alphas=0.5"], ["takes a list"]),
        (["first=a", "second=b", "alphas=[half]"], ["'half'", "a number"]),
        (["first=a", "second=b", "monitor.metric=val/loss"], ["val/loss", "val/<task>/<metric>", "retrieval"]),
        (["first=a", "second=b", "monitor.metric=val/zeroshot/f1"], ["val/zeroshot/f1", "retrieval"]),
        (["first=a", "second=b", "monitor.metric=val/retrieval/t2i/mr", "out=x"], ["Did you mean", "t2i/mrr'"]),
        (["first=a", "second=b", "monitor.mode=best"], ["min, max"]),
        (["first=a", "second=b", "out=narrow"], ["holds another run or merge", "out=DIR"]),
        (["first=b", "second=a", "out=ab"], ["holds another run or merge"]),
        (["first=a", "second=start"], ["first=start and second=RUN"]),
        (["first=a", "second=b", "transfer=fashion_mnits"], ["Did you mean 'fashion_mnist'?"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)  # fmt: skip
def test_a_mistake_is_one_sentence(here, capsys, arguments, parts):
    kept = {key.partition("=")[0] for key in arguments}
    assert main(["merge", *arguments, *(word for word in SMALL if word.partition("=")[0] not in kept)]) in (1, 2)
    err = capsys.readouterr().err
    error = err[err.index("Error: ") :]
    assert all(part in error for part in parts), error
    assert len(error.splitlines()) == 1


def test_the_alpha_with_the_smallest_error_is_chosen(here, monkeypatch, capsys):
    """Without a mode the metric's own direction counts; a wrong one is still refused. The run is below log_dir."""
    monkeypatch.setenv("MODISTE_ALLOW", "helpers.task_fakes")
    gap = ["+task.gap._target_=helpers.task_fakes.Gap", "monitor.metric=val/gap/gap"]
    assert main(["merge", "first=a", "second=b", "log_dir=logs", *gap, *SMALL]) == 0
    merged = read(here / "logs" / "merge" / "a-b")
    errors = {row["alpha"]: row["val/gap/gap"]["value"] for row in merged["curve"]}
    assert merged["alpha"] == min(errors, key=errors.get)
    assert merged["monitor"]["mode"] == "min"
    assert main(["merge", "first=a", "second=b", "log_dir=logs", *gap, *SMALL, "monitor.mode=max"]) == 1
    assert "monitor.mode=max would keep the worst val/gap/gap: set monitor.mode=min." in capsys.readouterr().err


def test_a_run_with_adapters_is_merged_with_one_without(here):
    write_run(here / "lora", "seed=1", "tune.text.train=lora")
    assert main(["merge", "first=lora", "second=a", "out=folded", "alphas=[0]", *SMALL[1:]]) == 0
    assert main(["merge", "first=a", "second=lora", "out=folded2", "alphas=[0.5]", *SMALL[1:]]) == 0
    assert OmegaConf.load(here / "folded2" / "config.yaml").tune.text.train == "full"
    package.load("folded2")


def test_published_models_are_merged_without_a_run(here, tmp_path):
    from transformers import CLIPModel

    from helpers.tiny_encoders import save_clip

    zero, tuned = save_clip(tmp_path / "zero", eos=513), tmp_path / "tuned"
    save_clip(tuned, eos=513)
    clip = CLIPModel.from_pretrained(tuned)
    with torch.no_grad():
        clip.visual_projection.weight.mul_(3)
    clip.save_pretrained(tuned)
    data = [word for word in TINY if word.startswith("data")]
    assert main(["merge", f"first={zero}", f"second={tuned}", "out=clip", *data, *SMALL[1:], "alphas=[0.5]"]) == 0
    projections = [package.load(str(path)).model.model.visual_projection.weight for path in (zero, here / "clip")]
    torch.testing.assert_close(projections[1], 2 * projections[0])


@pytest.mark.slow
def test_start_is_what_training_began_with_also_after_a_continuation(tmp_path):
    """With a learning rate that is 0 in single precision the weights of the checkpoint are still those of the start."""
    words = [*TINY, "seed=4", "callbacks.early_stopping=null", "hydra.run.dir=run", "optim.lr=1e-60"]
    words += ["optim.schedule=constant"]  # one that ended is not extended
    first = modiste("train", *words, "trainer.max_epochs=1", cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    started = model_at_start(RunDir(tmp_path / "run"))
    saved = weights(tmp_path / "run")
    parameters = dict(started.named_parameters())
    assert len(parameters) > 20
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in parameters.items())
    assert any(not torch.equal(saved[f"model.{name}"], tensor) for name, tensor in started.named_buffers())

    after = [word.replace("=run", "=after") for word in words]
    second = modiste("train", *after, "trainer.max_epochs=1", "init=run", cwd=tmp_path)
    assert second.returncode == 0, second.stdout + second.stderr
    going = modiste("train", "continue=after", "trainer.max_epochs=2", cwd=tmp_path)
    assert going.returncode == 0, going.stdout + going.stderr
    assert OmegaConf.load(tmp_path / "after" / "config.yaml").init == "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        state = model_at_start(RunDir("after")).state_dict()
    assert all(torch.equal(saved[f"model.{name}"], tensor) for name, tensor in state.items())
