import json
import os
import pickle

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from helpers.tiny_encoders import at_twice_the_size, save_clip, save_siglip, without_gradient
from modiste.errors import ModisteError
from modiste.models.preprocess import Preprocess
from modiste.pretrained.transformers import TransformersDualEncoder, preprocess_of


@pytest.fixture(scope="module")
def clip(clip_dir):
    return TransformersDualEncoder(str(clip_dir))


@pytest.fixture(scope="module")
def siglip(siglip_dir):
    return TransformersDualEncoder(str(siglip_dir))


def reference(path, images):
    """What transformers itself gives: (model, pixels, image features, tokenizer)."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(path)
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    assert type(processor).__name__.endswith("Pil")
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.get_image_features(pixel_values=pixels).pooler_output
    return model, pixels, features, AutoTokenizer.from_pretrained(path)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_images_equal_transformers(family, images, request):
    """PIL image → pixels and → embedding are those of the model's own processor and model, in every shape."""
    encoder = request.getfixturevalue(family)
    _, pixels, features, _ = reference(request.getfixturevalue(f"{family}_dir"), images)
    ours = torch.stack([encoder.preprocess(image) for image in images])
    assert ours.dtype == torch.uint8
    torch.testing.assert_close(encoder.preprocess.normalise(ours), pixels, atol=1e-5, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_image(ours), F.normalize(features), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "crop"), [(45, 32), (99, 52), (35, 32)])
def test_crop_smaller_than_the_short_side(tmp_path, images, side, crop):
    """A margin that rounds (45-32 is odd; int(52 / (52/99)) is 98) gives the processor's pixels all the same."""
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": crop, "width": crop})
    preprocess = preprocess_of(processor)
    ours = preprocess.normalise(torch.stack([preprocess(image) for image in images]))
    torch.testing.assert_close(ours, processor(images=images, return_tensors="pt")["pixel_values"], atol=1e-5, rtol=0)


def test_crops_of_transformers_and_torchvision_differ():
    """A margin of 3 pixels begins at 1 for transformers and at 2 for torchvision, and `crop` says which."""
    from torchvision.transforms.functional import center_crop

    image = Image.linear_gradient("L").resize((32, 35)).convert("RGB")
    floor, rounded = Preprocess(32, crop="floor")(image), Preprocess(32, crop="round")(image)
    assert not torch.equal(floor, rounded)
    assert torch.equal(rounded, Preprocess(32)(center_crop(image, [32, 32])))


@pytest.mark.parametrize("eos", [2, 513])
def test_clip_text_padded_to_longest_equals_padded_to_77(tmp_path, texts, eos):
    """Padding is invisible to a causal tower that pools at the end-of-text token, in the old and the new config."""
    path = save_clip(tmp_path, eos=eos)
    encoder = TransformersDualEncoder(str(path))
    model, _, _, tokenizer = reference(path, [Image.new("RGB", (8, 8))])
    captions = [*texts, "very " * 100 + "long"]
    wanted = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    tokens = encoder.tokenizer(texts)
    assert tokens["input_ids"].shape[1] < 77
    with torch.no_grad():
        features = F.normalize(model.get_text_features(**wanted).pooler_output)
        torch.testing.assert_close(encoder.encode_text(tokens), features[:3], atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder.encode_text(encoder.tokenizer(captions)), features, atol=1e-5, rtol=0)
    assert encoder.tokenizer(captions)["input_ids"].shape == (4, 77)


def test_siglip_text_padded_to_64_without_mask_and_lower_case(siglip, siglip_dir, texts):
    """SigLIP pools the last position, padding included, and was trained on lower case."""
    model, _, _, tokenizer = reference(siglip_dir, [Image.new("RGB", (8, 8))])
    lower = [text.lower() for text in texts]
    wanted = tokenizer(lower, padding="max_length", truncation=True, max_length=64, return_tensors="pt")["input_ids"]
    tokens = siglip.tokenizer(texts)
    assert set(tokens) == {"input_ids"}
    assert torch.equal(tokens["input_ids"], wanted)
    assert not torch.equal(
        wanted, tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    )
    with torch.no_grad():
        features = model.get_text_features(input_ids=wanted).pooler_output
        torch.testing.assert_close(siglip.encode_text(tokens), F.normalize(features), atol=1e-5, rtol=0)


def test_tokenizer_is_picklable(clip, texts):
    copy = pickle.loads(pickle.dumps(clip.tokenizer))
    assert torch.equal(copy(texts)["input_ids"], clip.tokenizer(texts)["input_ids"])


def test_scale_and_bias_come_from_the_weights(clip, siglip):
    assert clip.embed_dim == 16
    assert clip.initial_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert clip.initial_bias is None
    assert siglip.embed_dim == 32
    assert siglip.initial_scale == pytest.approx(siglip.model.logit_scale.exp().item())
    assert siglip.initial_bias == pytest.approx(siglip.model.logit_bias.item())


@pytest.mark.parametrize(("family", "counts"), [("clip", (4, 5)), ("siglip", (4, 4))])
def test_layer_groups_partition_the_towers(family, counts, request):
    """Every parameter but scale and bias is in exactly one group; those two are frozen."""
    encoder = request.getfixturevalue(family)
    towers = [encoder.layer_groups("image"), encoder.layer_groups("text")]
    assert tuple(len(groups) for groups in towers) == counts
    items = [item for groups in towers for group in groups for item in group]
    found = [id(p) for item in items for p in ([item] if isinstance(item, torch.nn.Parameter) else item.parameters())]
    rest = {name for name, p in encoder.named_parameters() if id(p) not in found}
    assert len(found) == len(set(found))
    assert rest <= {"model.logit_scale", "model.logit_bias"}
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == rest


def test_layer_groups_are_in_order(clip):
    model = clip.model
    first, *blocks, last = clip.layer_groups("image")
    assert first == [model.vision_model.embeddings, model.vision_model.pre_layrnorm]
    assert blocks == [[block] for block in model.vision_model.encoder.layers]
    assert last == [model.vision_model.post_layernorm, model.visual_projection]
    assert clip.layer_groups("text")[-1] == [model.text_model.final_layer_norm, model.text_projection]


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_every_trainable_parameter_gets_a_gradient(family, images, texts, request):
    encoder = request.getfixturevalue(family)
    assert without_gradient(encoder, images[:3], texts) == []


def test_clip_patches_are_the_projected_tokens(clip, images):
    pixels = torch.stack([clip.preprocess(image) for image in images[:2]])
    with torch.no_grad():
        patches = clip.encode_patches(pixels)
        vision = clip.model.vision_model
        hidden = vision(pixel_values=clip.preprocess.normalise(pixels)).last_hidden_state
        wanted = F.normalize(clip.model.visual_projection(vision.post_layernorm(hidden[1, 1 + 4 * 2 + 3])), dim=0)
    assert patches.shape == (2, 4, 4, 16)
    torch.testing.assert_close(patches[1, 2, 3], wanted, atol=1e-5, rtol=0)


def test_siglip_patch_of_a_one_patch_image_is_its_embedding(tmp_path, images):
    encoder = TransformersDualEncoder(str(save_siglip(tmp_path, image_size=16, patch_size=16)))
    pixels = torch.stack([encoder.preprocess(image) for image in images[:3]])
    with torch.no_grad():
        patches, whole = encoder.encode_patches(pixels), encoder.encode_image(pixels)
    assert patches.shape == (3, 1, 1, 32)
    torch.testing.assert_close(patches[:, 0, 0], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_another_size_interpolates_the_positions(family, request):
    encoder = request.getfixturevalue(family)
    wide, pixels, _ = at_twice_the_size(encoder)
    with torch.no_grad():
        wanted = encoder.model.get_image_features(
            pixel_values=encoder.preprocess.normalise(pixels), interpolate_pos_encoding=True
        ).pooler_output
        torch.testing.assert_close(wide.encode_image(pixels), F.normalize(wanted, dim=-1))


def test_describe_is_plain(clip, clip_dir):
    facts = json.loads(json.dumps(clip.describe()))
    assert facts["source"] == str(clip_dir)
    assert facts["preprocess"]["crop"] == "floor"


def test_half_precision_checkpoint_loads_in_float32(clip_dir, tmp_path):
    from transformers import CLIPModel

    copy_of(clip_dir, tmp_path)
    CLIPModel.from_pretrained(clip_dir).half().save_pretrained(tmp_path)
    assert {p.dtype for p in TransformersDualEncoder(str(tmp_path)).parameters()} == {torch.float32}


def test_pickled_weights_load_and_code_in_them_does_not_run(clip, clip_dir, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    copy_of(clip_dir, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = clip.model.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded = TransformersDualEncoder(str(tmp_path))
    assert torch.equal(loaded.model.visual_projection.weight, clip.model.visual_projection.weight)
    torch.save({**state, "trap": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModisteError, match="Cannot load"):
        TransformersDualEncoder(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_missing_weights_are_an_error_and_not_random(clip_dir, tmp_path):
    """Marqo's repositories hold a stub config.json next to open_clip weights: transformers would go on untrained."""
    from safetensors.torch import load_file, save_file

    copy_of(clip_dir, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModisteError, match=r"lacks 1 weights.*visual_projection.*model=open_clip"):
        TransformersDualEncoder(str(tmp_path))


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    for source in ["./nowhere", "/nowhere/at-all", "a/b/c", str(tmp_path / "x"), "nowhere/model.safetensors"]:
        with pytest.raises(ModisteError, match="does not exist"):
            TransformersDualEncoder(source)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(
        ModisteError, match=r"'fashion-clip' does not exist in the folder 'models'.*hf-hub:models/fashion-clip"
    ):
        TransformersDualEncoder("models/fashion-clip")
    with pytest.raises(ModisteError, match=r"no config\.json"):
        TransformersDualEncoder("models")
    with pytest.raises(ModisteError, match="neither a directory nor a hub id"):
        TransformersDualEncoder("fashion clip")


def test_unreachable_hub_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModisteError, match=r"hf download nobody/nothing --revision abc --local-dir DIR"):
        TransformersDualEncoder("nobody/nothing", revision="abc")


def test_other_models_are_refused(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    CLIPTextModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModisteError, match="not a dual encoder"):
        TransformersDualEncoder(str(tmp_path))


def test_preprocessing_that_cannot_be_reproduced_is_refused():
    from transformers import CLIPImageProcessorPil, Siglip2ImageProcessorPil

    with pytest.raises(ModisteError, match="not resize, crop, normalise"):
        preprocess_of(CLIPImageProcessorPil(rescale_factor=1 / 127.5))
    with pytest.raises(ModisteError, match="not supported"):
        preprocess_of(CLIPImageProcessorPil(do_center_crop=False))
    with pytest.raises(ModisteError, match="not supported"):
        preprocess_of(Siglip2ImageProcessorPil())


def test_another_family_of_auto_model(clip_dir, tmp_path, images, texts):
    """ChineseCLIP: a BERT text tower that pads to the longest with an attention mask."""
    from transformers import BertTokenizer, ChineseCLIPConfig, ChineseCLIPImageProcessor, ChineseCLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_hidden_layers": 2}
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + letter for letter in letters)]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path)
    config = ChineseCLIPConfig(
        text_config={**tower, "vocab_size": len(words), "max_position_embeddings": 52},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    ChineseCLIPModel(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    ChineseCLIPImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path)
    encoder = TransformersDualEncoder(str(tmp_path))
    with torch.no_grad():
        together = encoder.encode_text(encoder.tokenizer(texts))
        alone = torch.cat([encoder.encode_text(encoder.tokenizer([text])) for text in texts])
        image = encoder.encode_image(encoder.preprocess(images[0]).unsqueeze(0))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert image.shape == (1, encoder.embed_dim) == (1, 16)


def copy_of(source, target):
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
