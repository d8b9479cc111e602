"""Train, export, load back, evaluate: as a user does; and a text tower for another language."""

import json

import pytest

from helpers.commands import TINY, modiste

pytestmark = pytest.mark.slow
DATA = [word for word in TINY if word.startswith("data")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def run(folder):
    finished = modiste("train", *TINY, "name=small", "hydra.run.dir=run", cwd=folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "run"


def metrics(folder, pattern):
    (path,) = folder.glob(pattern)
    return json.loads(path.read_text())["metrics"]


def test_an_exported_run_is_evaluated_by_its_folder_with_the_runs_own_numbers(run, folder):
    done = modiste("export", "run=run", "format=hub", "out=shared", "card.licence=apache-2.0", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "image cosine to the original model: min 1.000000" in done.stdout
    card = (folder / "shared" / "README.md").read_text()
    assert "modiste train" in card
    assert "synthetic, test split" in card
    for word in ("run=run", "model=shared"):
        done = modiste("evaluate", word, *DATA, "task=[retrieval]", cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    own = metrics(run / "results", "synthetic.test.retrieval.json")
    assert metrics(folder, "runs/evaluate/exported/**/synthetic.test.retrieval.json") == own
    again = modiste("export", "run=run", "format=hub", "out=shared", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "| t2i/mrr |" in (folder / "shared" / "README.md").read_text()  # it was evaluated meanwhile


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run=run", "format=open_clip"], "hashes words: use format=hub, onnx or openvino"),
        (
            ["run=run"],
            "modiste export needs a layout and a directory: format=FORMAT out=DIR, FORMAT one of hub, onnx, open_clip",
        ),
        (["format=hub"], "No model given: run=DIR or model=NAME."),
        (["run=run", "format=hub", "precision=int8"], "format=hub has no int8"),
        (["run=run", "format=hub", "out=run"], "is not an export of modiste: choose another out=DIR"),
    ],
)
def test_mistakes_are_one_sentence(run, folder, words, sentence):
    out = [] if any(word.startswith("out") for word in words) else ["out=mistake"]
    done = modiste("export", *words, *out, cwd=folder)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "mistake").exists()


def test_a_push_without_a_network_is_one_sentence(run, folder):
    done = modiste("export", "run=run", "format=hub", "out=pushed", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = modiste("push", "folder=pushed", "repo_id=somebody/model", cwd=folder, fork=False, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "The model hub cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_learns_another_language_from_an_english_one(run, folder):
    (folder / "captions.csv").write_text("en,de\na red dress,ein rotes Kleid\nblue jeans,blaue Jeans\n")
    done = modiste(
        "train", *TINY, "trainer.max_epochs=1", "term=[parallel]", "term.parallel.teacher=run",
        "term.parallel.table=captions.csv", "tune.image.train=frozen", "hydra.run.dir=german", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    import torch

    import modiste as package

    german, english = (package.load(str(folder / name)) for name in ("german", "run"))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(german.model.encode_image(pixels), english.model.encode_image(pixels))
