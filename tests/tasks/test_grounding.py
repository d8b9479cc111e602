"""The grounding task against a plain reimplementation of its protocol, on synthetic garments with true masks."""

import copy
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
from modiste.metrics.intervals import Interval
from modiste.models.dual_encoder import DualEncoder, TwoTower
from modiste.models.heatmaps import Cam, GradCam, Occlusion, PatchText, input_pixels, on_image
from modiste.models.preprocess import Preprocess
from modiste.tasks.grounding import PROMPTS, Grounding, grounds, verdict
from modiste.tasks.grounding_maps import Scan, remembering
from modiste.tasks.zeroshot import ZeroShot

METRICS = ("pointing", "iou", "pixel_ap", "box_iou")
KINDS = ("/minus_mean", "/own_mean", "/wrong_phrase", "/absent_phrase", "/other_photo")
BASELINES = ("prior", "centre", "foreground")


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
        "size": None,
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
    maps = ["occlusion", "gradcam", *BASELINES]
    maps += [f"{method}{kind}" for method in ("occlusion", "gradcam") for kind in KINDS]
    names = [f"{name}/{metric}" for name in maps for metric in METRICS]
    assert list(result.per_query)[: len(names)] == names
    micro = [name for name in result.metrics if "macro_" not in name]
    assert [*micro, "cluster", "phrase"] == list(result.per_query)
    frequent = [*result.protocol["phrases"]].index(result.tables["phrases"]["rows"][0][0])
    assert (result.per_query["phrase"] == frequent).sum() == result.tables["phrases"]["rows"][0][1]
    assert {name.replace("macro_", "") for name in result.metrics if "macro_" in name} == set(micro)
    assert (result.primary, result.summary) == ("occlusion/pointing", ["pointing"])
    table = result.tables["phrases"]
    pointing = [f"{name}/pointing" for name in maps]
    ends = [f"{name}/pointing_{end}" for name in ("occlusion", "gradcam") for end in ("low", "high")]
    assert table["columns"] == ["phrase", "pairs", *pointing, *ends]
    counts = [row[1] for row in table["rows"]]
    assert sum(counts) == result.counts["test/queries"]
    assert counts == sorted(counts, reverse=True)
    mean = sum(row[1] * row[2] for row in table["rows"]) / sum(counts)
    assert mean == pytest.approx(result.metrics["occlusion/pointing"].value)
    assert result.protocol["methods"]["occlusion"]["step"] == 75
    assert list(result.protocol["thresholds"]) == maps
    macro = sum(row[2] for row in table["rows"]) / len(table["rows"])
    assert macro == pytest.approx(result.metrics["occlusion/macro_pointing"].value)
    assert result.counts["val/images"] <= 6
    assert list(result.pictures) == ["heat maps", "best of occlusion", "worst of occlusion"]
    assert result.pictures["heat maps"].width > 400
    result.to_json()


def test_small_masks_are_excluded_and_counted(model, garments):
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


class TrueMasks:
    """The true masks as maps: knows a photo by its pixels, and a part by its phrase's vector."""

    def __init__(self, catalogue, vectors):
        self.vectors = vectors
        side = max(catalogue.read_image(0).size)
        model = SimpleNamespace(preprocess=Preprocess(size=side))
        self.rows = {input_pixels(model, catalogue.read_image(i)).numpy().tobytes(): i for i in range(len(catalogue))}
        self.catalogue = catalogue

    def describe(self):
        return {"method": "true masks"}

    def __call__(self, model, pixels, texts):
        row = self.rows[pixels.numpy().tobytes()]
        maps = torch.zeros(len(texts), *pixels.shape[1:])
        for heat, text in zip(maps, texts, strict=True):
            part = max(self.vectors, key=lambda name: float(self.vectors[name] @ text))
            if part in self.catalogue.parts(row):
                mask = torch.from_numpy(np.asarray(self.catalogue.read_mask(row, part)) / 255)
                top, left = ((outer - inner) // 2 for outer, inner in zip(heat.shape, mask.shape, strict=True))
                heat[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return maps


@pytest.mark.parametrize("name", ["garments", "flags"])
def test_true_masks_at_full_resolution_have_pointing_one(name, model, request):
    catalogue = request.getfixturevalue(name)
    encoder, words = (model, {}) if name == "garments" else (OneHot(), {"left": "red field", "right": "blue field"})
    parts = sorted({part for i in range(len(catalogue)) for part in catalogue.parts(i)})
    vectors = ZeroShot.class_vectors(ModelEmbedder(encoder), [words.get(part, part) for part in parts], PROMPTS)
    side = max(catalogue.read_image(0).size)
    method = TrueMasks(catalogue, dict(zip(parts, vectors, strict=True)))
    encoder.preprocess = Preprocess(size=side) if name == "flags" else encoder.preprocess
    result = task(methods={"true": method}, words=words, resolution=side, size=side)(
        ModelEmbedder(encoder), catalogue, "test"
    )
    for metric in METRICS:
        assert set(result.per_query[f"true/{metric}"]) == {1.0}
    assert result.metrics["true/wrong_phrase/pointing"].value < 0.5
    assert result.metrics["true/own_mean/pointing"].value < 1


SHAPES = [(40, 60), (60, 40), (60, 60), (30, 60), (60, 20)]


class Flat(Flags):
    """Flags of several shapes; the blue field is on the first three."""

    def read(self, ref):
        return super().read(ref).resize(SHAPES[int(ref)])

    def parts(self, ref):
        return list(BOXES) if int(ref) < 3 else ["left"]

    def read_mask(self, ref, part="whole"):
        return super().read_mask(ref, part).resize(SHAPES[int(ref)], Image.Resampling.NEAREST)


def test_controls_equal_means_and_maps_of_the_other_photos_in_the_padded_square():
    """Own mean, other photo, prior and the subtracted mean, by loops over whole squares."""
    columns = {"product_id": list("abcde"), "image": list("01234"), "text": ["x"] * 5, "mask": list("01234")}
    shapes = Catalogue.build(Card("shapes"), columns | {"pixels": list("abcde"), "split": ["val"] * 5}, Flat())
    generator = torch.Generator().manual_seed(0)
    random = {size: torch.rand(2, 9, 9, generator=generator) for size in range(5)}

    class Random(Seen):
        photo = 0

        def __call__(self, model, pixels, texts):
            return torch.stack([random[Random.photo][int(text[2])] for text in texts])

    scan = Scan(
        OneHot(), {"random": Random()}, {"left": torch.eye(3)[0], "right": torch.eye(3)[2]}, {"val": shapes},
        resolution=60, min_area=0, mean_weight=0.5, seed=0, bf16=False,
        progress=lambda items, *_: items,
    )  # fmt: skip
    inner = scan._photo

    def photo(rows, i, present):
        Random.photo = i
        return inner(rows, i, present)

    scan._photo = photo
    squares = np.full((2, 2, 5, 60, 60), np.nan)  # kind, part, photo
    for i, (width, height) in enumerate(SHAPES):
        top, left = (60 - height) // 2, (60 - width) // 2
        window = slice(top, top + height), slice(left, left + width)
        for k, part in enumerate(shapes.parts(i)):
            squares[0, k, i][window] = on_image(random[i][k : k + 1], (width, height), (height, width))[0]
            squares[1, k, i][window] = np.asarray(shapes.read_mask(i, part)) > 0

    def scale(heat):
        return (heat - heat.min()) / max(heat.max() - heat.min(), 1e-30)

    seen = 0
    for found, maps in scan.maps("val", "val"):
        i, (height, width) = found.position, found.shape
        top, left = (60 - height) // 2, (60 - width) // 2
        for k, part in enumerate(found.parts):
            others = [j for j in range(5) if j != i and part in shapes.parts(j)]
            covered = np.maximum((~np.isnan(squares[:, k, others])).sum(axis=1), 1)
            mean, mask = (np.nansum(squares[:, k, others], axis=1) / covered)[
                :, top : top + height, left : left + width
            ]
            own = squares[0, k, i][top : top + height, left : left + width]
            np.testing.assert_allclose(maps["random"][k], own, atol=1e-6)
            np.testing.assert_allclose(maps["random/own_mean"][k], scale(mean), atol=1e-5)
            np.testing.assert_allclose(maps["random/minus_mean"][k], scale(own - 0.5 * mean), atol=1e-5)
            np.testing.assert_allclose(maps["prior"][k], scale(mask), atol=1e-6)
            moved = [scale(np.nan_to_num(squares[0, k, j])[top : top + height, left : left + width]) for j in others]
            assert any(np.allclose(maps["random/other_photo"][k], one, atol=1e-5) for one in moved)
            wrong = on_image(random[i][1 - k : 2 - k], (width, height), (height, width))[0]
            for name in ("wrong_phrase", "absent_phrase"):  # there are two phrases
                np.testing.assert_allclose(maps[f"random/{name}"][k], wrong, atol=1e-6)
            seen += 1
    assert seen == 8


def test_a_wrong_phrase_is_elsewhere_on_the_photo_and_an_absent_one_is_not(model, garments):
    names = sorted({part for i in range(len(garments)) for part in garments.parts(i)})
    scan = Scan.__new__(Scan)
    scan.vectors, scan.seed = dict.fromkeys(names), 0
    for i in range(len(garments)):
        parts = garments.parts(i)
        found = scan._other_phrases(i, parts, parts)
        assert found == scan._other_phrases(i, parts, parts)
        wrong, absent = found[: len(parts)], found[len(parts) :]
        assert all(name in parts and name != part for name, part in zip(wrong, parts, strict=True))
        assert not set(absent) & set(parts)
    assert set(scan._other_phrases(0, names[:1], names[:1])) <= set(names[1:])
    assert scan._other_phrases(0, names, names)[len(names) :] != names


def test_methods_share_the_patch_features_of_a_photo(model):
    calls = []
    inner = model.patch_features
    counting = copy.copy(model)
    counting.patch_features = lambda pixels: calls.append(len(pixels)) or inner(pixels)
    shared = remembering(counting)
    texts, pixels = torch.eye(8)[:2], torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    maps = [[method(shared, one, texts) for method in (PatchText(), Cam())] for one in pixels]
    assert calls == [1, 1]
    for one, found in zip(pixels, maps, strict=True):
        for method, heat in zip((PatchText(), Cam()), found, strict=True):
            torch.testing.assert_close(heat, method(model, one, texts))


def test_the_verdict_is_about_the_own_mean_and_the_wrong_phrase(flags):
    def metrics(mean, wrong):
        names = {"own_mean": mean, "wrong_phrase": wrong, "prior": -1}
        found = {f"m/gain_over_{name}": Interval(low + 0.1, low, low + 0.2, 9) for name, low in names.items()}
        return found | {name: Interval(0.4, 0.3, 0.5, 9) for name in ("m/pointing", "prior/pointing")}

    assert grounds(metrics(0.01, 0.01), "m")
    assert not grounds(metrics(0.0, 0.01), "m")
    assert not grounds(metrics(0.01, -0.01), "m")
    assert verdict(metrics(-0.05, 0.02), "m") == (
        "m does not ground: its pointing, 0.400, does not beat its own mean map (+0.050 [-0.050, +0.150]) and beats "
        "a wrong phrase's map (+0.120 [+0.020, +0.220]); it is below the position prior (0.400), which sees no photo."
    )


def test_the_input_has_the_size_of_the_task_where_the_model_takes_it(model, garments, flags):
    result = task(size=96)(ModelEmbedder(model), garments, "test")
    assert result.protocol["input_size"] == {"pixels": 96, "kept": ""}
    assert result.metrics != task()(ModelEmbedder(model), garments, "test").metrics
    fixed = task(methods={"seen": Seen()}, size=96)(ModelEmbedder(OneHot()), flags, "test")
    assert fixed.protocol["input_size"] == {"pixels": 32, "kept": "OneHot only takes images of 32 pixels"}


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
    with pytest.raises(ModisteError, match="skip names an unknown method, 'occlusion': use patches, gradcam"):
        task(skip=["occlusion"])


def test_the_configuration_takes_words_and_prompts_from_the_data():
    cfg = compose("evaluate", ["data=ccp", "task=[grounding]", "task.grounding.skip=[gradcam]"])
    built = instantiate(cfg.task.grounding)
    assert list(built.methods) == ["patches", "cam", "occlusion"]
    assert built.size == 384
    assert built.words["dress"] == "a dress"
    assert built.prompts == list(cfg.data.prompts.parts)
    drawn = instantiate(compose("evaluate", ["data=synthetic", "task=[grounding]"]).task.grounding)
    assert (drawn.words, drawn.prompts) == ({}, ["a drawing of {}"])
    with pytest.raises(ModisteError, match="validation does not compute"):
        validate(compose("train", ["task=[grounding]"]))
