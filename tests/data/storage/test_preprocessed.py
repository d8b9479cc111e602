"""Preprocessed images are those of the files, resume after an interruption, and are refused where they do not fit."""

import json

import pytest
import torch

from helpers.commands import TINY, modiste
from helpers.tiny_data import inputs
from helpers.tiny_models import two_tower
from helpers.watched import watched
from modiste.config import compose
from modiste.config.invocation import Invocation
from modiste.data.build import load
from modiste.data.module import FashionDataModule
from modiste.data.prepare import prepare_config
from modiste.data.splits import RandomSplit
from modiste.data.storage import webdataset
from modiste.data.storage.preprocessed import Preprocessed, write, write_parts
from modiste.data.synthetic import Synthetic
from modiste.embedding.embedder import ModelEmbedder
from modiste.errors import ModisteError
from modiste.models.preprocess import Preprocess

PAD = Preprocess(size=24, resize="pad")


@pytest.fixture(scope="module")
def catalogue():
    return RandomSplit({"train": 0.8, "val": 0.1, "test": 0.1})(Synthetic(products=30, views=1, size=40)())


def batches(catalogue, preprocess):
    data = FashionDataModule(catalogue, inputs(preprocess), batch_size=8, num_workers=0)
    return [*data.train_dataloader(), *data.val_dataloader()]


def test_batches_are_those_of_the_files_bit_for_bit(catalogue, tmp_path):
    assert write(catalogue, PAD, tmp_path, shard_rows=8) == 4
    ready = Preprocessed(str(tmp_path), verify=True)()
    assert ready.fingerprint() == catalogue.fingerprint()
    assert (ready.attributes, ready.card, ready.splits) == (catalogue.attributes, catalogue.card, catalogue.splits)
    for ours, theirs in zip(batches(ready, PAD), batches(catalogue, PAD), strict=True):
        assert torch.equal(ours["pixels"], theirs["pixels"])
        assert ours["texts"] == theirs["texts"]
    assert ready.read_image(3).size == (24, 24)


def test_finished_shards_are_kept_and_a_damaged_one_is_made_again(catalogue, tmp_path):
    shown = []

    def stop_after_two(items, total, title):
        for index, item in enumerate(items):
            if index == 2:
                raise KeyboardInterrupt
            shown.append(title)
            yield item

    with pytest.raises(KeyboardInterrupt):
        write(catalogue, PAD, tmp_path, shard_rows=8, progress=stop_after_two)
    with pytest.raises(ModisteError, match="incomplete"):
        Preprocessed(str(tmp_path))()
    assert write(catalogue, PAD, tmp_path, shard_rows=8) == 2
    assert write(catalogue, PAD, tmp_path, shard_rows=8) == 0
    assert shown == ["Preparing 30 images"] * 2

    shard = tmp_path / "pixels-00001.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ModisteError, match=r"pixels-00001\.npy is missing or damaged"):
        Preprocessed(str(tmp_path), verify=True)()
    assert write(catalogue, PAD, tmp_path, shard_rows=8) == 1
    Preprocessed(str(tmp_path), verify=True)()
    shard.unlink()
    with pytest.raises(ModisteError, match="missing or damaged"):
        Preprocessed(str(tmp_path))()


def test_pixels_of_another_transform_or_data_set_are_refused(catalogue, tmp_path):
    write(catalogue, PAD, tmp_path)
    ready = Preprocessed(str(tmp_path))()
    with pytest.raises(ModisteError, match="resize=pad, but the model needs resize=squash"):
        batches(ready, Preprocess(size=24, resize="squash"))
    batches(ready, Preprocess(size=24, resize="pad", mean=(0.1, 0.2, 0.3)))  # which comes after the pixels
    with pytest.raises(ModisteError, match="preprocess differs"):
        write(catalogue, Preprocess(size=25, resize="pad"), tmp_path)
    with pytest.raises(ModisteError, match="fingerprint differs"):
        write(catalogue.select(split="train"), PAD, tmp_path)
    node = {"name": "kagl", "preprocessed": str(tmp_path), "split": None, "catalogue": None}
    with pytest.raises(ModisteError, match="images of 'synthetic', not of 'kagl'"):
        load(node)


def test_embeddings_of_other_pixels_have_a_cache_entry_of_their_own(catalogue, tmp_path):
    model = two_tower()
    write(catalogue, model.preprocess, tmp_path / "ready")
    ready = Preprocessed(str(tmp_path / "ready"))()
    embedder = ModelEmbedder(model, cache=tmp_path / "cache")
    first = embedder.images(catalogue)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    torch.testing.assert_close(embedder.images(ready), first)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2


def test_a_directory_that_holds_none_is_one_sentence(tmp_path):
    with pytest.raises(ModisteError, match="modiste prepare"):
        Preprocessed(str(tmp_path / "nothing"))()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["format", "complete", "preprocess", "report", "card"])
def test_a_manifest_without_a_part_or_with_a_foreign_one_is_one_sentence(catalogue, tmp_path, name):
    write(catalogue, PAD, tmp_path)
    path = tmp_path / "manifest.json"
    whole = json.loads(path.read_text())
    for value in (None, {"x": 1}, []):
        damaged = {key: content for key, content in whole.items() if key != name}
        path.write_text(json.dumps(damaged if value is None else damaged | {name: value}))
        with pytest.raises(ModisteError, match=r"again|resume|format=pixels"):
            Preprocessed(str(tmp_path))()


@pytest.mark.parametrize("form", ["pixels", "webdataset"])
def test_the_overrides_of_prepared_data_give_the_same_catalogue(tmp_path, form):
    """Called from Python, as by the command: what it wrote is read with the overrides that it returns."""
    words = ["data.catalogue.products=20", "data.catalogue.views=1", "data.catalogue.size=32", "data.batch_size=4"]
    cfg = compose("prepare", [*words, f"out={tmp_path / 'ready'}", f"format={form}", "size=32"])
    done, source = prepare_config(cfg, Invocation(overrides=tuple(words))), load(cfg.data)
    assert (done.folder, done.made) == (tmp_path / "ready", len(source.splits) if form == "webdataset" else 1)
    read = load(compose("train", done.overrides).data)
    if form == "pixels":
        assert read.fingerprint() == source.fingerprint()
    else:  # training streams its own shards
        assert read.splits == {name: count for name, count in source.splits.items() if name != "train"}
    assert prepare_config(cfg, Invocation(overrides=tuple(words))).made == 0


@pytest.mark.parametrize("form", ["pixels", "webdataset"])
def test_corrupted_images_are_not_prepared_as_if_they_were_originals(tmp_path, form):
    words = ["data.corruptions=[{_target_: modiste.data.augment.Thumbnail, p: 1.0}]", f"format={form}"]
    with pytest.raises(ModisteError, match=r"writes the original images: remove data\.corruptions"):
        prepare_config(compose("prepare", [*words, f"out={tmp_path / 'ready'}"]), Invocation())
    assert not (tmp_path / "ready").exists()


def test_prepare_and_train_on_it_from_the_command_line(tmp_path):
    source = [setting for setting in TINY if setting.startswith("data.catalogue")]
    done = modiste("prepare", "data=synthetic", *source, "size=32", "crop_pct=0.95", "out=ready", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "ready" / "manifest.json").read_text())["complete"]
    refused = modiste("train", *TINY, "data.preprocessed=ready", "image.size=24", cwd=tmp_path)
    assert refused.returncode != 0
    assert "run modiste prepare for this model" in refused.stderr
    assert "Traceback" not in refused.stderr
    weights = []
    for name, extra in {"plain": [], "ready": ["data.preprocessed=ready"]}.items():
        run = modiste("train", *TINY, *extra, "trainer.max_epochs=1", f"hydra.run.dir=run_{name}", cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
        last = tmp_path / f"run_{name}" / "checkpoints" / "last.ckpt"
        weights.append(torch.load(last, weights_only=True)["state_dict"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_links_in_a_directory_of_a_stranger_are_refused(catalogue, tmp_path):
    folder, outside = tmp_path / "ready", tmp_path / "outside"
    outside.mkdir()
    write(catalogue, Preprocess(16), folder)
    for name in ("table.parquet", "pixels-00000.npy"):
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)
        with watched(outside) as found, pytest.raises(ModisteError, match="is a link"):
            Preprocessed(str(folder))()
        assert found == []
        (folder / name).unlink()
        (outside / name).rename(folder / name)
    assert len(Preprocessed(str(folder))()) == len(catalogue)


@pytest.mark.parametrize("split", ["/tmp/x", "../x", "a/b", "*", "{0..9}", "a::b", "a\nb", ".", " "])
def test_shards_are_named_by_words_and_lie_in_their_folder(tmp_path, split):
    """The column of splits may be a stranger's."""
    catalogue = Synthetic(products=2, views=1, size=16)()
    catalogue = catalogue.replace_column("split", [split] * len(catalogue))
    with pytest.raises(ModisteError, match="cannot name shards: use letters, digits"):
        webdataset.write(catalogue, tmp_path / "in" / "out", 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x.tar", "/x.tar", "a/b.tar"])
def test_no_part_of_a_directory_lies_elsewhere(tmp_path, name):
    with pytest.raises(ModisteError, match="is not a file name"):
        write_parts(tmp_path / "out", {}, {name: [0]}, lambda rows, path: 1, lambda: None)
    assert list(tmp_path.iterdir()) == []
