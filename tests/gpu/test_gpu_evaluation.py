"""Ranks, embeddings, evaluation and heat maps of the card are the CPU's."""

import json

import numpy as np
import pytest
import torch

from helpers.commands import TINY, modiste
from helpers.tiny_models import two_tower
from modiste.data.synthetic import Synthetic
from modiste.embedding.embedder import ModelEmbedder
from modiste.errors import ModisteError
from modiste.metrics.both_ranks import both_ranks
from modiste.metrics.ranks import relevant_ranks
from modiste.metrics.relevance import Relevance


def exact_embeddings(count, dim=64, seed=0):
    """Small integers: products are exact in every precision and order, with many ties."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, (count, dim), generator=generator).float()


@pytest.fixture(params=["highest", "high"], ids=["fp32", "tf32"])
def matmul_precision(request):
    """`modiste train` sets "high", which is tf32 on a card."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("matmul_precision")
@pytest.mark.parametrize("products", [700, 90], ids=["one relevant", "several"])
def test_ranks_are_those_of_the_cpu_ties_included(products, device):
    queries, gallery = exact_embeddings(700), exact_embeddings(700, seed=1)
    ids = np.arange(700) % products
    relevance = Relevance.from_ids(ids, ids)
    expected = relevant_ranks(queries, gallery, relevance)
    there = relevant_ranks(queries.to(device), gallery.to(device), relevance)
    np.testing.assert_array_equal(there, expected)
    forth, back = both_ranks(queries.to(device), gallery.to(device), relevance)
    np.testing.assert_array_equal(forth, expected)
    np.testing.assert_array_equal(back, relevant_ranks(gallery, queries, relevance.transposed(700)))


def test_ranks_of_real_numbers_differ_where_scores_are_equal_to_the_last_digits_only(device):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.nn.functional.normalize(torch.randn(900, 64, generator=generator)) for _ in range(2))
    relevance = Relevance.from_ids(np.arange(900), np.arange(900))
    expected, _ = both_ranks(queries, gallery, relevance)
    got, _ = both_ranks(queries.to(device), gallery.to(device), relevance)
    assert np.abs(got - expected).max() <= 1
    assert (got == expected).mean() > 0.97


@pytest.mark.parametrize(
    ("backend", "precision", "closeness"), [("torch", "fp32", 1e-4), ("torch", "bf16", 2e-2), ("auto", "fp32", 2e-2)]
)
def test_embeddings_are_the_cpus(backend, precision, closeness, device):
    if device.type == "cpu" and backend == "auto":
        pytest.skip("what auto chooses on a CPU is in tests/embedding/test_backends.py")
    catalogue = Synthetic(products=23, views=1, size=32)()
    expected = ModelEmbedder(two_tower(), batch_size=5)
    there = ModelEmbedder(two_tower().to(device), batch_size=5, precision=precision, backend=backend)
    for of in (lambda e: e.images(catalogue), lambda e: e.texts(catalogue.column("text"))):
        assert of(there).device.type == "cpu"
        torch.testing.assert_close(of(there), of(expected), atol=closeness, rtol=0)


def test_memory_that_runs_out_names_the_batch_size(device, monkeypatch):
    embedder = ModelEmbedder(two_tower().to(device), batch_size=5)
    monkeypatch.setattr(embedder.model, "encode_image", lambda pixels: pixels.new_empty(1 << 50))
    with pytest.raises(ModisteError, match="5 images at a time: lower batch_size"):
        embedder.images(Synthetic(products=5, views=1, size=32)())


@pytest.fixture(scope="module")
def run(device, tmp_path_factory):
    """A run that the device has trained."""
    folder = tmp_path_factory.mktemp("run")
    trainer = ["trainer=gpu", "trainer.precision=32-true"] if device.type == "cuda" else ["trainer=cpu"]
    small = [*TINY, *trainer, "image.name=test_vit", "data.num_workers=0", "hydra.run.dir=run"]
    done = modiste("train", *small, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "run"


def evaluated(run, device, *overrides):
    """Every metric of every task, by name."""
    options = ["overwrite=true", "cache=false", f"device={device}", "data.num_workers=0"]
    done = modiste("evaluate", f"run={run}", *overrides, *options, cwd=run.parent, NVIDIA_TF32_OVERRIDE="0")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for file in sorted((run / "results").glob("*.json")):
        metrics = json.loads(file.read_text())["metrics"]
        found |= {f"{file.stem}/{name}": value["value"] if isinstance(value, dict) else value for name, value in metrics.items()}  # fmt: skip # noqa: E501
    return found


def test_evaluate_gives_the_numbers_of_the_cpu(run, device):
    here, there = (evaluated(run, name, "task=[retrieval,zeroshot]") for name in (device.type, "cpu"))
    assert len(there) > 10
    assert here.keys() == there.keys()
    assert here == pytest.approx(there, abs=0.03, rel=0.05)  # a rank or two of two dozen products


def test_grounding_gives_the_numbers_of_the_cpu(run, device):
    options = ["task=grounding", "task.grounding.limit=3", "task.grounding.methods.occlusion.rounds=1", "task.grounding.methods.occlusion.step=56"]  # fmt: skip # noqa: E501
    here, there = (evaluated(run, name, *options) for name in (device.type, "cpu"))
    grounding = [name for name in there if "grounding" in name]
    assert grounding
    for name in grounding:
        assert here[name] == pytest.approx(there[name], abs=0.02), name


def test_embed_writes_the_matrices_of_the_cpu(run, device, tmp_path):
    for name in {device.type, "cpu"}:
        options = [f"out={tmp_path / name}", f"device={name}", "number=1", "shard_rows=50"]
        done = modiste("embed", f"run={run}", *options, cwd=tmp_path, NVIDIA_TF32_OVERRIDE="0")
        assert done.returncode == 0, done.stdout + done.stderr
    for side in ("image", "text"):
        here, there = (np.load(tmp_path / name / f"{side}.npy") for name in (device.type, "cpu"))
        np.testing.assert_allclose(here, there, atol=1e-4)
