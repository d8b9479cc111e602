"""Each layout, loaded by the peer's own loader and by modiste, embeds smooth noise and texts as the model does.

`test_real_photos` compares them on photos.
"""

import json

import numpy as np
import pytest
import torch

from helpers.tiny_encoders import TEXTS, pictures, save_clip, save_siglip
from helpers.tiny_export import towers
from helpers.tiny_models import two_tower
from modiste.embedding.embedder import fingerprint
from modiste.errors import ModisteError
from modiste.export import export
from modiste.export.inputs import Inputs
from modiste.models.load import load
from modiste.pretrained.transformers import TransformersDualEncoder

IMAGES = [picture.convert("RGB") for picture in pictures() if min(picture.size) > 8]
WORDS = [*TEXTS, "a red dress for women", "blue jeans"]
INPUTS = Inputs(IMAGES, WORDS, "pictures of the test")
EXACT = 0.99999


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    return towers(tmp_path_factory.mktemp("tokenizer"), resize="pad", mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """Cut out of the middle, as most weights of timm expect it; with ImageNet's own mean of each channel."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return towers(tmp_path_factory.mktemp("tokenizer"), resize="shortest", crop_pct=0.875, mean=mean, std=std)


def ours(model):
    with torch.inference_mode():
        pixels = torch.stack([model.preprocess(image) for image in IMAGES])
        return model.encode_image(pixels), model.encode_text(model.tokenizer(WORDS))


def near(theirs, model, floor=EXACT):
    for mine, other in zip(ours(model), theirs, strict=True):
        other = torch.as_tensor(np.asarray(other)).float()
        assert torch.nn.functional.cosine_similarity(mine, other).min().item() > floor


def loads_back(exported, model, floor=EXACT):
    back = load(exported.path)
    near(ours(back.model), model, floor)
    return back.model


def written(exported):
    return json.loads((exported.path / "modiste.json").read_text())


@pytest.mark.parametrize("kind", ["padded", "cropped"])
def test_sentence_transformers_is_exact_with_its_own_preprocessing(kind, request, tmp_path):
    sbert = pytest.importorskip("sentence_transformers")
    model = request.getfixturevalue(kind)
    exported = export(model, "sentence_transformers", tmp_path / "out", inputs=INPUTS)
    loaded = sbert.SentenceTransformer(str(exported.path), device="cpu")
    near((loaded.encode(IMAGES), loaded.encode(WORDS)), model)
    assert not list(exported.path.glob("**/*.py"))
    assert exported.warnings == []
    assert loads_back(exported, model).preprocess.resize == model.preprocess.resize


def test_sentence_transformers_has_no_white_for_channels_of_several_means_and_says_the_number(tmp_path):
    pytest.importorskip("sentence_transformers")
    model = towers(tmp_path / "tokenizer", resize="pad", mean=[0.485, 0.456, 0.406])
    with pytest.raises(ModisteError, match=r"too far from the model: image cosine .* < min_cosine.image=0.995"):
        export(model, "sentence_transformers", tmp_path / "out", inputs=INPUTS)
    assert not (tmp_path / "out").exists()
    low = {"image": -1.0, "text": 0.999}
    exported = export(model, "sentence_transformers", tmp_path / "out", inputs=INPUTS, min_cosine=low)
    assert "close to the model's, but not equal: cosine" in exported.warnings[0]
    assert exported.warnings[0] in (exported.path / "README.md").read_text()


def test_open_clip_is_exact_where_it_knows_the_preprocessing(padded, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    exported = export(padded, "open_clip", tmp_path / "out", inputs=INPUTS)
    name = f"local-dir:{exported.path}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with torch.inference_mode():
        images = model.encode_image(torch.stack([transform(image) for image in IMAGES]))
        near((images, model.encode_text(tokenizer(WORDS))), padded)
    assert model.logit_scale.exp().item() == pytest.approx(20.0)
    assert loads_back(exported, padded).initial_scale == pytest.approx(20.0)


def test_open_clip_has_no_crop_pct_and_is_refused_with_the_number(cropped, tmp_path):
    pytest.importorskip("open_clip")
    with pytest.raises(ModisteError, match=r"image cosine \S+ < min_cosine.image=0.995. open_clip knows no crop_pct"):
        export(cropped, "open_clip", tmp_path / "out", inputs=INPUTS)


def test_open_clip_refuses_what_its_configuration_cannot_describe(tmp_path):
    pytest.importorskip("open_clip")
    model = towers(tmp_path / "tokenizer", image="test_vit", size=64)
    with pytest.raises(ModisteError, match=r"made with .*img_size.*use format=sentence_transformers"):
        export(model, "open_clip", tmp_path / "out", inputs=INPUTS)


def test_open_clip_names_the_repository_that_it_is_meant_for(padded, tmp_path):
    pytest.importorskip("open_clip")
    exported = export(padded, "open_clip", tmp_path / "out", inputs=INPUTS, repo_id="somebody/model")
    config = json.loads((exported.path / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == "somebody/model"
    moved = exported.path.rename(tmp_path / "moved")
    near(ours(load(moved).model), padded)


@pytest.mark.parametrize("kind", ["padded", "cropped"])
def test_transformers_is_exact_with_its_processor(kind, request, tmp_path):
    from transformers import AutoModel, AutoProcessor

    model = request.getfixturevalue(kind)
    exported = export(model, "transformers", tmp_path / "out", inputs=INPUTS)
    loaded = AutoModel.from_pretrained(exported.path, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(exported.path, trust_remote_code=True)
    inputs = processor(text=WORDS, images=IMAGES, return_tensors="pt")
    with torch.inference_mode():
        output = loaded(**inputs)
    near((output.image_embeds, output.text_embeds), model)
    torch.testing.assert_close(output.logits_per_image, 20 * output.image_embeds @ output.text_embeds.T)
    assert fingerprint(loads_back(exported, model)) == fingerprint(model)


@pytest.mark.parametrize("pooling", ["cls", "last"])
@pytest.mark.parametrize("format", ["transformers", "sentence_transformers"])
def test_every_pooling_is_exported(format, pooling, tmp_path):
    model = towers(tmp_path / "tokenizer", pooling=pooling)
    loads_back(export(model, format, tmp_path / "out", inputs=INPUTS), model)


def test_transformers_needs_no_code_of_the_folder_where_modiste_is_installed(padded, tmp_path):
    from transformers import AutoModel

    from modiste.export.transformers import register

    exported = export(padded, "transformers", tmp_path / "out", inputs=INPUTS)
    register()
    assert type(AutoModel.from_pretrained(exported.path)).__module__.startswith("modiste.")


def test_transformers_pipeline_of_zero_shot_classification_takes_the_folder(padded, tmp_path):
    from transformers import pipeline

    exported = export(padded, "transformers", tmp_path / "out", inputs=INPUTS)
    classify = pipeline("zero-shot-image-classification", model=str(exported.path), trust_remote_code=True)
    found = classify(IMAGES[0], candidate_labels=WORDS, hypothesis_template="{}")
    images, texts = ours(padded)
    wanted = (20 * images[0] @ texts.T).softmax(0)
    assert {row["label"]: row["score"] for row in found} == pytest.approx(
        dict(zip(WORDS, wanted.tolist(), strict=True)), abs=1e-4
    )


@pytest.mark.parametrize("save", [lambda path: save_clip(path, eos=2), save_siglip])
@pytest.mark.parametrize("format", ["transformers", "sentence_transformers"])
def test_published_families_keep_their_own_class(save, format, tmp_path):
    if format == "sentence_transformers":
        pytest.importorskip("sentence_transformers")
    (tmp_path / "hub").mkdir()
    model = TransformersDualEncoder(str(save(tmp_path / "hub"))).eval()
    model.initial_scale = 33.0
    low = {"image": 0.999, "text": 0.999}
    exported = export(model, format, tmp_path / "out", inputs=INPUTS, min_cosine=low)
    assert not list(exported.path.glob("**/*.py"))
    back = loads_back(exported, model, 0.999)
    if format == "transformers":
        assert back.initial_scale == pytest.approx(33.0)


def test_open_clip_models_go_back_to_open_clip(tmp_path):
    pytest.importorskip("open_clip")
    from helpers.tiny_openclip import CLIP, save
    from modiste.pretrained.openclip import OpenClipDualEncoder

    (tmp_path / "hub").mkdir()
    model = OpenClipDualEncoder(str(save(tmp_path / "hub", CLIP)))
    loads_back(export(model, "open_clip", tmp_path / "out", inputs=INPUTS), model)


@pytest.fixture(scope="module")
def grounded(tmp_path_factory):
    """With a projection of patches, as `experiment=kagl_ground` trains one."""
    stages = {"patch_stages": [-2, -1], "output_stride": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    return towers(tmp_path_factory.mktemp("tokenizer"), image="efficientnet_lite0", resize="pad", **stages)


def test_hub_holds_the_projection_of_patches(grounded, tmp_path):
    exported = export(grounded, "hub", tmp_path / "out", inputs=INPUTS)
    assert exported.warnings == []
    back = loads_back(exported, grounded)
    assert fingerprint(back) == fingerprint(grounded)
    pixels = torch.stack([grounded.preprocess(image) for image in IMAGES])
    with torch.inference_mode():
        assert torch.equal(back.encode_patches(pixels), grounded.encode_patches(pixels))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["sentence_transformers", "transformers", "onnx", "openvino", "transformers_js"])
def test_other_layouts_say_that_the_projection_of_patches_is_not_in_them(format, grounded, tmp_path):
    for package in {"onnx": ["onnxscript"], "transformers_js": ["onnxscript"]}.get(format, [format]):
        pytest.importorskip(package)
    low = {"image": 0.99, "text": 0.999}  # another value in one pixel of a thousand turns such random weights by 0.003
    exported = export(grounded, format, tmp_path / "out", inputs=INPUTS, min_cosine=low)
    assert "patch projection" in exported.warnings[-1]
    assert exported.warnings[-1] in (exported.path / "README.md").read_text()
    loads_back(exported, grounded)
    assert grounded.patch_head is not None  # the model itself is left alone


def test_open_clip_refuses_a_dilated_network(grounded, tmp_path):
    pytest.importorskip("open_clip")
    with pytest.raises(ModisteError, match=r"made with .*output_stride"):
        export(grounded, "open_clip", tmp_path / "out", inputs=INPUTS)


@pytest.mark.parametrize("hashed", [False, True])
def test_hub_is_bit_equal_for_files_and_for_hashed_words(hashed, padded, tmp_path):
    from modiste.pretrained.exported import HubModel

    model = two_tower().eval() if hashed else padded
    exported = export(model, "hub", tmp_path / "out", inputs=INPUTS)
    loaded = HubModel.from_pretrained(str(exported.path)).model
    assert fingerprint(loaded) == fingerprint(model) == written(exported)["fingerprint"]
    for mine, other in zip(ours(model), ours(loaded), strict=True):
        assert torch.equal(mine, other)
    assert fingerprint(loads_back(exported, model)) == fingerprint(model)


@pytest.mark.parametrize("format", ["sentence_transformers", "open_clip", "transformers", "transformers_js"])
def test_hashed_words_have_no_files_and_are_refused_with_the_way_out(format, tmp_path):
    with pytest.raises(ModisteError, match="this model hashes words: use format=hub, onnx or openvino"):
        export(two_tower(), format, tmp_path / "out", inputs=INPUTS)
    assert not list(tmp_path.iterdir())


def test_low_rank_adapters_are_merged(tmp_path):
    from modiste.models.finetune import Tuning

    model = towers(tmp_path / "tokenizer", image="test_vit", size=64)
    for tower in ("image", "text"):
        Tuning("lora").apply(model, tower)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn_like(parameter) / 10)
    names = set(towers(tmp_path / "other", image="test_vit", size=64).state_dict())
    exported = export(model.eval(), "hub", tmp_path / "out", inputs=INPUTS)
    back = loads_back(exported, model)
    assert set(back.state_dict()) == names
    assert any(".lora_" in name for name in model.state_dict())  # the model itself is left alone


@pytest.mark.parametrize("format", ["hub", "sentence_transformers", "transformers", "open_clip"])
def test_bf16_halves_the_weights_and_says_how_near_it_is(format, padded, tmp_path):
    low = {"image": 0.99, "text": 0.99}
    exported = export(padded, format, tmp_path / "half", inputs=INPUTS, precision="bf16", min_cosine=low)
    whole = export(padded, format, tmp_path / "whole", inputs=INPUTS)
    sizes = [sum(f.stat().st_size for f in e.path.glob("**/*.safetensors")) for e in (exported, whole)]
    assert sizes[0] < 0.6 * sizes[1]
    assert 0.99 < exported.cosine["image"]["min"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["padded", "hashed"])
def test_onnx_takes_uint8_pixels_and_tokens_of_any_length(kind, padded, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = padded if kind == "padded" else two_tower().eval()
    exported = export(model, "onnx", tmp_path / "out", inputs=INPUTS)
    images, texts = (onnxruntime.InferenceSession(str(exported.path / f"{tower}.onnx")) for tower in ("image", "text"))
    pixels = torch.stack([model.preprocess(image) for image in IMAGES]).numpy()
    tokens = {name: tensor.numpy() for name, tensor in model.tokenizer(WORDS).items()}
    near((images.run(None, {"pixels": pixels})[0], texts.run(None, tokens)[0]), model)
    loads_back(exported, model)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "transformers_js"])
def test_int8_of_onnx_is_near_and_not_equal(format, padded, tmp_path):
    pytest.importorskip("onnxruntime")
    low = {"image": 0.9, "text": 0.9}
    exported = export(padded, format, tmp_path / "out", inputs=INPUTS, precision="int8", min_cosine=low)
    assert exported.cosine["text"]["min"] < 1
    loads_back(exported, padded, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_takes_uint8_pixels_and_tokens_of_any_length(precision, padded, tmp_path):
    pytest.importorskip("openvino")
    from modiste.utils.openvino import core

    low = {"image": 0.99, "text": 0.98}
    exported = export(padded, "openvino", tmp_path / "out", inputs=INPUTS, precision=precision, min_cosine=low)
    images, texts = (core().compile_model(exported.path / f"{tower}.xml", "CPU") for tower in ("image", "text"))
    pixels = torch.stack([padded.preprocess(image) for image in IMAGES]).numpy()
    tokens = {name: tensor.numpy() for name, tensor in padded.tokenizer(WORDS).items()}
    near((images({"pixels": pixels})[0], texts(tokens)[0]), padded, 0.98)
    loads_back(exported, padded, EXACT if precision == "fp32" else 0.98)
    weights = 4 * sum(parameter.numel() for parameter in padded.parameters())
    kept = sum(file.stat().st_size for file in exported.path.glob("*.bin")) / weights
    assert {"fp32": 0.9 < kept < 1.1, "bf16": kept < 0.6, "int8": kept < 0.9}[precision], kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["padded", "cropped"])
def test_transformers_js_resizes_in_its_program_as_the_model_does(kind, request, tmp_path):
    """Of any size, whatever its reader does to pictures: the processor is told to do nothing."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = request.getfixturevalue(kind)
    exported = export(model, "transformers_js", tmp_path / "out", inputs=INPUTS)
    steps = json.loads((exported.path / "preprocessor_config.json").read_text())
    assert not any(steps[f"do_{step}"] for step in ("resize", "center_crop", "rescale", "normalize"))
    program = onnxruntime.InferenceSession(str(exported.path / "onnx" / "vision_model.onnx"))
    raw = [np.asarray(image, np.float32).transpose(2, 0, 1)[None] for image in IMAGES]
    images = [program.run(None, {"pixel_values": pixels})[0][0] for pixels in raw]
    near((np.stack(images), ours(model)[1]), model)
    loads_back(exported, model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["padded", "cropped"])
def test_transformers_js_on_node(kind, request, tmp_path):
    from modiste.export.transformers_js import node_environment

    pytest.importorskip("onnxscript")
    if node_environment() is None:
        pytest.skip("no Node with @huggingface/transformers: npm install -g --ignore-scripts @huggingface/transformers")
    model = request.getfixturevalue(kind)
    size = model.preprocess.size
    prepared = [image.resize((size, size)) for image in IMAGES]
    exported = export(
        model, "transformers_js", tmp_path / "out", inputs=Inputs([*IMAGES, *prepared], WORDS, "pictures")
    )
    assert written(exported)["checked_by"] == "transformers.js on Node"
    assert exported.warnings == []
    assert exported.cosine["image"]["min"] > EXACT
    assert exported.cosine["text"]["min"] > EXACT
    loads_back(exported, model)
