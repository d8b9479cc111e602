"""Composition of a root config with overrides, as on Hydra's command line."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.config import messages, paths
from modiste.config.quoting import quote
from modiste.errors import ModisteError
from modiste.metrics.direction import direction
from modiste.utils.run_dir import RunDir

# Hydra 1.3 requires a version_base, 1.4 deprecates it.
VERSION_BASE: dict[str, str] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def run_or(run: str | None, other: str) -> str:
    """Return ``run`` if it is a run directory, else ``other``; in YAML: ``${run_or:${run},other}``."""
    return run if run and RunDir(Path(run).expanduser()).is_run else other


OmegaConf.register_new_resolver("run_or", run_or, replace=True)
# The mode of a monitored metric, min or max: ${direction:${monitor.metric}}.
OmegaConf.register_new_resolver("direction", direction, replace=True)


# Mappings with arbitrary keys, which users add without a +.
OPEN = (
    "transfer",
    "data.derive",
    "data.fields",
    "data.captions.words",
    "data.captions.synonyms",
    "data.catalogue.columns",
    "data.stream.columns",
    "data.prompts",
    "data.queries",
    "data.classes",
    "data.split.hold_out",
    "sweep.space",
)


# In the option of a group: a parent folder, an absolute path, an interpolation.
OUTSIDE = re.compile(r"""(^|[/,\[\]()'"\s])\.\.(?=$|[/,\[\]()'"\s])|[,\[\]()'"\s/]/|\$""")
HOME = re.compile(r"""([^=]*=)(["']?)~(?=/|\2$)""")


def at_home(override: str) -> str:
    """Expand a ``~`` at the beginning of an override's value, which no shell expands in quotes.

    >>> at_home('run="~/run"').endswith('/run"'), at_home("~callbacks.best"), at_home("note=a ~/b")
    (True, '~callbacks.best', 'note=a ~/b')
    """
    found = HOME.match(override)
    if not found:
        return override
    key, mark = found.groups()
    home, rest = str(Path("~").expanduser()), override[found.end() :]
    within = home if mark == "'" else quote(home)[1:-1]
    return f"{key}{mark}{within}{rest}"


def opened(override: str) -> str:
    """Return ``override`` in the form that Hydra needs: ``++`` for keys in `OPEN`, and ``~`` expanded.

    >>> opened("data.derive.kind=[]"), opened("transfer={fmnist: {data: fashion_mnist}}"), opened("optim.lr=1")
    ('++data.derive.kind=[]', '++transfer={fmnist: {data: fashion_mnist}}', 'optim.lr=1')
    """
    starts = tuple(f"{key}{start}" for key in OPEN for start in (".", "={"))
    override = at_home(override)
    return f"++{override}" if override.startswith(starts) else override


def compose(
    config_name: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = (), *, root: Path | None = None
) -> DictConfig:
    """Compose the config ``config_name`` with Hydra ``overrides``, as the command line does.

    Args:
        config_name: A YAML at the top level of conf/, without suffix: "train", "evaluate", …
        overrides: In Hydra's grammar; see `quote` for values with special characters.
        config_dirs: Additional folders with config groups (``--config-dir``).
        root: Folder to use instead of `paths.config_dir`.

    Raises:
        ModisteError: A group, option or key is unknown, an override cannot be parsed, or a YAML file cannot be read.

    >>> compose("train", ["loss=siglip"]).loss._target_
    'modiste.losses.siglip.SigLipLoss'
    """
    folders = [root or paths.config_dir(), *config_dirs]
    with _hydra(config_name, overrides, folders):
        return hydra.compose(config_name, _with_searchpath(list(map(opened, overrides)), config_dirs))


def compose_with_sources(
    config_name: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = (), *, root: Path | None = None
) -> tuple[DictConfig, list[tuple[Path, str]]]:
    """Like `compose`, but also return the merged files in order, each with its dotted key ("": the top).

    Hydra's own files are excluded.
    """
    loading: Any = importlib.import_module("hydra._internal.config_loader_impl")
    folders = [root or paths.config_dir(), *config_dirs]
    given = _with_searchpath(list(map(opened, overrides)), config_dirs)
    merged: list[Any] = []
    create = loading.create_defaults_list

    def remembered(*arguments: Any, **more: Any) -> Any:
        """Keep the defaults list of the composition: creating it a second time would take half as long again."""
        merged.append(create(*arguments, **more))
        return merged[-1]

    loading.create_defaults_list = remembered
    try:
        with _hydra(config_name, overrides, folders):
            config = hydra.compose(config_name, given)
    finally:
        loading.create_defaults_list = create
    files = []
    for default in merged[-1].defaults:
        found = [folder / f"{default.config_path}.yaml" for folder in folders]
        files += [(file, default.package or "") for file in found if file.is_file()][:1]
    return config, files


def check_choices(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Check that the options of groups are files of their folders: Hydra would follow a path out of them.

    Raises:
        ModisteError: An option is a path out of its group, or contains an interpolation.

    >>> check_choices(["loss=clip", "task=[retrieval,zeroshot]", "data_dir=../data"], [paths.config_dir()])
    >>> check_choices(["loss=../../tmp/x"], [paths.config_dir()])
    Traceback (most recent call last):
    ...
    modiste.errors.ModisteError: 'loss=../../tmp/x' leads out of the group 'loss': name one of its options, or give \
your own folder with --config-dir.
    """
    for override in overrides:
        key, _, value = override.replace("\\", "").lstrip("+~").partition("=")
        group = key.partition("@")[0]
        is_group = ".." in group.split("/") or any((folder / group).is_dir() for folder in folders)
        if is_group and not value.lstrip().startswith("{") and OUTSIDE.search(f"{group}/{value}"):
            other = "a folder with a model" if group == "model" else "give your own folder with --config-dir"
            raise ModisteError(f"'{override}' leads out of the group '{group}': name one of its options, or {other}.")


@contextmanager
def _hydra(config_name: str, overrides: Sequence[str], folders: Sequence[Path]) -> Iterator[None]:
    """Initialise Hydra for composition, and turn its errors into ModisteError."""
    check_choices(overrides, folders)
    try:
        with _set_aside(), hydra.initialize_config_dir(config_dir=str(folders[0].resolve()), **VERSION_BASE):
            yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ModisteError(messages.explain(error, config_name, overrides, folders, compose)) from error


@contextmanager
def _set_aside() -> Iterator[None]:
    """Hide the running Hydra job, which would prevent another composition within it."""
    from hydra.core.global_hydra import GlobalHydra

    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def _with_searchpath(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    if not config_dirs:
        return list(overrides)
    key = "hydra.searchpath=["
    given = [o[len(key) : -1] for o in overrides if o.startswith(key)]
    own = [quote(f"file://{folder.resolve()}") for folder in config_dirs]
    return [*(o for o in overrides if not o.startswith(key)), f"{key}{','.join(own + given)}]"]
