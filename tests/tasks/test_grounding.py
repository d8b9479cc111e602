"""The grounding task against a plain reimplementation of its protocol, on drawn garments with true masks."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from modiste.config import compose, instantiate, validate
from modiste.data.catalogue import Card, Catalogue
from modiste.data.synthetic import Synthetic
from modiste.embedding.embedder import ModelEmbedder
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.models.preprocess import Preprocess
from modiste.tasks.grounding import Grounding
from modiste.tasks.heatmaps import GradCam, Occlusion, PatchText, input_pixels, on_image

METRICS = ("pointing", "iou", "pixel_ap", "box_iou")


class Words(torch.nn.Module):
    """Texts to fixed random vectors by their letters."""

    dim = 8

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(128, 8)

    def tokenizer(self, texts):
        return {"input_ids": torch.tensor([[ord(text[i % len(text)]) for i in range(24)] for text in texts])}

    def forward(self, tokens):
        return self.table(tokens["input_ids"]).mean(1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TwoTower(TimmEncoder("test_efficientnet", size=48), Words(), embed_dim=8).eval()


@pytest.fixture(scope="module")
def garments():
    catalogue = Synthetic(products=14, views=1, size=64)()
    return catalogue.replace_column("split", ["val"] * 6 + ["test"] * 8)


def task(**options):
    chosen = {
        "methods": {"patches": PatchText(), "gradcam": GradCam()},
        "resolution": 32,
        "examples": 2,
        "resamples": 50,
    }
    return Grounding(**(chosen | options))


def values_by_the_protocol(model, rows, method, prompts, threshold=None):
    """Values of each pair, by loops; without a threshold the IoU at each of 101 thresholds."""
    embedder = ModelEmbedder(model)
    found = []
    for i in range(len(rows)):
        image = rows.read_image(i)
        for part in rows.parts(i):
            mask = np.asarray(rows.read_mask(i, part).resize((32, 32), Image.Resampling.NEAREST)) > 0
            if mask.mean() < 0.002:
                continue
            text = F.normalize(embedder.texts([p.replace("{}", part) for p in prompts]).mean(0), dim=0)
            raw = method(model, input_pixels(model, image), text[None])
            heat = on_image(raw, image.size, (32, 32))[0].double().numpy()
            if threshold is None:
                cuts = [heat >= k / 100 for k in range(101)]
                found.append([(cut & mask).sum() / (cut | mask).sum() for cut in cuts])
                continue
            cut = heat >= threshold
            highest = [mask[y, x] for y, x in np.argwhere(heat == heat.max())]
            boxes = np.zeros((2, 32, 32), bool)
            for filled, pixels in zip(boxes, (cut, mask), strict=True):
                for y in range(32):
                    for x in range(32):
                        filled[y, x] = (pixels[: y + 1].any() and pixels[y:].any()) and (
                            pixels[:, : x + 1].any() and pixels[:, x:].any()
                        )
            found.append(
                [
                    np.mean(highest),
                    (cut & mask).sum() / (cut | mask).sum(),
                    average_precision_score(mask.ravel(), heat.ravel()),
                    (boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum(),
                ]
            )
    return np.array(found)


@pytest.mark.parametrize("name", ["patches", "gradcam"])
def test_metrics_and_threshold_equal_a_plain_reimplementation(name, model, garments):
    prompts = ["a {}", "the {} of a garment"]
    result = task(prompts=prompts)(ModelEmbedder(model), garments, "test")
    method = {"patches": PatchText(), "gradcam": GradCam()}[name]
    curve = values_by_the_protocol(model, garments.select(split="val"), method, prompts).mean(0)
    threshold = result.protocol["thresholds"][name]
    assert threshold == int(curve.argmax()) / 100
    wanted = values_by_the_protocol(model, garments.select(split="test"), method, prompts, threshold)
    assert result.counts["test/queries"] == len(wanted) > 30
    for metric, column in zip(METRICS, wanted.T, strict=True):
        np.testing.assert_allclose(result.per_query[f"{name}/{metric}"], column, atol=1e-6)
        assert result.metrics[f"{name}/{metric}"].value == pytest.approx(column.mean(), abs=1e-6)


def test_baselines_see_the_centre_and_the_true_foreground_alone(model, garments):
    result = task()(ModelEmbedder(model), garments, "test")
    rows = garments.select(split="test")
    pointing, precision = [], []
    y, x = np.mgrid[:32, :32] + 0.5
    blob = np.exp(-((x / 32 - 0.5) ** 2 + (y / 32 - 0.5) ** 2) / (2 * 0.25**2)).astype(np.float32)
    for i in range(len(rows)):
        whole, *parts = (
            np.asarray(rows.read_mask(i, part).resize((32, 32), Image.Resampling.NEAREST)) > 0
            for part in ("whole", *rows.parts(i))
        )
        parts = [mask for mask in parts if mask.mean() >= 0.002]
        pointing += [(mask & whole).sum() / whole.sum() for mask in parts]
        precision += [average_precision_score(mask.ravel(), blob.ravel()) for mask in parts]
    np.testing.assert_allclose(result.per_query["foreground/pointing"], pointing)
    np.testing.assert_allclose(result.per_query["centre/pixel_ap"], precision)


def test_all_that_a_reader_needs_is_in_the_result(model, garments):
    result = task(methods={"occlusion": Occlusion(step=75), "gradcam": GradCam(), "patches": None})(
        ModelEmbedder(model), garments, "test"
    )
    names = [f"{method}/{metric}" for method in ("occlusion", "gradcam", "centre", "foreground") for metric in METRICS]
    assert list(result.metrics) == list(result.per_query) == names
    assert (result.primary, result.summary) == ("occlusion/pointing", list(METRICS))
    table = result.tables["phrases"]
    assert table["columns"] == ["phrase", "pairs", *names]
    counts = [row[1] for row in table["rows"]]
    assert sum(counts) == result.counts["test/queries"]
    assert counts == sorted(counts, reverse=True)
    mean = sum(row[1] * row[2] for row in table["rows"]) / sum(counts)
    assert mean == pytest.approx(result.metrics["occlusion/pointing"].value)
    assert result.protocol["methods"]["occlusion"]["step"] == 75
    assert set(result.protocol["thresholds"]) == {"occlusion", "gradcam", "centre", "foreground"}
    assert result.counts["val/images"] <= 6
    assert list(result.pictures) == ["heat-maps", "best of occlusion", "worst of occlusion"]
    assert result.pictures["heat-maps"].width > 400
    result.to_json()


def test_small_masks_are_left_out_and_counted(model, garments):
    few = task(min_area=0.05)(ModelEmbedder(model), garments, "test")
    many = task(min_area=0)(ModelEmbedder(model), garments, "test")
    assert few.counts["test/queries"] < many.counts["test/queries"]
    for result in (few, many):
        parts = [garments.select(split="test").parts(i) for i in range(8)]
        assert result.counts["test/queries"] + result.counts["test/small_masks"] == sum(map(len, parts))
    with pytest.raises(ModisteError, match=r"split 'val' covers 99\.00%"):
        task(min_area=0.99)(ModelEmbedder(model), garments, "test")


def test_a_limit_takes_a_seeded_sample_of_each_split(model, garments):
    first, again, other = (
        task(limit=3, seed=seed, min_area=0)(ModelEmbedder(model), garments, "test") for seed in (0, 0, 1)
    )
    assert first.counts["test/images"] == first.counts["val/images"] == 3
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics


class OneHot(DualEncoder):
    """Red and blue as the first and the second dimension; no patches and no layer to hook."""

    embed_dim, preprocess = 3, Preprocess(size=32)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def tokenizer(self, texts):
        return {"colour": torch.tensor([[0 if "red" in text else 2] for text in texts])}

    def text_features(self, tokens):
        return F.one_hot(tokens["colour"][:, 0], 3).float()

    def image_features(self, pixels):
        return (pixels + 1).mean((2, 3)) + 1e-3


class Seen:
    """Finds a phrase's colour: the perfect method."""

    def describe(self):
        return {"method": "seen"}

    def __call__(self, model, pixels, texts):
        return torch.einsum("chw,kc->khw", pixels.float(), texts)


BOXES = {"left": (4, 6, 16, 20), "right": (22, 10, 36, 54)}


class Flags:
    """A red and a blue rectangle, with masks."""

    def read(self, ref):
        image = Image.new("RGB", (40, 60))
        image.paste((255, 0, 0), BOXES["left"])
        image.paste((0, 0, 255), BOXES["right"])
        return image

    def parts(self, ref):
        return list(BOXES)

    def read_mask(self, ref, part="whole"):
        mask = Image.new("L", (40, 60))
        for name in BOXES if part == "whole" else [part]:
            mask.paste(255, BOXES[name])
        return mask


@pytest.fixture(scope="module")
def flags():
    columns = {
        "product_id": ["a", "b"],
        "image": ["0", "1"],
        "text": ["x", "x"],
        "split": ["val", "test"],
        "mask": "01",
    }
    return Catalogue.build(Card("flags"), columns | {"pixels": ["p", "q"], "mask": ["0", "1"]}, Flags())


def test_a_perfect_method_has_perfect_scores_and_words_stand_for_parts(flags):
    words = {"left": "red field", "right": "blue field"}
    result = task(methods={"seen": Seen()}, words=words, resolution=60)(ModelEmbedder(OneHot()), flags, "test")
    assert result.metrics["seen/pointing"].value == 1
    assert result.metrics["seen/pixel_ap"].value > 0.98  # the edges are blurred
    assert result.metrics["seen/iou"].value > 0.9
    assert result.metrics["foreground/pixel_ap"].value == pytest.approx(0.5, abs=0.3)
    assert [row[0] for row in result.tables["phrases"]["rows"]] == ["red field", "blue field"]
    assert result.protocol["phrases"] == words


def test_occlusion_finds_the_colour_that_the_phrase_names(flags):
    words = {"left": "red field", "right": "blue field"}
    result = task(methods={"occlusion": Occlusion()}, words=words)(ModelEmbedder(OneHot()), flags, "test")
    assert result.metrics["occlusion/pointing"].value > result.metrics["foreground/pointing"].value


def test_a_method_that_the_model_has_no_means_for_is_skipped_and_recorded(flags):
    methods = {"gradcam": GradCam(), "seen": Seen(), "patches": PatchText()}
    result = task(methods=methods)(ModelEmbedder(OneHot()), flags, "test")
    assert set(result.protocol["skipped"]) == {"gradcam", "patches"}
    assert "OneHot has no patch embeddings" in result.protocol["skipped"]["patches"]
    assert result.primary == "seen/pointing"
    del methods["seen"]
    with pytest.raises(ModisteError, match="No grounding method supports this model: OneHot"):
        task(methods=methods)(ModelEmbedder(OneHot()), flags, "test")


def test_a_map_that_is_not_finite_is_an_error(flags):
    class Broken(Seen):
        def __call__(self, model, pixels, texts):
            return super().__call__(model, pixels, texts) * float("nan")

    with pytest.raises(ModisteError, match="not finite"):
        task(methods={"seen": Seen(), "broken": Broken()})(ModelEmbedder(OneHot()), flags, "test")


def test_what_cannot_be_evaluated_says_what_to_do(model, garments):
    with pytest.raises(ModisteError, match="give run=DIR or model=NAME"):
        task()(SimpleNamespace(texts=None), garments, "test")
    with pytest.raises(ModisteError, match="no rows in split 'dev'"):
        task(threshold_split="dev")(ModelEmbedder(model), garments, "test")
    with pytest.raises(ModisteError, match="at least one method"):
        task(methods={"centre": PatchText()})
    with pytest.raises(ModisteError, match=r"one \{\} for the phrase"):
        task(prompts=["a photo"])


def test_the_configuration_takes_words_and_prompts_from_the_data():
    cfg = compose("evaluate", ["data=ccp", "task=[grounding]", "task.grounding.methods.gradcam=null"])
    built = instantiate(cfg.task.grounding)
    assert list(built.methods) == ["occlusion", "patches"]
    assert built.words["dress"] == "a dress"
    assert built.prompts == list(cfg.data.prompts.parts)
    drawn = instantiate(compose("evaluate", ["data=synthetic", "task=[grounding]"]).task.grounding)
    assert (drawn.words, drawn.prompts) == ({}, ["a drawing of {}"])
    with pytest.raises(ModisteError, match="validation does not compute"):
        validate(compose("train", ["task=[grounding]"]))
