import argparse
import json
import pickle

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch.nn import functional as F

from helpers.tiny_encoders import at_twice_the_size, without_gradient
from helpers.tiny_openclip import CLIP, RESNET, save, save_siglip
from modiste.errors import ModisteError
from modiste.pretrained.openclip import OpenClipDualEncoder, preprocess_of


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    return save(tmp_path_factory.mktemp("openclip"), CLIP)


@pytest.fixture(scope="module")
def siglip_dir(tmp_path_factory):
    return save_siglip(tmp_path_factory.mktemp("openclip_siglip"))


@pytest.fixture(scope="module")
def resnet_dir(tmp_path_factory):
    return save(tmp_path_factory.mktemp("openclip_resnet"), RESNET, resize_mode="longest", fill_color=127)


@pytest.fixture(scope="module")
def clip(clip_dir):
    return OpenClipDualEncoder(str(clip_dir))


@pytest.fixture(scope="module")
def siglip(siglip_dir):
    return OpenClipDualEncoder(f"local-dir:{siglip_dir}")


@pytest.fixture(scope="module")
def resnet(resnet_dir):
    return OpenClipDualEncoder(str(resnet_dir))


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    """The tiny CLIP as an architecture that open_clip knows by name."""
    path = tmp_path_factory.mktemp("architecture") / "tiny-CLIP.json"
    path.write_text(json.dumps(CLIP))
    open_clip.add_model_config(path)
    return "tiny-CLIP"


@pytest.mark.parametrize("family", ["clip", "siglip", "resnet"])
def test_both_towers_equal_open_clip(family, images, texts, request):
    """PIL image → pixels → embedding and caption → embedding are those of open_clip's own transform and tokenizer."""
    encoder = request.getfixturevalue(family)
    name = f"local-dir:{request.getfixturevalue(family + '_dir')}"
    model, transform = open_clip.create_model_from_pretrained(name)
    model.eval()
    shapes = [image for image in images if min(image.size) > 8]  # open_clip rounds thinner ones to a width of zero
    pixels = torch.stack([transform(image) for image in shapes])
    ours = torch.stack([encoder.preprocess(image) for image in shapes])
    torch.testing.assert_close(encoder.preprocess.normalise(ours), pixels, atol=1e-5, rtol=0)
    with torch.no_grad():
        wanted = (
            model.encode_image(pixels, normalize=True),
            model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True),
        )
        torch.testing.assert_close(encoder.encode_image(ours), wanted[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder.encode_text(encoder.tokenizer(texts)), wanted[1], atol=1e-5, rtol=0)
    assert wanted[0].std(0).max() > 1e-3  # the images differ, so that equality says something


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocess_equals_open_clip(images, resize_mode, interpolation):
    config = PreprocessCfg(size=31, resize_mode=resize_mode, interpolation=interpolation, fill_color=9)
    transform, preprocess = image_transform_v2(config, is_train=False), preprocess_of(vars(config))
    for image in images:
        if min(image.size) > 8 or resize_mode != "longest":
            ours = preprocess.normalise(preprocess(image).unsqueeze(0))[0]
            torch.testing.assert_close(ours, transform(image), atol=1e-5, rtol=0)


def test_input_must_be_square():
    with pytest.raises(ModisteError, match="384×128"):
        preprocess_of({"size": (384, 128), "mean": (0.5,) * 3, "std": (0.5,) * 3})


def test_scale_bias_and_facts(clip, siglip, clip_dir):
    assert (clip.embed_dim, siglip.embed_dim) == (16, 32)
    assert clip.initial_scale == pytest.approx(1 / 0.07)
    assert (clip.initial_bias, siglip.initial_bias) == (None, -10)
    assert json.loads(json.dumps(clip.describe()))["source"] == str(clip_dir)
    assert not clip.training


def test_tokenizer_is_picklable(clip, siglip, texts):
    for encoder in (clip, siglip):
        copy = pickle.loads(pickle.dumps(encoder.tokenizer))
        assert torch.equal(copy(texts)["input_ids"], encoder.tokenizer(texts)["input_ids"])


@pytest.mark.parametrize(("family", "counts"), [("clip", (5, 4)), ("siglip", (4, 4)), ("resnet", (6, 4))])
def test_layer_groups_partition_the_towers(family, counts, request):
    encoder = request.getfixturevalue(family)
    towers = [encoder.layer_groups("image"), encoder.layer_groups("text")]
    assert tuple(len(groups) for groups in towers) == counts
    items = [item for groups in towers for group in groups for item in group]
    found = [id(p) for item in items for p in ([item] if isinstance(item, torch.nn.Parameter) else item.parameters())]
    rest = {name for name, p in encoder.named_parameters() if id(p) not in found}
    assert len(found) == len(set(found))
    assert rest <= {"model.logit_scale", "model.logit_bias"}
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == rest


def test_layer_groups_are_in_order(clip, siglip):
    visual = clip.model.visual
    first, *blocks, last = clip.layer_groups("image")
    assert first[0] is visual.conv1
    assert blocks == [[block] for block in visual.transformer.resblocks]
    assert [id(item) for item in last] == [id(visual.ln_post), id(visual.proj)]
    pool = {id(parameter) for parameter in siglip.model.visual.trunk.attn_pool.parameters()}
    assert {id(parameter) for parameter in siglip.layer_groups("image")[-1]} == pool


@pytest.mark.parametrize("family", ["clip", "siglip", "resnet"])
def test_every_trainable_parameter_gets_a_gradient(family, images, texts, request):
    encoder = request.getfixturevalue(family)
    assert without_gradient(encoder, images[:3], texts) == []


def test_clip_patches_are_the_projected_tokens(clip, images):
    pixels = torch.stack([clip.preprocess(image) for image in images[:2]])
    with torch.no_grad():
        patches = clip.encode_patches(pixels)
        visual = clip.model.visual
        hidden = visual.transformer(visual._embeds(clip.preprocess.normalise(pixels)))
        wanted = F.normalize(visual.ln_post(hidden[1, 1 + 4 * 2 + 3]) @ visual.proj, dim=0)
    assert patches.shape == (2, 4, 4, 16)
    torch.testing.assert_close(patches[1, 2, 3], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vision", [{}, {"timm_pool": "avg", "timm_proj": "linear"}])
def test_patch_of_a_one_patch_image_is_its_embedding(tmp_path, images, vision):
    """Attention pooling (SigLIP) and averaging of one patch are that patch."""
    encoder = OpenClipDualEncoder(str(save_siglip(tmp_path, "tiny_one_patch_trunk", 16, **vision)))
    pixels = torch.stack([encoder.preprocess(image) for image in images[:3]])
    with torch.no_grad():
        patches, whole = encoder.encode_patches(pixels), encoder.encode_image(pixels)
    assert patches.shape == (3, 1, 1, 32)
    torch.testing.assert_close(patches[:, 0, 0], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_another_size_interpolates_the_positions_and_shares_the_weights(family, request):
    encoder = request.getfixturevalue(family)
    wide, pixels, grid = at_twice_the_size(encoder)
    with torch.no_grad():
        whole = wide.encode_image(pixels)
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(1))
    own, other = dict(encoder.named_parameters()), dict(wide.named_parameters())
    changed = [name for name in own if own[name] is not other[name]]
    assert len(changed) == 1
    assert "pos" in changed[0]
    if family == "clip":
        token, places = own[changed[0]].detach().split([1, grid**2])
        places = places.T.reshape(1, -1, grid, grid)
        places = F.interpolate(places, (2 * grid, 2 * grid), mode="bicubic", antialias=True, align_corners=False)
        wanted = torch.cat([token, places[0].flatten(1).T])
        torch.testing.assert_close(other[changed[0]].detach(), wanted)


def test_a_resnet_with_attention_pooling_keeps_its_size(resnet):
    with pytest.raises(NotImplementedError, match="ModifiedResNet only takes images of"):
        resnet.at_size(384)


def test_a_resnet_has_no_patches(resnet):
    with pytest.raises(ModisteError, match="ModifiedResNet has no patch embeddings"):
        resnet.encode_patches(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("wrapper", ["CLIP", "state_dict", "module", "bare", "safetensors"])
def test_checkpoint_files(clip, architecture, tmp_path, wrapper):
    """The wrappers of training code come off: OpenFashionCLIP's key is CLIP, open_clip's are state_dict and module."""
    state = clip.model.state_dict()
    path = tmp_path / ("weights.safetensors" if wrapper == "safetensors" else "weights.pt")
    if wrapper == "safetensors":
        save_file(state, path)
    else:
        prefixed = {f"module.{key}": value for key, value in state.items()}
        wrapped = {"CLIP": {"CLIP": state, "epoch": 3}, "state_dict": {"epoch": 1, "state_dict": state}}
        torch.save({**wrapped, "module": {"state_dict": prefixed}, "bare": state}[wrapper], path)
    encoder = OpenClipDualEncoder(architecture, pretrained=str(path))
    assert encoder.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in encoder.model.state_dict().items())


def test_random_weights_only_when_asked_for(architecture):
    assert OpenClipDualEncoder(architecture, pretrained="random").embed_dim == 16
    with pytest.raises(ModisteError, match="pretrained is missing"):
        OpenClipDualEncoder(architecture)


def test_checkpoints_that_do_not_fit(clip, architecture, tmp_path):
    state = clip.model.state_dict()
    short = tmp_path / "short.pt"
    torch.save({key: value for key, value in state.items() if key != "visual.proj"}, short)
    with pytest.raises(ModisteError, match=r"1 missing.*visual\.proj"):
        OpenClipDualEncoder(architecture, pretrained=str(short))
    wide = tmp_path / "wide.pt"
    torch.save({**state, "visual.proj": torch.zeros(32, 8)}, wide)
    with pytest.raises(ModisteError, match="1 weights with another shape"):
        OpenClipDualEncoder(architecture, pretrained=str(wide))
    code = tmp_path / "code.pt"
    torch.save({"CLIP": state, "args": argparse.Namespace(lr=1)}, code)
    with pytest.raises(ModisteError, match="only tensors in plain containers"):
        OpenClipDualEncoder(architecture, pretrained=str(code))
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    with pytest.raises(ModisteError, match="Cannot load"):
        OpenClipDualEncoder(architecture, pretrained=str(text))


def test_sources_that_are_not_there(architecture, clip_dir, tmp_path):
    with pytest.raises(ModisteError, match="does not exist"):
        OpenClipDualEncoder("./nowhere")
    with pytest.raises(ModisteError, match="Did you mean 'ViT-B-32'"):
        OpenClipDualEncoder("ViT-B/23", pretrained="openai")
    with pytest.raises(ModisteError, match="Did you mean 'laion2b_s34b_b79k'"):
        OpenClipDualEncoder("ViT-B-32", pretrained="laion2b_s34b_b79")
    with pytest.raises(ModisteError, match="does not exist"):
        OpenClipDualEncoder(architecture, pretrained="weights.pt")
    with pytest.raises(ModisteError, match=r"no open_clip_config.json.*model\.pretrained"):
        OpenClipDualEncoder(str(tmp_path))
    with pytest.raises(ModisteError, match="already includes its weights"):
        OpenClipDualEncoder(str(clip_dir), pretrained="openai")


def test_a_directory_without_weights_is_an_error_and_not_random(clip_dir, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((clip_dir / "open_clip_config.json").read_text())
    with pytest.raises(ModisteError, match="Cannot load"):
        OpenClipDualEncoder(str(tmp_path))


def test_unreachable_hub_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModisteError, match=r"hf download Marqo/marqo-fashionCLIP --local-dir DIR"):
        OpenClipDualEncoder("hf-hub:Marqo/marqo-fashionCLIP")
