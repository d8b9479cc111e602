"""Training on the card: the CPU's losses, an exact resume, checkpoints for both, and memory that runs out."""

import copy
import csv
import signal

import pytest
import torch

from helpers.commands import TINY, modiste
from helpers.resumed import assert_same_end, checkpoint, stop_at_second_save
from helpers.tiny_models import TEXTS, pixels, two_tower
from modiste.cli import main
from modiste.images.timm import TimmEncoder
from modiste.losses.clip import ClipLoss
from modiste.losses.siglip import SigLipLoss
from modiste.training.grad_cache import GradCache

# Batch normalisation magnifies the last digits from step to step: a vision transformer shows what the device changes.
SMALL = [*TINY, "image.name=test_vit", "trainer.max_epochs=1", "data.num_workers=0", "callbacks.samples=null"]
EXACT = {"NVIDIA_TF32_OVERRIDE": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
VARIANTS = {
    "clip": [],
    "siglip": ["loss=siglip"],
    "gradient caching": ["grad_cache.micro_batch=5"],
    "moving average": ["callbacks=[default,ema]"],
    "LoRA": ["tune.image.train=lora", "tune.text.train=lora", "tune.image.rank=2", "tune.text.rank=2"],
    "cached features": [
        "features.cache=true",
        "tune.text.train=frozen",
        "tune.image.train=last_n",
        "tune.image.layers=1",
    ],
}


def train(cwd, run, *overrides, **environment):
    done = modiste("train", *SMALL, *overrides, f"hydra.run.dir={run}", cwd=cwd, **EXACT, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / run


def losses(run):
    (metrics,) = run.glob("csv/version_*/metrics.csv")
    rows = list(csv.DictReader(metrics.open()))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in ("train/loss", "val/loss")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_in_float32_has_the_losses_of_the_cpu(variant, trainer, tmp_path):
    cache = {"MODISTE_CACHE": str(tmp_path / "cache")}
    here = losses(train(tmp_path, "card", *trainer, *VARIANTS[variant], **cache))
    cache = {"MODISTE_CACHE": str(tmp_path / "other")}
    there = losses(train(tmp_path, "cpu", "trainer=cpu", *VARIANTS[variant], **cache))
    for name, expected in there.items():
        assert len(expected) > 0
        assert here[name] == pytest.approx(expected, rel=2e-3), name


def test_a_checkpoint_of_the_card_continues_on_the_cpu_and_the_other_way_round(trainer, tmp_path):
    for first, then in ((trainer, ["trainer=cpu"]), (["trainer=cpu"], trainer)):
        name = first[0].replace("=", "_")
        run = train(tmp_path, name, *first, "optim.schedule=constant")  # a finished one goes on
        longer = ["trainer.max_epochs=2", f"hydra.run.dir={name}_2"]
        done = modiste("train", f"resume={run}", *then, *longer, cwd=tmp_path, **EXACT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert checkpoint(tmp_path / f"{name}_2")["global_step"] == 2 * checkpoint(run)["global_step"]


def test_killed_and_continued_in_deterministic_mode_it_ends_with_the_same_bits(trainer, tmp_path):
    noisy = [
        *SMALL,
        *trainer,
        "trainer.deterministic=true",
        "trainer.max_epochs=3",
        "callbacks=[default,ema]",
        "callbacks.recent.every_n_train_steps=3",
        "text.config.hidden_dropout_prob=0.2",
        "data.num_workers=1",
    ]
    whole = modiste("train", *noisy, "hydra.run.dir=whole", cwd=tmp_path, **EXACT)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    process = modiste("train", *noisy, "hydra.run.dir=run", cwd=tmp_path, background=True, **EXACT)
    assert stop_at_second_save(tmp_path / "run", process, signal.SIGKILL), process.communicate()[0]
    process.communicate()
    done = modiste("train", f"continue={tmp_path / 'run'}", cwd=tmp_path, **EXACT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", [ClipLoss, SigLipLoss])
def test_gradient_caching_is_the_plain_step_in_mixed_precision(kind, dtype, device):
    """Up to the rounding of products of other shapes, which is far below that of the precision itself."""
    model = two_tower().to(device).eval()  # dropout would draw again for every micro-batch
    exact = gradient(model, kind, None, device, None)
    plain, cached = (gradient(model, kind, micro, device, dtype) for micro in (None, 2))
    rounding = float((plain - exact).norm() / exact.norm())
    assert float((cached - plain).norm() / plain.norm()) < max(rounding, 1e-3) < 0.1


def gradient(model, kind, micro_batch, device, dtype):
    """All gradients of one step, those of the scale and bias among them, as one vector."""
    model, loss = copy.deepcopy(model), kind().to(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0, enabled=dtype == torch.float16)
    images, texts = pixels(9), [f"{text} {i}" for i in range(3) for text in TEXTS]
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.0)
    torch.manual_seed(0)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        tokens = {name: tensor.to(device) for name, tensor in model.tokenizer(texts).items()}
        value = loss(*GradCache(micro_batch)(model, images.to(device), tokens))
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    parameters = [*model.parameters(), *loss.parameters()]
    return torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None]).cpu()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_a_run_in_mixed_precision_learns(precision, trainer, device, tmp_path):
    if device.type == "cpu" and precision == "16-mixed":
        pytest.skip("Lightning has no 16-mixed on a CPU")
    more = ["trainer.max_epochs=3", f"trainer.precision={precision}", "grad_cache.micro_batch=4"]
    seen = losses(train(tmp_path, "run", *trainer, *more))
    assert seen["val/loss"][-1] < seen["val/loss"][0]


def test_memory_that_runs_out_is_one_sentence_with_the_settings_that_need_less(trainer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TimmEncoder, "forward", lambda self, pixels: pixels.new_empty(1 << 50))
    assert main(["train", *SMALL, *trainer, "hydra.run.dir=run"]) == 1
    said = capsys.readouterr().err.strip()
    assert "Out of memory" in said
    assert "data.batch_size=16" in said
    assert "grad_cache.micro_batch=8" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
