"""Shards of embeddings: the same bits from any workers, kept when whole, usable by `modiste evaluate`."""

import importlib.util
import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers import commands
from helpers.commands import modiste
from helpers.full_disk import no_space
from helpers.tiny_models import two_tower
from modiste.data.sources import ArrayImages
from modiste.data.synthetic import Synthetic
from modiste.embedding import distributed as shards
from modiste.embedding.distributed import Job, embed_shards
from modiste.embedding.embedder import ModelEmbedder
from modiste.errors import ModisteError
from modiste.utils.atomic import DiskFullError

ROWS, SHARD = 23, 5


@pytest.fixture(scope="module")
def model():
    return two_tower()


@pytest.fixture(scope="module")
def catalogue():
    return Synthetic(products=ROWS, views=1, size=32)()


def job(model, catalogue, folder, **options):
    return Job(model, catalogue, catalogue.column("text"), folder, **{"shard_rows": SHARD, "batch_size": 3} | options)


@pytest.fixture(scope="module")
def single(model, catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    assert embed_shards(job(model, catalogue, folder)) == 5
    return folder


def test_the_joined_matrices_are_the_embedders_shard_by_shard(single, model, catalogue):
    """And the embeddings of the catalogue as a whole, up to the rounding of other batches."""
    embedder = ModelEmbedder(model, batch_size=3)
    images, texts = np.load(single / "image.npy"), np.load(single / "text.npy")
    spans = [range(start, min(start + SHARD, ROWS)) for start in range(0, ROWS, SHARD)]
    parts = [embedder.images(catalogue.select(rows=list(span))) for span in spans]
    assert np.array_equal(images, torch.cat(parts).numpy())
    np.testing.assert_allclose(images, embedder.images(catalogue).numpy(), atol=1e-5)
    np.testing.assert_allclose(texts, embedder.texts(catalogue.column("text")).numpy(), atol=1e-5)


def test_the_manifest_says_what_the_shards_are(single, model):
    manifest = json.loads((single / "manifest.json").read_text())
    assert manifest["complete"]
    assert [shard["rows"] for shard in manifest["shards"]] == [5, 5, 5, 5, 3]
    assert manifest["model_fingerprint"] == ModelEmbedder(model).fingerprint
    assert manifest["preprocess"] == json.loads(json.dumps(model.preprocess.describe(), default=str))
    for shard in manifest["shards"]:
        for side in ("image", "text"):
            assert shards.file_digest(single / shard[side]["file"]) == shard[side]["sha256"]


@pytest.mark.slow
def test_processes_give_the_same_bits(single, model, catalogue, tmp_path):
    assert embed_shards(job(model, catalogue, tmp_path), "processes", 2) == 5
    for name in ("image.npy", "text.npy"):
        assert (tmp_path / name).read_bytes() == (single / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[data]'")
def test_a_local_ray_gives_the_same_bits(single, model, catalogue, tmp_path):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert embed_shards(job(model, catalogue, tmp_path), "ray", 2) == 5
    finally:
        ray.shutdown()
    for name in ("image.npy", "text.npy"):
        assert (tmp_path / name).read_bytes() == (single / name).read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(model, catalogue, tmp_path):
    with pytest.raises(ModisteError, match=r"ray\[data\]"):
        embed_shards(job(model, catalogue, tmp_path), "ray")


class Deadly(ArrayImages):
    """Images that kill the process that reads them, as one that takes all memory."""

    def read(self, ref):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_sentence(model, catalogue, tmp_path):
    deadly = replace(catalogue, images=Deadly(np.zeros((ROWS, 8, 8), np.uint8)))
    with pytest.raises(ModisteError, match=r"A worker was killed, .*: run the same command again"):
        embed_shards(job(model, deadly, tmp_path), number=2)


def test_finished_shards_are_kept_and_damaged_ones_made_again(single, model, catalogue, tmp_path):
    embed_shards(job(model, catalogue, tmp_path))
    (tmp_path / "image-00001.npy").write_bytes(b"x" * (tmp_path / "image-00001.npy").stat().st_size)
    (tmp_path / "text-00003.npy").unlink()
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("image-*.npy")}
    assert embed_shards(job(model, catalogue, tmp_path)) == 2
    again = {path.name for path in tmp_path.glob("image-*.npy") if path.stat().st_mtime_ns != stamps[path.name]}
    assert again == {"image-00001.npy", "image-00003.npy"}
    assert (tmp_path / "image.npy").read_bytes() == (single / "image.npy").read_bytes()


def test_a_disk_that_is_full_when_the_shards_are_joined_is_one_sentence(model, catalogue, tmp_path, monkeypatch):
    """Storing to a memory map killed the process."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(DiskFullError, match=r"No space left for .*image\.npy: free some"):
            embed_shards(job(model, catalogue, tmp_path))
    assert not (tmp_path / "image.npy").exists()
    assert embed_shards(job(model, catalogue, tmp_path)) == 0


@pytest.mark.parametrize("change", [{"shard_rows": 6}, {"batch_size": 4}, {"precision": "bf16"}])
def test_shards_of_another_job_are_not_mixed_in(single, model, catalogue, change):
    with pytest.raises(ModisteError, match=f"contains other embeddings .{next(iter(change))} differs"):
        embed_shards(job(model, catalogue, single, **change))


def test_mistakes_are_one_sentence(model, catalogue, tmp_path):
    with pytest.raises(ModisteError, match="Did you mean 'processes'"):
        embed_shards(job(model, catalogue, tmp_path), "proceses")
    with pytest.raises(ModisteError, match="name a backend"):
        job(model, catalogue, tmp_path, backend="auto")
    with pytest.raises(ModisteError, match="shard_rows"):
        job(model, catalogue, tmp_path, shard_rows=0)
    with pytest.raises(ModisteError, match="precision=int8 needs backend=openvino, not torch"):
        job(model, catalogue, tmp_path, precision="int8")


def test_a_job_that_was_refused_before_its_first_shard_leaves_the_folder_to_another(model, catalogue, tmp_path):
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    refused = job(model, catalogue, tmp_path, backend="openvino", min_cosine={"image": 1.1, "text": 1.1})
    with pytest.raises(ModisteError, match="too far from torch"):
        embed_shards(refused)
    assert embed_shards(job(model, catalogue, tmp_path)) == 5


def test_evaluating_a_runs_embeddings_gives_the_runs_metrics(tmp_path):
    """With captions of attributes and `data.captions.words`, which the column `text` does not hold."""
    captions = ['data.captions.templates=["a {colour} {category}"]', "+data.captions.words.colour.black=noir"]
    data = [word for word in commands.TINY if word.startswith("data")] + captions
    files = [f"embeddings.{side}=embedded/{side}.npy" for side in ("image", "text")]
    for command in (
        ["train", *commands.TINY, *captions, "trainer.max_epochs=1", "hydra.run.dir=run"],
        ["embed", "run=run", "out=embedded", "number=1"],
        ["evaluate", "run=run", "task=[retrieval]"],
        ["evaluate", *data, *files, "task=[retrieval]", "hydra.run.dir=matrices"],
    ):
        done = modiste(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    model, matrices = (
        {name: metric["value"] for name, metric in json.loads(path.read_text())["metrics"].items()}
        for folder in ("run", "matrices")
        for path in (tmp_path / folder).rglob("synthetic.test.retrieval.json")
    )
    assert matrices == pytest.approx(model)
    texts = pq.read_table(tmp_path / "embedded" / "ids.parquet").column("text").to_pylist()
    assert any(text.startswith("a noir ") for text in texts)


TINY = ["model=two_tower", "data=synthetic", "data.catalogue.products=60", "data.catalogue.size=32", "shard_rows=16"]


@pytest.mark.slow
def test_the_command_is_interrupted_goes_on_and_its_output_is_evaluated(tmp_path):
    words = ["embed", *TINY, "out=here", "number=2", "batch_size=8"]
    process = modiste(*words, "data.catalogue.products=1500", cwd=tmp_path, background=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "here").glob("image-*.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Interrupted; finished shards are kept" in output
    assert "Traceback" not in output
    done = modiste(*[word.replace("here", "there") for word in words], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ids = pq.read_table(tmp_path / "there" / "ids.parquet")
    assert ids.column("row").to_pylist() == list(range(len(np.load(tmp_path / "there" / "image.npy"))))
    assert len(set(ids.column("product_id").to_pylist())) == 60
    files = [f"embeddings.{side}=there/{side}.npy" for side in ("image", "text")]
    evaluated = modiste("evaluate", *TINY[1:4], *files, "task=[retrieval]", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
