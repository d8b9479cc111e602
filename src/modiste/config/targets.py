"""The allow-list of classes and functions that a config may name as ``_target_``.

A config may be untrusted, as part of a run directory or a result. So a target must be named in conf/ (`registry`), be a
framework class listed here, or be named in MODISTE_ALLOW.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from modiste.config import paths
from modiste.config.aliases import current
from modiste.errors import ModisteError, did_you_mean

# Classes whose constructors only compute: they open no file or URL and call none of their arguments.
FOREIGN = {
    "torch.nn": "BatchNorm1d Dropout Flatten GELU Identity LayerNorm LeakyReLU Linear ReLU Sequential SiLU Tanh",
    "torch.optim": "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS NAdam RAdam RMSprop Rprop SGD",
    "timm.optim": "Adan Lamb Lion MADGRAD NAdamW",
    "torchvision.transforms.v2": "AugMix AutoAugment CenterCrop ColorJitter ElasticTransform FiveCrop GaussianBlur "
    "GaussianNoise Grayscale Identity Pad RandAugment RandomAdjustSharpness RandomAffine RandomAutocontrast "
    "RandomChannelPermutation RandomChoice RandomCrop RandomEqualize RandomErasing RandomGrayscale "
    "RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective RandomPhotometricDistort RandomPosterize "
    "RandomResizedCrop RandomRotation RandomSolarize RandomVerticalFlip RandomZoomOut Resize TrivialAugmentWide",
    "lightning.pytorch": "Trainer",
    "lightning.pytorch.callbacks": "BackboneFinetuning DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler "
    "LearningRateMonitor ModelCheckpoint ModelSummary RichModelSummary RichProgressBar StochasticWeightAveraging "
    "TQDMProgressBar Timer",
    "lightning.pytorch.loggers": "CSVLogger TensorBoardLogger",
    "lightning.pytorch.plugins": "HalfPrecision MixedPrecision",
    "lightning.pytorch.profilers": "AdvancedProfiler PyTorchProfiler SimpleProfiler",
    # Not FSDPStrategy: it unpickles checkpoints, whatever `weights_only` says; trainer=fsdp is ModelParallelStrategy.
    "lightning.pytorch.strategies": "DDPStrategy ModelParallelStrategy SingleDeviceStrategy",
    "optuna.pruners": "HyperbandPruner MedianPruner NopPruner PatientPruner PercentilePruner SuccessiveHalvingPruner "
    "ThresholdPruner WilcoxonPruner",
    # Not CmaEsSampler: it unpickles what the study's storage holds.
    "optuna.samplers": "BruteForceSampler GPSampler GridSampler NSGAIIISampler NSGAIISampler QMCSampler "
    "RandomSampler TPESampler",
}
# Parts of Modiste that no YAML in conf/ names.
OWN = {
    "modiste.data.scenes": "Silhouette",
    "modiste.terms.base": "Term",
}
# Targets that write or log where their arguments say, and the top-level keys below which they may be named.
TRAINING = ("lightning.", "modiste.training.callbacks.", "modiste.training.loggers.")
WRITERS = TRAINING[:2]
TRAINING_KEYS = ("callbacks", "logger", "trainer")
# Only encoders and their layers below ``model``, which is also built from untrusted run directories and indexes.
MODEL = ("modiste.models.", "modiste.images.", "modiste.texts.", "modiste.pretrained.", "torch.nn.")
# Packages that MODISTE_ALLOW cannot allow as a whole.
WHOLE = {"modiste", "hydra", "omegaconf", "numpy", *(name.partition(".")[0] for name in FOREIGN), "transformers"}
LISTED = frozenset(f"{module}.{name}" for names in (FOREIGN, OWN) for module in names for name in names[module].split())


def registry() -> frozenset[str]:
    """Return the targets named in Modiste's own conf/.

    >>> "modiste.losses.clip.ClipLoss" in registry()
    True
    """
    return _named_in(paths.config_dir())


@functools.cache
def _named_in(folder: Path) -> frozenset[str]:
    texts = (file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"\b_target_:\s*['\"]?([\w.]+)", text))


def user_allowed() -> tuple[str, ...]:
    """Return the packages, modules and classes of MODISTE_ALLOW; ``pipe`` permits shard commands.

    Raises:
        ModisteError: An entry is not a dotted name, or would allow the standard library or an entire framework.
    """
    names = [name for name in (name.strip() for name in os.environ.get("MODISTE_ALLOW", "").split(",")) if name]
    for name in names:
        if not _is_dotted_name(name):
            raise ModisteError(f"MODISTE_ALLOW: '{name}' is not the dotted name of a package or a class.")
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ModisteError(
                f"MODISTE_ALLOW: '{name}' belongs to Python, which is never instantiated from a config: remove it."
            )
        if name in WHOLE:
            raise ModisteError(f"MODISTE_ALLOW: '{name}' is an entire framework: name the class, as in {name}.….")
    return tuple(names)


def locate(target: str) -> Any:
    """Import the class or function with the dotted name ``target``.

    Raises:
        ModisteError: It may not be instantiated from a config, does not exist, or needs a package that is not
            installed.

    >>> locate("torch.nn.Linear").__name__
    'Linear'
    >>> locate("modiste.utils.run_dir.os.system")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'modiste.utils.run_dir.os.system' may not be instantiated from a config.
    """
    target = current(target)
    check_name(target)
    first, *parts = target.split(".")
    found: Any = _import(first, target)
    for part in parts:
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, ModuleType) and hasattr(found, "__path__"):
            found = _import(f"{found.__name__}.{part}", target)
        else:
            raise _absent(found, part, target)
    if not callable(found):
        raise ModisteError(f"'{target}' is not a class or a function.")
    # A user's module gives access to everything it imports; a method could be called on an object from the config.
    is_method = not isinstance(found, type) and "." in getattr(found, "__qualname__", "")
    named = target in user_allowed() or _by_user(str(getattr(found, "__module__", None)))
    if not _is_listed(target) and (is_method or not named):
        raise _refused(target)
    return found


def exported_node(source: str) -> dict[str, str]:
    """Return the ``model`` node of ``model=exported``, for a folder or a hub id.

    The only place that names its target, as ``models`` may not import ``pretrained``, which builds on it.

    >>> exported_node("exported/clip")
    {'_target_': 'modiste.pretrained.exported.load_exported', 'source': 'exported/clip'}
    """
    return {"_target_": "modiste.pretrained.exported.load_exported", "source": source}


def targets_of(node: object) -> Iterator[str]:
    """Yield every ``_target_`` in plain containers, under its current name."""
    if isinstance(node, dict):
        if "_target_" in node:
            if not isinstance(node["_target_"], str):
                raise ModisteError(f"_target_ must be a dotted name, not {node['_target_']!r}.")
            yield current(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from targets_of(value)


def is_allowed(target: str) -> bool:
    """Whether `check_name` accepts ``target``."""
    return _is_dotted_name(target) and (_is_listed(target) or _by_user(target))


def check_name(target: str) -> None:
    """Raise ModisteError if ``target`` may not be named in a config; imports nothing."""
    if not _is_dotted_name(target):
        raise ModisteError(f"'{target}' is not the dotted name of a class or a function.")
    if not is_allowed(target):
        raise _refused(target, _remedy(target))


def check_place(target: str, path: str) -> None:
    """Check that ``target`` may stand at the key ``path``; targets of MODISTE_ALLOW may be anywhere.

    Raises:
        ModisteError: A callback, logger or part of Lightning is outside ``callbacks``, ``logger`` and ``trainer``, or
            ``model`` contains anything but encoders and layers.

    >>> check_place("torch.nn.Linear", "model.image"), check_place("lightning.pytorch.Trainer", "trainer")
    (None, None)
    >>> check_place("lightning.pytorch.Trainer", "optim.x")
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'optim.x' may not be 'lightning.pytorch.Trainer': only a key of callbacks, logger or \
trainer may.
    """
    first = re.split(r"[.\[]", path)[0]
    if _by_user(target):
        return
    if first == "model" and not target.startswith(MODEL):
        raise ModisteError(f"'{path}' may not be '{target}': a model consists of encoders and of layers of torch.nn.")
    if target.startswith(TRAINING) and first not in TRAINING_KEYS:
        raise ModisteError(f"'{path}' may not be '{target}': only a key of callbacks, logger or trainer may.")


def _is_listed(target: str) -> bool:
    return target in LISTED or target in registry()


def _by_user(name: str) -> bool:
    return any(name == allowed or name.startswith(f"{allowed}.") for allowed in user_allowed())


def _is_dotted_name(name: str) -> bool:
    return all(part.isidentifier() and not part.startswith("__") for part in name.split("."))


def _remedy(target: str) -> str:
    package = target.partition(".")[0]
    close = difflib.get_close_matches(target, [*registry(), *LISTED], n=1, cutoff=0.8)
    if close:
        return f" Did you mean '{close[0]}'?"
    if package in WHOLE or package in sys.stdlib_module_names:
        return ""
    return f" If you trust it, set MODISTE_ALLOW={target.rpartition('.')[0] or target}."


def _refused(target: str, remedy: str = "") -> ModisteError:
    return ModisteError(f"'{target}' may not be instantiated from a config.{remedy}")


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ModisteError(f"'{target}' needs the package '{error.name}', which is not installed.") from error
        parent, _, part = name.rpartition(".")
        if not parent:
            raise ModisteError(f"'{target}' needs the package '{name}', which is not installed.") from error
        raise _absent(importlib.import_module(parent), part, target) from None


def _absent(parent: Any, part: str, target: str) -> ModisteError:
    names = [name for name in dir(parent) if not name.startswith("_")]
    names += [module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", None) or [])]
    where = target[: target.rfind(f".{part}")]
    return ModisteError(f"There is no '{part}' in '{where}' (target '{target}'). {did_you_mean(part, set(names))}")
