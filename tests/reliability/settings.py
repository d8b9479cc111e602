"""Settings of training, each killed at a random moment and continued: bit for bit the run that nothing stopped."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from reliability import forks
from reliability.kills import TINY, difference, whole_run

VIT = ["image.name=test_vit"]  # no batch normalisation, whose statistics a micro-batch would change
FROZEN = ["tune.image.train=last_n", "tune.image.layers=1", "tune.text.train=last_n", "tune.text.layers=1"]
CASES = {
    "moving average": ["callbacks=[default,ema]"],
    "LoRA": [*VIT, "tune.image.train=lora", "tune.text.train=lora"],
    "LoRA, moving average": [*VIT, "tune.image.train=lora", "tune.text.train=lora", "callbacks=[default,ema]"],
    "last layers": [*VIT, "tune.image.train=last_n", "tune.text.train=frozen"],
    "accumulated gradients": ["trainer.accumulate_grad_batches=2"],
    "gradient caching": [*VIT, "grad_cache.micro_batch=4", "grad_cache.kept_micro_batches=1"],
    "cached features": [*FROZEN, "features.cache=true"],
    "cached features, moving average": [*FROZEN, "features.cache=true", "callbacks=[default,ema]"],
    "cached features, augmented views": [
        *FROZEN, "features.cache=true", "features.views=2",
        "data.augment=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]",
    ],
    "grouped batches": ["data.batches.group_by=category", "data.batches.group_size=4"],
    "balanced batches, one per product": ["data.batches.balance=colour", "data.batches.one_per_product=true"],
    "augmentation, sampled captions, workers": [
        "data.augment=[{_target_: torchvision.transforms.v2.RandomHorizontalFlip}]",
        "data.captions.templates=['{text}','{colour} {category}']", "data.num_workers=2",
    ],
    "SigLIP": ["loss=siglip"],
    "distillation": ["term=[distill]"],
    "SGD, linear schedule": [
        "optim.optimizer._target_=torch.optim.SGD", "~optim.optimizer.betas", "~optim.optimizer.eps",
        "optim.schedule=linear", "optim.lr=0.1",
    ],
    "max_steps in mid-epoch": ["trainer.max_steps=10"],
    "validation twice per epoch": ["trainer.val_check_interval=0.5"],
    "bf16": ["trainer.precision=bf16-mixed"],
}  # fmt: skip


def setting(name: str, seed: int) -> str:
    """Kill a run of a setting at a random moment after its first step, and continue it; what is wrong, or nothing."""
    words = [*TINY, *CASES[name]]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            whole, seconds = whole_run(folder, words)
        except RuntimeError as error:
            return f"it does not train: {str(error).strip().splitlines()[-1]}"
        run, log = folder / "run", folder / "run.log"
        (moment,) = forks.moments(1, 0.6 * seconds, seed)
        pid = forks.start(["train", *words, f"hydra.run.dir={run}"], folder, log)
        code = forks.kill_after(pid, 0.3 * seconds + moment)
        if code != -signal.SIGKILL:
            return "" if code == 0 else f"exit code {code}"
        command = [f"continue={run}"] if (run / "overrides.yaml").is_file() else [*words, f"hydra.run.dir={run}"]
        if forks.run(["train", *command], folder, log):
            return log.read_text().strip().splitlines()[-1]
        return difference(whole, run)


def measure(seed: int = 0, names: tuple[str, ...] = tuple(CASES)) -> dict[str, str]:
    """Setting → what is wrong, for every one."""
    return {name: setting(name, seed + number) for number, name in enumerate(names)}
