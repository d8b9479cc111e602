"""A published model by local directory: `modiste.load`, and `modiste evaluate model=pretrained`."""

import json

import pytest
import torch

import modiste
from helpers.commands import modiste as command


def test_load_takes_a_local_directory(clip_dir, images, texts):
    model, transform, tokenizer = modiste.load(str(clip_dir))
    assert not model.training
    embeddings = model.encode_image(torch.stack([transform(image) for image in images]))
    assert embeddings.shape == (len(images), model.embed_dim)
    assert model.encode_text(tokenizer(texts)).shape == (len(texts), model.embed_dim)


@pytest.mark.slow
def test_evaluate_takes_a_local_directory(clip_dir, tmp_path):
    data = ["data=synthetic", "data.catalogue.products=60", "data.catalogue.size=32", "task=[retrieval]"]
    run = command("evaluate", "model=pretrained", f"model.source={clip_dir}", *data, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (file,) = tmp_path.glob("runs/evaluate/pretrained/synthetic/*/results/synthetic.test.retrieval.json")
    result = json.loads(file.read_text())
    assert result["model"]["source"] == str(clip_dir)
    assert result["counts"]
