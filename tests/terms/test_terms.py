"""Terms against the full matrix in float64, through plain steps and gradient caching; teachers stay as they were."""

import copy

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

from modiste.config import compose, validate
from modiste.errors import ModisteError
from modiste.images.timm import TimmEncoder
from modiste.losses.clip import ClipLoss
from modiste.models.dual_encoder import TwoTower
from modiste.models.load import Start
from modiste.terms.distill import Distill
from modiste.terms.soft_labels import SoftLabels
from modiste.terms.teacher import Teacher
from modiste.texts.hf import HfTextEncoder
from modiste.texts.words import HashTokenizer
from modiste.training.build import build_terms, keep_start
from modiste.training.grad_cache import GradCache
from modiste.utils.run_dir import RunDir

BATCH = 12
TEXTS = [f"item {index % 5} " + "word " * (index % 3) for index in range(BATCH)]
GRAD_CACHE = {"micro_batch": None}
PRODUCTS = torch.tensor([0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8])


class Double(TwoTower):
    """Without the cast to float32, so that gradients can be compared to float64's last digits."""

    def encode_image(self, pixels):
        return F.normalize(self.image_features(self.preprocess.normalise(pixels).double()), dim=-1)

    def encode_text(self, tokens):
        return F.normalize(self.text_features(tokens), dim=-1)


def build(seed=0, embed_dim=8, size=32, drop=0.0):
    torch.manual_seed(seed)
    config = {
        "model_type": "bert", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "hidden_dropout_prob": drop, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    text = HfTextEncoder(config=config, tokenizer=HashTokenizer(buckets=64))
    image = TimmEncoder("test_vit", size=size, patch_drop_rate=drop)
    return Double(image, text, embed_dim=embed_dim).double().train()


def batch_for(model):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"pixels": pixels, "tokens": model.tokenizer(TEXTS), "product": PRODUCTS, "texts": TEXTS}


def kl(p_logits, q_logits):
    """Mean over rows and columns of KL(p ‖ q), of the full matrices."""
    both = [(p_logits, q_logits), (p_logits.T, q_logits.T)]
    return sum((p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean() for p, q in both) / 2


def infonce(logits):
    same = (PRODUCTS[:, None] == PRODUCTS[None, :]).double()
    target = same / same.sum(1, keepdim=True)
    return -sum((target * part.log_softmax(1)).sum(1).mean() for part in (logits, logits.T)) / 2


def distill_reference(image, text, teacher, scale):
    images, texts = (part.detach() for part in teacher)
    value = 0.7 * kl(6.0 * images @ texts.T, 6.0 * image @ text.T)
    return (
        value
        + 0.2 * (1 - F.cosine_similarity(image, images)).mean()
        + 0.1 * (1 - F.cosine_similarity(text, texts)).mean()
    )


def soft_reference(image, text, teacher, scale):
    texts = teacher[1].detach()
    return 0.6 * infonce(scale * image @ text.T) + 0.4 * kl(9.0 * texts @ texts.T, scale * image @ text.T)


def own_reference(image, text, teacher, scale):
    return soft_reference(image, text, (None, text), scale)


TERMS = {
    "distill": (Distill(0.3, "start", 0.7, 0.2, 0.1, scale=6.0, tile=5), distill_reference),
    "soft labels": (SoftLabels(0.3, "start", 0.4, 9.0, tile=5), soft_reference),
    "soft labels of its own texts": (SoftLabels(0.3, "own", 0.4, 9.0, tile=5), own_reference),
}


def gradients(model, loss, value):
    value.backward()
    named = [*model.named_parameters(), *loss.named_parameters(prefix="loss")]
    return {"value": value.detach()} | {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize(
    "cache", [GradCache(), GradCache(5), GradCache(5, kept_micro_batches=1)], ids=["plain", "cached", "kept"]
)
@pytest.mark.parametrize("name", TERMS)
def test_every_gradient_is_that_of_the_full_matrix_whether_cached_or_not(name, cache):
    term, reference = copy.deepcopy(TERMS[name][0]), TERMS[name][1]
    model, loss, start = build(), ClipLoss(init_scale=7.0, tile=4).double(), build(seed=3)
    batch = batch_for(model)
    expected, expected_loss = copy.deepcopy(model), copy.deepcopy(loss)
    image, text = expected(batch["pixels"], batch["tokens"])
    wanted = infonce(expected_loss.scale * image @ text.T)
    wanted = wanted + 0.3 * reference(image, text, start.eval()(batch["pixels"], batch["tokens"]), expected_loss.scale)
    wanted = gradients(expected, expected_loss, wanted)

    term.bind(model, None if term.teacher == "own" else Teacher(start, True, micro_batch=5))
    image, text = cache(model, batch["pixels"], batch["tokens"])
    value = loss(image, text, PRODUCTS) + term.weight * term(image, text, batch, loss.scale)
    got = gradients(model, loss, value)
    assert got.keys() == wanted.keys()
    assert all(parameter.grad is None for parameter in start.parameters())
    for key, gradient in wanted.items():
        torch.testing.assert_close(got[key], gradient, rtol=1e-8, atol=1e-11, msg=key)


def test_clip_and_soft_labels_are_infonce_with_mixed_targets():
    """As `SoftLabels` says: gradients of (1 + weight) · InfoNCE with the soft part m = mix · weight / (1 + weight)."""
    model, weight, mix = build(), 0.5, 0.6
    batch, term = batch_for(model), SoftLabels(weight, "own", mix, 9.0)
    image, text = (part.detach().requires_grad_() for part in model(batch["pixels"], batch["tokens"]))
    scale = torch.tensor(7.0, dtype=torch.float64)
    loss = ClipLoss(init_scale=7.0).double()
    with torch.no_grad():
        loss.logit_scale.fill_(scale.log())
    summed = torch.autograd.grad(
        loss(image, text, PRODUCTS) + weight * term(image, text, batch, loss.scale), [image, text]
    )
    same = (PRODUCTS[:, None] == PRODUCTS[None, :]).double()
    m = mix * weight / (1 + weight)
    soft = (9.0 * text @ text.T).detach().softmax(1)
    target = (1 - m) * same / same.sum(1, keepdim=True) + m * soft
    logits = scale * image @ text.T
    whole = (1 + weight) * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    for ours, theirs in zip(summed, torch.autograd.grad(whole, [image, text]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_teacher_runs_each_tower_once_a_batch_in_evaluation_mode_and_is_shared():
    model = build(drop=0.5)
    teacher = Teacher(copy.deepcopy(model), True, micro_batch=4)
    calls = []
    teacher.model.image.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    batch = batch_for(model)
    first = teacher.images(batch)
    assert torch.equal(first, teacher.images(batch))
    assert calls == [False] * 3, "once for each micro-batch, without a graph"
    again = teacher.images(dict(batch))
    torch.testing.assert_close(again, first, rtol=0, atol=0)  # no dropout of units or patches
    assert copy.deepcopy(teacher) is teacher, "a moving average of the module needs no second one"


def test_a_resumed_training_takes_the_teacher_that_its_run_kept(tmp_path):
    node = {"_target_": "modiste.terms.distill.Distill"}
    cfg = OmegaConf.create({"term": {"distill": node}, "resume": None, "continue": None, "grad_cache": GRAD_CACHE})
    model, run = build(), RunDir(tmp_path)
    model.initial_scale = 12.25
    fresh = build_terms(cfg, model, Start(None, resumes=False))
    start = copy.deepcopy(model.state_dict())
    keep_start(fresh, run)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.initial_scale = 3.0
    keep_start(
        build_terms(cfg, model, Start(None, resumes=False)), run
    )  # a run goes on in its directory: what it kept stays
    for key in ("resume", "continue"):
        going_on = OmegaConf.merge(cfg, {key: str(tmp_path)})
        teacher = build_terms(going_on, model, Start(run.checkpoints / "last.ckpt", resumes=True))["distill"].model
        assert teacher.scale == pytest.approx(12.25, rel=1e-15)
        assert all(torch.equal(tensor, start[name]) for name, tensor in teacher.model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    (tmp_path / "start.ckpt").unlink()
    with pytest.raises(ModisteError, match="name a teacher"):
        build_terms(going_on, model, Start(run.checkpoints / "last.ckpt", resumes=True))


def test_another_model_as_teacher_gets_its_own_pixels_and_tokens():
    model, other = build(), build(seed=5, embed_dim=6, size=48)
    batch = batch_for(model)
    teacher = Teacher(other, same_inputs=False)
    assert teacher.images(batch).shape == teacher.texts(batch).shape == (BATCH, 6)
    term = Distill(teacher="runs/other")
    term.bind(model, teacher)
    image, text = model(batch["pixels"], batch["tokens"])
    assert term(image, text, batch, torch.tensor(1.0)) > 0
    with pytest.raises(ModisteError, match="6 dimensions and the student's 8"):
        Distill(teacher="runs/other", image_features=1.0).bind(model, teacher)
    with pytest.raises(ModisteError, match=r"features\.cache=false"):
        teacher.images({"pixels": torch.ones(2, 16), "texts": TEXTS[:2]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Distill(similarities=0),
        lambda: Distill(teacher="own"),
        lambda: Distill(image_features=-1),
        lambda: Distill(weight=-1),
        lambda: SoftLabels(mix=0),
        lambda: SoftLabels(mix=1.5),
        lambda: SoftLabels(scale=0),
    ],
)
def test_senseless_settings_are_one_sentence(make):
    with pytest.raises(ModisteError, match=r"term|weight"):
        make()


def test_terms_are_chosen_by_their_names():
    cfg = compose("train", ["term=[distill,soft_labels]", "term.distill.weight=0.1"])
    validate(cfg)
    assert list(cfg.term) == ["distill", "soft_labels"]
    assert not compose("train").get("term")
