"""Gradient caching gives the gradients of the plain step; there is no second pass where none is needed."""

import collections
import copy

import pytest
import torch
from torch.nn import functional as F

from helpers.commands import TINY, modiste
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss
from modiste.models.dual_encoder import TwoTower
from modiste.models.finetune import Tuning
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.grad_cache import GradCache

BATCH = 16
TEXTS = [f"item {index} " + "word " * (index % 3) for index in range(BATCH)]
TOWERS = ("image", "text")


class Double(TwoTower):
    """Without the cast to float32, so that gradients can be compared to float64's last digits."""

    def encode_image(self, pixels):
        return F.normalize(self.image_features(self.preprocess.normalise(pixels).double()), dim=-1)

    def encode_text(self, tokens):
        return F.normalize(self.text_features(tokens), dim=-1)


def build(image="test_vit", dropout=0.0, kind=Double):
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": 0.0,
    }
    text = HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64))
    model = kind(TimmEncoder(image, size=32), text, embed_dim=8)
    return (model.double() if kind is Double else model).train()


def inputs(model):
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pixels, model.tokenizer(TEXTS)


@pytest.fixture(params=["alone", "group"])
def either(request, tmp_path):
    """Each of the two ways: a process of its own, and one of a group, which must see one backward pass."""
    if request.param == "alone":
        yield
        return
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def gradients(model, cache, loss):
    """Of one step: loss, every parameter's gradient, the temperature's."""
    model, loss = copy.deepcopy(model), copy.deepcopy(loss)
    torch.manual_seed(5)
    image, text = cache(model, *inputs(model))
    value = loss(image, text)
    value.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return value.detach(), named | {f"loss.{name}": p.grad for name, p in loss.named_parameters()}, model


@pytest.mark.parametrize("loss", [ClipLoss, SigLipLoss])
@pytest.mark.parametrize(("micro_batch", "keep"), [(1, 0), (5, 0), (5, 2), (5, 99), (16, 0)])
@pytest.mark.usefixtures("either")
def test_every_gradient_is_that_of_the_plain_step(micro_batch, keep, loss):
    model = build()
    loss = loss().double()
    plain = gradients(model, GradCache(), loss)
    cached = gradients(model, GradCache(micro_batch, keep), loss)
    torch.testing.assert_close(cached[0], plain[0], rtol=1e-12, atol=0)
    assert cached[1].keys() == plain[1].keys()
    assert "loss.logit_scale" in plain[1]
    for name, gradient in plain[1].items():
        torch.testing.assert_close(cached[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("bucket", [64, 1], ids=["one bucket", "texts by length"])
def test_dropout_is_the_same_in_both_passes(monkeypatch, bucket):
    monkeypatch.setattr("modiste.texts.hf.SMALLEST_BUCKET", bucket)
    model = build(dropout=0.5)
    kept = gradients(model, GradCache(4, kept_micro_batches=99), ClipLoss().double())  # one pass only
    cached = gradients(model, GradCache(4), ClipLoss().double())
    torch.testing.assert_close(cached[0], kept[0], rtol=1e-12, atol=0)
    for name, gradient in kept[1].items():
        torch.testing.assert_close(cached[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    other = gradients(build(), GradCache(4), ClipLoss().double())
    assert abs(float(other[0] - kept[0])) > 1e-3, "dropout changed nothing, the comparison says nothing"


def record_passes(module):
    """A list that grows by one at every forward pass: whether it has a graph."""
    passes = []
    module.register_forward_pre_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    return passes


@pytest.mark.usefixtures("either")
def test_the_passes_of_each_tower_are_as_many_as_are_needed():
    for tower in TOWERS:
        model = build()
        Tuning("frozen").apply(model, tower)
        calls = {name: record_passes(getattr(model, name)) for name in TOWERS}
        image, text = GradCache(4, kept_micro_batches=1)(model, *inputs(model))
        ClipLoss().double()(image, text).backward()
        other = {"image": "text", "text": "image"}[tower]
        assert calls[tower] == [False] * 4, "a frozen tower is embedded once, without a graph"
        assert len(calls[other]) == 4 + 2, "all but the one that was kept and the last of all are embedded again"


@pytest.mark.usefixtures("either")
def test_the_last_micro_batch_of_all_needs_no_second_pass():
    model = build()
    calls = {name: record_passes(getattr(model, name)) for name in TOWERS}
    ClipLoss().double()(*GradCache(4)(model, *inputs(model))).backward()
    assert {name: len(passes) for name, passes in calls.items()} == {"image": 4 + 3, "text": 4 + 4}


def most_saved(model, step):
    """The most bytes besides the parameters that autograd saved at once while ``step()`` ran."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved, most = collections.Counter(), 0

    class Saved:
        def __init__(self, tensor):
            storage = tensor.untyped_storage()
            self.tensor, self.key = tensor, (storage.data_ptr(), storage.nbytes())
            saved[self.key] += 1

        def __del__(self):
            saved[self.key] -= 1

    def pack(tensor):
        nonlocal most
        held = Saved(tensor)
        most = max(most, sum(size for (at, size), count in saved.items() if count and at not in parameters))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        step()
    return most


def test_what_the_last_micro_batch_keeps_is_gone_before_the_second_pass_of_another():
    model, loss = build(), ClipLoss().double()

    def step_of(cache):
        return most_saved(model, lambda: loss(*cache(model, *inputs(model))).backward())

    plain, cached, one_more = (
        step_of(cache) for cache in (GradCache(), GradCache(1), GradCache(1, kept_micro_batches=1))
    )
    alone = most_saved(model, lambda: model.encode_image(inputs(model)[0][:1]).sum().backward())
    assert cached < 1.3 * alone < plain / 5, "more than one micro-batch and what the loss holds"
    assert one_more > 1.8 * alone, "activations that live next to others are not seen"


@pytest.mark.usefixtures("either")
def test_running_statistics_take_a_micro_batch_in_once():
    model = build("test_efficientnet", kind=TwoTower)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for part in inputs(model)[0].split(4):
            expected.encode_image(part)
    trained = gradients(model, GradCache(4), ClipLoss())[2]
    compared = 0
    for (name, ours), theirs in zip(trained.named_buffers(), expected.buffers(), strict=True):
        if "running" in name or "num_batches" in name:
            torch.testing.assert_close(ours, theirs, msg=name)
            compared += 1
    assert compared > 10
    kept = gradients(model, GradCache(4, kept_micro_batches=4), ClipLoss())
    cached = gradients(model, GradCache(4), ClipLoss())
    for name, gradient in kept[1].items():
        torch.testing.assert_close(cached[1][name], gradient, msg=name)


@pytest.mark.parametrize("keep", [0, 1])
def test_autocast_of_the_first_pass_is_that_of_the_second(keep):
    model = build(kind=TwoTower)
    loss = ClipLoss()
    pixels, tokens = inputs(model)

    def found():
        grads = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        model.zero_grad()
        return grads

    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*GradCache(4, keep)(model, pixels, tokens))
    value.backward()  # Lightning leaves autocast before it
    cached = found()

    # By hand: the gradient of the embeddings, then that of each micro-batch. A plain step would not do as a reference:
    # it adds up the gradients of the rounded weights in bfloat16.
    order = tokens["attention_mask"].sum(1).argsort(stable=True)

    def embed(rows):
        with torch.autocast("cpu", torch.bfloat16):
            return model(pixels[rows], {name: t[order[rows]] for name, t in tokens.items()})

    parts = torch.arange(BATCH).split(4)
    with torch.no_grad():
        image, text = (torch.cat(embeddings) for embeddings in zip(*map(embed, parts), strict=True))
    leaves = image.requires_grad_(), text.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss(leaves[0], leaves[1][order.argsort()]).backward()
    for rows in parts:
        torch.autograd.backward(embed(rows), [leaf.grad[rows] for leaf in leaves])
    expected = found()
    assert cached.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.usefixtures("either")
def test_autocast_gives_the_gradients_of_one_pass():
    model = build(kind=TwoTower)
    loss = ClipLoss()

    def step(cache):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*cache(model, *inputs(model)))
        model.zero_grad()
        value.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    kept, cached = step(GradCache(4, kept_micro_batches=4)), step(GradCache(4))
    assert cached.keys() == kept.keys()
    for name, gradient in kept.items():
        error = (cached[name] - gradient).norm() / gradient.norm()
        assert error < 2e-2, f"{name}: {error}"
        if torch.distributed.is_initialized():  # in one backward pass, rounded weights add up as in a plain step
            torch.testing.assert_close(cached[name], gradient, rtol=2e-2, atol=1e-4, msg=name)


def test_the_temperature_is_not_counted_once_a_micro_batch_as_in_open_clips_accumulation():
    # open_clip's train_one_epoch with accum_freq > 1: features without a graph first, then for every micro-batch the
    # loss of the whole batch, its own features with a graph in their place, back-propagated without a division.
    model, loss, parts = build(), ClipLoss().double(), 4
    plain = gradients(model, GradCache(), loss)[1]
    pixels, tokens = inputs(model)
    size = BATCH // parts
    with torch.no_grad():
        images, texts = model(pixels, tokens)
    for start in range(0, BATCH, size):
        part = slice(start, start + size)
        image, text = model(pixels[part], {name: tensor[part] for name, tensor in tokens.items()})
        image = torch.cat([images[:start], image, images[start + size :]])
        text = torch.cat([texts[:start], text, texts[start + size :]])
        loss(image, text).backward()
    torch.testing.assert_close(model.text_projection.weight.grad, plain["text_projection.weight"])
    torch.testing.assert_close(loss.logit_scale.grad, parts * plain["loss.logit_scale"])
    cached = gradients(build(), GradCache(size), ClipLoss().double())[1]
    torch.testing.assert_close(cached["loss.logit_scale"], plain["loss.logit_scale"])


@pytest.mark.parametrize(("micro_batch", "keep", "word"), [(0, 0, "micro_batch"), (4, -1, "kept_micro_batches")])
def test_a_senseless_setting_is_one_sentence(micro_batch, keep, word):
    with pytest.raises(ModisteError, match=f"grad_cache.{word}"):
        GradCache(micro_batch, keep)


@pytest.mark.slow
def test_a_training_with_gradient_caching_ends_where_the_plain_one_does(tmp_path):
    # No batch normalisation: its statistics are those of a micro-batch. Plain SGD: it does not amplify rounding.
    same = [*TINY, "image.name=test_vit", "trainer.max_epochs=1", "optim.optimizer._target_=torch.optim.SGD"]
    same += ["~optim.optimizer.betas", "~optim.optimizer.eps", "optim.lr=0.1"]
    variants = {
        "plain": [],
        "cached": ["grad_cache.micro_batch=5", "grad_cache.kept_micro_batches=1"],
        "two": ["grad_cache.micro_batch=3", "trainer=ddp_cpu"],
    }
    states = {}
    for name, extra in variants.items():
        run = modiste("train", *same, *extra, f"hydra.run.dir={name}", cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        states[name] = torch.load(last, weights_only=True)["state_dict"]
    for other in ("cached", "two"):
        for name, tensor in states["plain"].items():
            torch.testing.assert_close(states[other][name], tensor, rtol=2e-4, atol=2e-5, msg=f"{other}: {name}")
