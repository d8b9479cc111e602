"""Models from configurations, run directories and hubs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from modiste.config import STARTS, exported_node, instantiate, load_run_config
from modiste.config.stored import literal
from modiste.errors import ModisteError
from modiste.models.dual_encoder import DualEncoder, Tokenizer
from modiste.models.finetune import TOWERS, Tuning, fold_adapters, freeze_rest
from modiste.models.preprocess import Preprocess
from modiste.utils.atomic import atomic
from modiste.utils.foreign import check_tensors
from modiste.utils.run_dir import RunDir, is_intact

log = logging.getLogger(__name__)
WEIGHTS = "state_dict"
PREFIX = "model."


class _Parts(NamedTuple):
    model: DualEncoder
    transform: Preprocess
    tokenizer: Tokenizer


class Loaded(_Parts):
    """A model in evaluation mode, its image transform and its tokenizer: a tuple of the three.

    Attributes:
        run: The run directory that it was loaded from, whose data and captions `modiste.evaluate` and `modiste.embed`
            use by default; None: the model is not of a run.
    """

    run: RunDir | None = None


def build_model(cfg: DictConfig, start: Path | None = None) -> DualEncoder:
    """Build the model of a ``model`` node, with trainable layers set by the ``tune`` node.

    Args:
        cfg: The configuration.
        start: Checkpoint to start from: its LoRA adapters are folded in, and ``tune`` may add new ones.

    Raises:
        ModisteError: The checkpoint is refused or does not match.
    """
    model: DualEncoder = instantiate(cfg.model)
    if start is not None:
        load_folded(model, start)
    for tower in TOWERS:
        Tuning(**cfg.tune[tower]).apply(model, tower)
    freeze_rest(model)
    return model


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; tensors and plain containers only.

    Raises:
        ModisteError: The file is missing, damaged, or holds more than tensors and plain containers.
    """
    if not path.is_file():
        raise ModisteError(f"There is no checkpoint {path}: give a run directory or a .ckpt file.")
    if not is_intact(path):
        raise _refusal(path)
    checkpoint = _tensors(path)
    if not isinstance(checkpoint, dict) or WEIGHTS not in checkpoint:
        raise ModisteError(f"The checkpoint {path} has no '{WEIGHTS}': use one written by modiste train.")
    return checkpoint


def _tensors(path: Path, mmap: bool = False) -> Any:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        check_tensors(content)
    except Exception as error:  # torch raises many kinds for a damaged or a refused file
        raise _refusal(path) from error
    return content


def _refusal(path: Path) -> ModisteError:
    return ModisteError(
        f"The checkpoint {path} is refused: it is damaged or holds more than weights. Use one written by modiste train."
    )


def load_weights(model: DualEncoder, path: Path) -> None:
    """Load the weights of a checkpoint into ``model``, and its temperature and bias as initial ones.

    Raises:
        ModisteError: Names or shapes differ, or see `read_checkpoint`.
    """
    state = read_checkpoint(path)[WEIGHTS]
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    for name in ("loss.logit_scale", "loss.logit_bias"):
        if name in state and not (isinstance(state[name], Tensor) and state[name].numel() == 1):
            raise ModisteError(f"{name} of {path} is not one number: use a checkpoint written by modiste train.")
    if "loss.logit_scale" in state:
        model.initial_scale = float(state["loss.logit_scale"].exp())
    if "loss.logit_bias" in state:
        model.initial_bias = float(state["loss.logit_bias"])
    _fill(model, weights, path)


def loss_state(model: DualEncoder) -> dict[str, Tensor]:
    """Log of the temperature, and bias, of a model's weights, as a loss stores them.

    What is not known is missing.
    """
    scale, bias = model.initial_scale, model.initial_bias
    found = {"logit_scale": scale and math.log(scale), "logit_bias": bias}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items() if value is not None}


def save_weights(model: DualEncoder, path: Path) -> None:
    """Save a model's weights, temperature and bias as a checkpoint that `load_weights` reads."""
    state = {f"{PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"loss.{name}": tensor for name, tensor in loss_state(model).items()}
    with atomic(path) as unfinished:
        torch.save({WEIGHTS: state}, unfinished)


def _fill(model: DualEncoder, weights: Mapping[str, Any], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise ModisteError(
            f"The weights of {path} do not match this model: use a run with the same image, text and model. {detail}"
        ) from error


def load_folded(model: DualEncoder, path: Path) -> None:
    """Load a checkpoint into a ``model`` without adapters: those of the checkpoint are folded in.

    Raises:
        ModisteError: See `load_weights`.
    """
    stored = read_checkpoint(path).get("hyper_parameters", {}).get("config") or {}
    if not any(tower.get("train") == "lora" for tower in stored.get("tune", {}).values()):
        return load_weights(model, path)
    adapted = build_model(literal(stored, path))
    load_weights(adapted, path)
    fold_adapters(adapted)
    model.initial_scale, model.initial_bias = adapted.initial_scale, adapted.initial_bias
    return _fill(model, adapted.state_dict(), path)


def load(source: RunDir | str | Path, checkpoint: str = "best") -> Loaded:
    """Load a model in evaluation mode, with its transform and tokenizer.

    Args:
        source: A run directory, or what `modiste.train` returns; a folder of `modiste export`, sentence-transformers,
            open_clip or transformers; or a hub id of a model of transformers.
        checkpoint: ``best`` or ``last`` of a run directory.

    Raises:
        ModisteError: The source or checkpoint is missing or unknown, or its configuration or weights are refused.
    """
    if not isinstance(source, (RunDir, str, Path)):
        raise ModisteError(f"{source!r:.60} is no source of a model: give a run, a folder or a hub id.")
    run = RunDir.of(source)
    if run is not None:
        model = build_model(load_run_config(run.config))
        load_weights(model, run.checkpoint(checkpoint))
    else:
        model = instantiate(exported_node(str(source)))
    model.eval()
    loaded = Loaded(model, model.preprocess, model.tokenizer)
    loaded.run = run
    return loaded


def as_model(model: DualEncoder | Loaded | RunDir | str | Path) -> DualEncoder:
    """The dual encoder of what a user gave: a model, what `load` returned, or what `load` takes.

    Raises:
        ModisteError: It is none of these, or see `load`.

    >>> as_model(42)
    Traceback (most recent call last):
    modiste.errors.ModisteError: model: 42 is no model: give a run, a model's name, or what modiste.load returned.
    """
    if isinstance(model, DualEncoder):
        return model
    if isinstance(model, Loaded):
        return model.model
    if isinstance(model, (RunDir, str, Path)):
        return load(model).model
    raise ModisteError(f"model: {model!r:.60} is no model: give a run, a model's name, or what modiste.load returned.")


def run_of(model: object) -> RunDir | None:
    """The run directory of what `as_model` takes; None: it is not of a run."""
    return model.run if isinstance(model, Loaded) else RunDir.of(model)


class Start(NamedTuple):
    """Initial state of training.

    Attributes:
        checkpoint: Checkpoint with the weights; None: from scratch.
        resumes: Whether its optimizer state and position are restored, too.
    """

    checkpoint: Path | None
    resumes: bool


def starting_point(cfg: Mapping[str, Any]) -> Start:
    """Find the checkpoint of a configuration's ``init``, ``resume`` or ``continue``.

    A run that was stopped before its first checkpoint begins again from its initial state.

    Raises:
        ModisteError: The run has no checkpoint, or its checkpoint is refused.
    """
    if cfg["continue"]:
        run = RunDir.find(cfg["continue"])
        state = run.latest_state()
        if state is None:
            return starting_point({"continue": None, **run.origin(load_run_config(run.config))})
        return resumed(state)
    if cfg["resume"]:
        return resumed(RunDir.find(cfg["resume"]).checkpoint("last"))
    init = cfg["init"]
    if not init or Path(init).suffix == ".ckpt":
        return Start(Path(init) if init else None, resumes=False)
    return Start(RunDir.find(init).checkpoint("best"), resumes=False)


def resumed(path: Path) -> Start:
    """Check an intact checkpoint that Lightning resumes from: here, before anything is written.

    Raises:
        ModisteError: It is refused.
    """
    if path.is_file():  # a folder is a sharded checkpoint, which Lightning's strategy reads
        _tensors(path, mmap=True)
    return Start(path, resumes=True)


def check_fits(module: torch.nn.Module, start: Start) -> None:
    """Check that a checkpoint to resume from has the tensors of ``module``.

    Raises:
        ModisteError: A name or a shape differs.
    """
    if not start.resumes or start.checkpoint is None or not start.checkpoint.is_file():
        return
    state, own = _tensors(start.checkpoint, mmap=True).get(WEIGHTS, {}), module.state_dict()
    odd = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if odd:
        raise ModisteError(
            f"The checkpoint {start.checkpoint} does not match in '{odd[0]}': resume and continue need the same image, "
            "text, model, loss and term. To change them, start with init=RUN."
        )


def model_at_start(run: RunDir) -> DualEncoder:
    """Rebuild the initial model of ``run`` from its configuration and ``init``.

    The initial model of a run that was resumed from another is that of the other.

    Raises:
        ModisteError: The run was not trained, or the checkpoint that it started from is missing.
    """
    from lightning.pytorch import seed_everything

    config = load_run_config(run.config)
    if "merge" in config:
        raise ModisteError(f"{run.path} was merged, not trained, and has no initial weights: give first=RUN.")
    origin = run.origin(config)
    if origin["resume"]:
        return model_at_start(RunDir.find(origin["resume"]))
    if config.get("continue") and not run.read_json("start"):
        log.warning(
            "%s was continued by a version that did not record its initial state: assuming no init. If it had "
            "one, give first=THAT_RUN.",
            run.path,
        )
    seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config)
    checkpoint = starting_point(dict.fromkeys(STARTS) | origin).checkpoint
    if checkpoint is not None:
        load_weights(model, checkpoint)
    return model
