"""term=regions: cells of scenes against words, plain, cached and in micro-batches; what it needs."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.commands import TINY, modiste
from helpers.tiny_data import rectangles
from modiste.data.scenes import Composer
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.losses.clip import ClipLoss
from modiste.losses.filip import FilipLoss
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning
from modiste.models.load import load
from modiste.terms.base import TrainingInputs
from modiste.terms.regions import Regions
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.build import check_patch_head
from modiste.training.feature_cache import FeatureCache
from modiste.training.grad_cache import GradCache
from modiste.training.module import ContrastiveModule

COLOURS = {"Tshirts": (200, 20, 20), "Jeans": (20, 20, 200), "Shoes": (20, 160, 20), "": (160, 20, 160)}
TEMPLATES = ["a {}", "{} on a person"]


@pytest.fixture(scope="module")
def catalogue():
    return rectangles(COLOURS, 12, text=list(map(str, range(12))), shade=["bright"] * 6 + ["dark"] * 6)


def model(train="full", image=None):
    torch.manual_seed(0)
    config = {
        "model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    image = image or TimmEncoder("test_efficientnet", size=32, output_stride=16, patch_stages=[-2, -1])
    built = TwoTower(image, HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64)), embed_dim=8)
    Tuning(train, layers=1).apply(built, "image")
    return built.eval()  # batch normalisation by stored statistics: a micro-batch then has the same


def term(**options):
    scenes = Composer(size=64, figures=0.5, products=(1, 3))
    columns = ["articleType", "shade"]
    words = {"articleType": {"Tshirts": "t-shirt"}}
    return Regions(
        scenes, columns, words, TEMPLATES, batch_size=6, count=10, cells=None, scale=5.0, background=0.7, **options
    )


def prepared(built, catalogue, cache=None, micro_batch=None):
    made = term()
    made.bind(built, None, TrainingInputs(catalogue, 3, partial(GradCache(micro_batch).patches, built), cache))
    return made


def value(made):
    torch.manual_seed(5)
    return made(torch.zeros(1, 8), torch.zeros(1, 8), {}, None)


def slow_value(built, catalogue, scenes):
    """Cell by cell, in float64, from the scenes alone."""
    texts = {"articleType": ["Jeans", "Shoes", "t-shirt"], "shade": ["bright", "dark"]}
    worded = {"Tshirts": "t-shirt"}
    background = F.normalize(built.patch_head.background, dim=0)
    total = 0.0
    for column, words in texts.items():
        vectors = []
        for word in words:
            prompts = built.encode_text(built.tokenizer([template.format(word) for template in TEMPLATES])).detach()
            vectors.append(F.normalize(prompts.mean(0), dim=0))
        classes = torch.stack([*vectors, background]).double()
        values = [worded.get(name, name) for name in catalogue.column(column)]
        cells = []
        for scene in scenes:
            pixels = torch.from_numpy(np.array(scene.image)).permute(2, 0, 1)[None]
            patches = built.encode_patches(pixels)[0].double()
            labels = scene.cells(len(patches))
            for y in range(len(patches)):
                for x in range(len(patches)):
                    label = labels[y, x]
                    word = "background" if label == 0 else values[scene.products[label - 1]] if label > 0 else ""
                    if word:
                        place = len(words) if word == "background" else words.index(word)
                        cells.append((place, -(5.0 * classes @ patches[y, x]).log_softmax(0)[place]))
        places = [place for place, _ in cells]
        weights = [places.count(place) ** -0.5 * (place < len(words)) for place in places]
        total = total + sum(w * ce for w, (_, ce) in zip(weights, cells, strict=True)) / sum(weights)
        grounds = [ce for place, ce in cells if place == len(words)]
        total = total + 0.7 * sum(grounds) / len(grounds)
    return total / 2


def gradients(built, result):
    built.zero_grad()
    result.backward()
    return {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_value_and_gradients_are_those_of_a_slow_loop_whether_in_micro_batches_or_not(catalogue, micro_batch):
    built = model()
    made = prepared(built, catalogue, micro_batch=micro_batch)
    torch.manual_seed(5)
    keys = torch.randint(10, (6,)).tolist()
    wanted = slow_value(built, catalogue, [made.pictures[key] for key in keys])
    expected = gradients(built, wanted)
    got = value(made)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)
    found = gradients(built, got)
    assert found.keys() == expected.keys()
    assert "patch_head.background" in found
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5), name


def test_every_epoch_has_scenes_of_its_own_unless_features_are_cached(catalogue, tmp_path, monkeypatch):
    built = model("last_n")
    uncached, cached = prepared(built, catalogue), prepared(built, catalogue, FeatureCache(built, tmp_path))
    module = ContrastiveModule(built, ClipLoss(), terms={"a": uncached, "b": cached})
    values = []
    for epoch in (0, 2):
        monkeypatch.setattr(ContrastiveModule, "current_epoch", epoch)
        module.on_train_batch_start({}, 0)
        values.append((value(uncached).item(), value(cached).item()))
    torch.manual_seed(5)
    scenes = [uncached.pictures[(2, key)] for key in torch.randint(10, (6,)).tolist()]
    first, later = values
    assert first[0] == pytest.approx(first[1], rel=1e-4)
    assert later[0] == pytest.approx(slow_value(built, catalogue, scenes).item(), rel=1e-4)
    assert abs(later[0] / first[0] - 1) > 1e-3
    assert later[1] == first[1]


def test_cached_scenes_are_those_that_a_frozen_trunk_would_embed(catalogue, tmp_path):
    built = model("last_n")
    made = prepared(built, catalogue, FeatureCache(built, tmp_path))
    torch.manual_seed(5)
    keys = torch.randint(10, (6,)).tolist()
    wanted = slow_value(built, catalogue, [made.pictures[key] for key in keys])
    got = value(made)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-4)
    found = gradients(built, got)
    assert all(name.startswith("patch_head.") for name in found), "neither the trunk nor the words"
    assert {"patch_head.projection.weight", "patch_head.background"} <= found.keys()
    files = list(tmp_path.iterdir())
    assert value(prepared(built, catalogue, FeatureCache(built, tmp_path))).item() == got.item()
    assert list(tmp_path.iterdir()) == files, "found again"


def test_a_transformer_sees_scenes_at_their_size(catalogue, tmp_path):
    built = model("last_n", TimmEncoder("test_vit", size=32, patch_stages=[0, -1]))
    cached = value(prepared(built, catalogue, FeatureCache(built, tmp_path)))
    assert value(prepared(built, catalogue)).item() == pytest.approx(cached.item(), rel=1e-4)


def test_what_the_term_cannot_work_with(catalogue):
    built = model("frozen")
    inputs = TrainingInputs(catalogue, 0, built.encode_patches)
    with pytest.raises(ModisteError, match=r"tune\.image\.train"):
        term().bind(built, None, inputs)
    plain = TwoTower(TimmEncoder("test_efficientnet", size=32), built.text, embed_dim=8)
    with pytest.raises(ModisteError, match=r"image\.patch_stages"):
        term().bind(plain, None, inputs)
    for wrong in ({"power": 2.0}, {"templates": ["a photo"]}, {"scale": 0.0}, {"batch_size": 0}):
        with pytest.raises(ModisteError):
            Regions(**wrong)


def test_a_patch_head_that_nothing_trains_is_refused():
    built = model()
    with pytest.raises(ModisteError, match="term=regions"):
        check_patch_head(built, ClipLoss(), {})
    check_patch_head(built, ClipLoss(), {"regions": term()})
    assert built.patch_head.background.requires_grad
    check_patch_head(built, FilipLoss(), {})
    assert not built.patch_head.background.requires_grad


@pytest.mark.slow
def test_one_run_learns_both_and_its_model_grounds(tmp_path):
    words = ["image.name=test_efficientnet", "image.patch_stages=[-2,-1]", "image.output_stride=16", "term=[regions]"]
    words += [
        "term.regions.scenes.column=category",
        "term.regions.columns=[]",
        "term.regions.scenes.size=64",
        "term.regions.count=16",
    ]
    words += ["tune.image.train=last_n", "tune.image.layers=1", "features.cache=true", "trainer.max_epochs=2"]
    run = modiste("train", *TINY, *words, "hydra.run.dir=run", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    (metrics,) = (tmp_path / "run").glob("csv/version_*/metrics.csv")
    rows = [float(row["train/regions"]) for row in csv.DictReader(metrics.open()) if row.get("train/regions")]
    assert rows[-1] < rows[0]
    loaded = load(tmp_path / "run").model
    patches = loaded.encode_patches(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert patches.shape[1:3] == (4, 4)
    assert json.dumps(loaded.describe())


def test_cells_of_a_step_are_drawn_from_its_scenes_each_once(catalogue, tmp_path):
    built = model("last_n")
    made = prepared(built, catalogue, FeatureCache(built, tmp_path))
    torch.manual_seed(5)
    everything, rows = made.cells(torch.device("cpu"))
    torch.manual_seed(5)
    some, of = made.cells(torch.device("cpu"), 10)
    assert some.shape == (10, 8)
    exact = "donot_use_mm_for_euclid_dist"  # products of nearly equal vectors cancel
    matches = (torch.cdist(some, everything, compute_mode=exact) < 1e-5).any(1)
    assert matches.all()
    assert set(of.tolist()) <= set(rows.tolist())
    drawn = np.ravel_multi_index(made._drawn((6, 4, 4), 90), (6, 4, 4))
    assert len(np.unique(drawn)) == len(drawn) == 90
    assert np.array_equal(np.ravel_multi_index(made._drawn((6, 4, 4), 200), (6, 4, 4)), np.arange(96))
