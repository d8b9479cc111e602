"""Checks of a config without heavy imports, so that mistakes are reported within a second."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.cli.outline import Outline
from modiste.config import paths, schema
from modiste.config.overrides import override_key
from modiste.config.validation import AUTOMATIC, GLOBAL, contradictions, value_problems
from modiste.errors import ModisteError
from modiste.export.formats import FORMATS
from modiste.utils.hardware import usable_cores
from modiste.utils.run_dir import EVALUATED, RunDir, check_links

# Root → required keys, and the message if one is missing.
NEEDED: dict[str, tuple[tuple[str, ...], str]] = {
    "embed": (("out",), "modiste embed needs a directory: out=DIR."),
    "export": (
        ("format", "out"),
        "modiste export needs a layout and a directory: format=FORMAT out=DIR, FORMAT one of "
        f"{', '.join(sorted(FORMATS))}.",
    ),
    "ground": (
        ("photo", "phrases"),
        'modiste ground needs a photo and a phrase: modiste ground RUN photo.jpg "red shoes".',
    ),
    "index": (("out",), "modiste index needs a folder: out=shop.index."),
    "merge": (("first", "second"), "modiste merge needs two models: first=RUN (or first=start) and second=RUN."),
    "prepare": (("out",), "modiste prepare needs a directory: out=DIR."),
    "push": (("folder", "repo_id"), "modiste push needs an export and a repository: folder=DIR repo_id=OWNER/NAME."),
}
# Root → keys that can give a model, in addition to the group, and how to give one.
MODELS = {
    "embed": (("run",), "run=DIR or model=NAME"),
    "evaluate": (("run", "embeddings.image"), "run=DIR, model=NAME, or embeddings.image=FILE and embeddings.text=FILE"),
    "export": (("run",), "run=DIR or model=NAME"),
    "ground": (("run",), "modiste ground RUN photo.jpg PHRASE, or model=NAME"),
    "index": (("run", "vectors"), "run=DIR, model=NAME or vectors=DIR"),
}
Files = Sequence[tuple[Path, str]]
PER_CORE = 4
"""Maximum number of processes of one training run per core."""
CLUSTER = (
    "MASTER_ADDR",
    "NODE_RANK",
    "SLURM_NTASKS",
    "LSB_JOBID",
    "TORCHELASTIC_RUN_ID",
    "OMPI_COMM_WORLD_SIZE",
)
"""Environment variables of launchers that start processes on several machines."""


def problems(
    config: DictConfig, overrides: Sequence[str], outline: Outline, root: str, files: Callable[[], Files]
) -> list[str]:
    """Describe all problems of a composed config, one sentence each, without heavy imports.

    Args:
        config: The composed config.
        overrides: Its overrides.
        outline: Outline of the root config.
        root: Name of the root config.
        files: Returns the files of the config, as `compose_with_sources` does.
    """
    unknown = list(_unknown(config, overrides, outline, root, files))
    found = unknown + value_problems(config) + schema.value_problems(config, root)
    if not found:
        found = contradictions(config) + list(_places(config)) + list(_missing(config, overrides, root))
    return list(dict.fromkeys(found))


def machine_problems(config: DictConfig) -> list[str]:
    """Describe requested devices that this machine lacks, and nodes that nothing would start."""
    accelerator, devices = _selected(config, "trainer.accelerator"), _selected(config, "trainer.devices")
    if accelerator in ("gpu", "cuda") and not has_gpu():
        return [f"'trainer.accelerator' is {accelerator}, but this machine has no GPU: train with trainer=cpu."]
    most = PER_CORE * usable_cores()
    if accelerator == "cpu" and isinstance(devices, int) and devices > most:
        return [f"'trainer.devices' is {devices}, but this machine has {usable_cores()} cores: give {most} or fewer."]
    nodes = _selected(config, "trainer.num_nodes")
    if isinstance(nodes, int) and nodes > 1 and not any(name in os.environ for name in CLUSTER):
        return [
            f"'trainer.num_nodes' is {nodes}, but nothing starts the processes on the other machines: use "
            "hydra/launcher=slurm, srun, or torchrun, or set MASTER_ADDR and NODE_RANK on each machine."
        ]
    return []


def has_gpu() -> bool:
    """Whether there may be a GPU, judged without torch by the driver's device files."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    devices = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
    return sys.platform != "linux" or any(map(os.path.exists, devices))


def _unknown(
    config: DictConfig, overrides: Sequence[str], outline: Outline, root: str, files: Callable[[], Files]
) -> Iterator[str]:
    top = [*outline.keys, *(group.partition("/")[0] for group in outline.groups)]
    if "paths" in outline.groups:
        top += ["data_dir", "log_dir", "run_dir"]
    for name in [name for name in GLOBAL if name in outline.groups]:
        if name in config:
            file = _file_of(name, files()) or f"{name}.yaml"
            yield f"{file} would set nothing: its first line must be '# @package _global_'."
    for key, near in schema.unknown_keys(config, [*top, *GLOBAL], root):
        if not _is_used(key, config):
            named = [o for o in overrides if o.lstrip("+").partition("=")[0] == key]
            where = named[0] if named else _file_of(key, files()) or root
            if where.startswith(str(paths.config_dir())):
                continue  # a key of Modiste's own conf/
            yield f"Nothing uses the key '{key}' ({where}). {near}"


def _file_of(key: str, files: Files) -> str | None:
    """Return the last file that sets ``key``."""
    for file, package in reversed(files):
        if package and not f"{key}.".startswith(f"{package}."):
            continue
        node: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        for part in key[len(package) :].strip(".").split(".") if key != package else []:
            node = node.get(part, ...) if isinstance(node, dict) else ...
        if node is not ...:
            return str(file)
    return None


def _is_used(key: str, config: DictConfig) -> bool:
    """Whether an interpolation in the config refers to ``key``."""
    references = (text.partition("}")[0] for text in OmegaConf.to_yaml(config).split("${")[1:])
    return any(re.search(rf"\b{re.escape(key)}\b", reference) for reference in references)


def _places(config: DictConfig) -> Iterator[str]:
    """Describe runs that do not exist or lead elsewhere, and paths that Hydra would resolve again."""
    for key in ("init", "out", "index", "name", "log_dir", "run_dir"):  # `RunDir.find` checks runs
        value = _selected(config, key)
        if isinstance(value, str) and "${" in value:
            yield f"'{key}' contains '${{' ({value}), which Hydra would resolve: use another name."
    for key in ("run", "init", "resume", "continue"):
        value = _selected(config, key)
        if not isinstance(value, str) or not value or (key, value) == ("continue", AUTOMATIC):
            continue
        path = Path(value).expanduser()
        if key == "init" and path.suffix == ".ckpt":
            if not path.is_file():
                yield f"'init': checkpoint {value} does not exist: correct the path."
            continue
        try:
            run = RunDir.find(value)
            if key in ("run", "continue"):  # checked before Hydra opens its log there
                check_links(run.path, EVALUATED if key == "run" else ())
        except ModisteError as error:
            yield f"'{key}': {error}"


def _missing(config: DictConfig, overrides: Sequence[str], root: str) -> Iterator[str]:
    """Describe required settings that are missing, and given ones that would be ignored."""
    if root == "index" and (config.action not in (None, "build") or config.at is not None):
        return
    elsewhere = [o for o in overrides if override_key(o) in ("hydra.run.dir", "run_dir")]
    if root == "evaluate" and elsewhere and _selected(config, "run"):
        yield f"Results of run={config.run} are written to the run's directory: remove {' '.join(elsewhere)}."
    keys, sentence = NEEDED.get(root, ((), ""))
    if any(_selected(config, key) in (None, "") for key in keys):
        yield sentence
    elif root in MODELS and not _has_model(config, overrides, root):
        yield f"No model given: {MODELS[root][1]}."


def _has_model(config: DictConfig, overrides: Sequence[str], root: str) -> bool:
    if root == "index" and Path(config.out).expanduser().is_dir():
        return True  # an existing index contains its model
    named = any(override.lstrip("+").startswith(("model=", "model.")) for override in overrides)
    return named or any(_selected(config, key) for key in MODELS[root][0])


def _selected(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # reported elsewhere
        return None
