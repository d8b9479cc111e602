"""``resume=RUN`` and ``continue=RUN``: restore and check RUN's overrides, detect changed settings."""

from __future__ import annotations

import itertools
import re
import shlex
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.config.overrides import override_key, parse
from modiste.config.stored import load_config, load_overrides, parts_of
from modiste.config.tree import join, walk
from modiste.config.validation import AUTOMATIC, GLOBAL, STARTS
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

# Paths may change between two starts.
PLACES = (*STARTS, "run_dir", "data_dir", "log_dir")
# Keys that may make a training longer.
LENGTHS = ("trainer", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "experiment")
# Keys that say where a training run writes, and which account it logs to.
WRITES = ("dirpath", "filename", "save_dir", "sub_dir", "run_dir", "log_dir", "default_root_dir", "entity")
WRITERS = ("callbacks", "logger", "trainer")
WRITER = re.compile(rf"[+~]*({'|'.join(WRITERS)}|log_dir|run_dir|name)\b")
# Choice of a group's option, which lies in the user's own folders; not a key inside a group, not a folder.
CHOICE = re.compile(r"\+?(?!(?:name|log_dir|run_dir)=)[\w/]+=[\w\[\],-]*")
# Absolute paths, parent folders, fsspec URLs, and variables that TensorBoard expands.
ELSEWHERE = re.compile(r"^/|[$~\\]|\.\.|::|://")
RUN_FOLDER = f"/{uuid.uuid4().hex}"
"""Placeholder for the run directory, which is not known yet; it is random, so no file can name it."""


class Restart(NamedTuple):
    """A run to restart.

    Attributes:
        run: Its directory.
        continues: Whether training resumes in that directory.
        overrides: Its former overrides that the new ones do not replace.
    """

    run: Path
    continues: bool
    overrides: list[str]


def restart(overrides: Sequence[str], groups: Collection[str]) -> Restart | None:
    """Return the restart that ``resume=RUN`` or ``continue=RUN`` requests; None without either.

    ``continue=auto`` does not count: its overrides are complete, and only the job knows its directory.

    Args:
        overrides: Overrides of `modiste train`.
        groups: Config groups. Replacing the option of a group drops the former overrides of its keys.

    Raises:
        ModisteError: The run does not exist, has no record of its overrides, or several runs are given.
    """
    named = _naming(overrides)
    if named is None:
        return None
    run = _named_run(named)
    earlier = [o for o in load_overrides(run / "overrides.yaml") if override_key(o) not in (*STARTS, "run_dir")]
    return Restart(run, override_key(named) == "continue", _in_force(earlier, overrides, groups))


def _naming(overrides: Sequence[str]) -> str | None:
    """Return the first override that names a run to restart."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("resume", "continue") and value not in ("null", AUTOMATIC):
            return override
    return None


def _named_run(override: str) -> Path:
    from hydra.errors import OverrideParseException

    try:
        parsed = parse(override)
    except OverrideParseException:
        raise ModisteError(f"Cannot read '{override}': give one run directory, in quotes.") from None
    if parsed.is_sweep_override():
        raise ModisteError(f"{override}: give one run directory.")
    return RunDir.find(str(OmegaConf.create({"run": parsed.value()}).run)).path


def check_in_place(
    config: DictConfig, overrides: Sequence[str], compose: Callable[[Sequence[str]], DictConfig]
) -> None:
    """Check that the stored, untrusted overrides of a restarted run do not redirect its output.

    The composed values count. Values from the command line and from options of groups are the user's and permitted, as
    is the folder that contains the run.

    Args:
        config: The composed configuration.
        overrides: Its overrides, those of the run first; ``resume`` or ``continue`` names the run.
        compose: Composes the configuration from other overrides.

    Raises:
        ModisteError: A stored override sets a folder, file name, URL or account that the run would write or log to.
    """
    named = _naming(overrides)
    if named is None:
        return
    run = _named_run(named)
    recorded = run / "overrides.yaml"
    stored = iter(load_overrides(recorded))
    of_run = list(itertools.takewhile(lambda override: override in stored, overrides))  # they come first, in order
    try:
        usual = compose([*filter(CHOICE.fullmatch, of_run), *overrides[len(of_run) :]])
    except ModisteError:  # the command line sets a key that only the run's own overrides add
        usual = compose([])
    users = _strings(usual)
    for path, value in _strings(config).items():
        if users.get(path) != value and not _is_harmless(path, value):
            raise ModisteError(
                f"{recorded} sets {path} to {value}, but a file may not say where a training run writes or logs to: "
                f"give {path}=… again on the command line."
            )
    if "log_dir" in config:
        _check_folder(config, usual, run)
    _check_resolved(config, usual, recorded)
    if "sweep" in config:
        _check_trials(of_run, recorded)


def _strings(config: DictConfig) -> dict[str, str]:
    """Map dotted key → string in callbacks, logger, trainer, and a sweep's choices for them."""
    config = config.copy()
    OmegaConf.update(config, "run_dir", RUN_FOLDER, force_add=True)
    found: dict[str, str] = {}

    def visit(path: str, value: object) -> None:
        if isinstance(value, str):
            found[path] = value
        items = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        for key, item in items:
            visit(join(path, key), item)

    swept = OmegaConf.select(config, "sweep.space") or {}
    parts = {name: config.get(name) for name in WRITERS}
    parts |= {key: node for key, node in swept.items() if WRITER.match(str(key))}
    for name, node in parts.items():
        visit(str(name), OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)
    return found


def _is_harmless(path: str, value: str) -> bool:
    """Whether a stored value of a callback, logger or trainer cannot lead out of the run directory.

    >>> _is_harmless("logger.x.name", "a/b"), _is_harmless("logger.x.name", "$TOKEN")
    (True, False)
    >>> _is_harmless("x.dirpath", "a"), _is_harmless("x.dirpath", f"{RUN_FOLDER}/a")
    (False, True)
    """
    key = [part for part in path.split(".") if not part.isdecimal() and part != "choices"][-1]
    inside = value == RUN_FOLDER or value.startswith(f"{RUN_FOLDER}/")
    return not ELSEWHERE.search(value[len(RUN_FOLDER) + 1 :] if inside else value) and (inside or key not in WRITES)


def _check_resolved(config: DictConfig, usual: DictConfig, recorded: Path) -> None:
    """Check that no stored value becomes an interpolation, which a later reader could resolve."""
    found = [part for key, value in _resolved(config) for part in (key, value) if "${" in part]
    users = {part for item in _resolved(usual) for part in item}
    for text in found:
        if text not in users:
            raise ModisteError(
                f"{recorded} contains the value '{text}', which is refused: a file may not call a resolver."
            )


def _resolved(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield dotted key and value of the strings in a configuration that can be resolved."""
    for path, parent, key in walk(config):
        try:
            value = parent[key]
        except OmegaConfBaseException:  # run_dir, and missing values
            continue
        if isinstance(value, str):
            yield path, value


def _check_trials(stored: Sequence[str], recorded: Path) -> None:
    """Check that the stored output paths of a sweep's trials do not depend on the values they try."""
    for override in filter(WRITER.match, stored):
        texts = [part for item in parts_of(parse(override).value()) for part in item if isinstance(part, str)]
        if any("${" in text.replace("${run_dir}", "") for text in texts):
            raise ModisteError(
                f"{recorded} contains '{override}', but a file may not say where a trial writes or logs to: give it "
                "again on the command line."
            )


def _check_folder(config: DictConfig, usual: DictConfig, run: Path) -> None:
    """Check that a new run directory lies next to ``run``, or by a plain name in the folder of runs."""
    folder, name = str(config.log_dir), str(config.name)
    if Path(folder, name).expanduser().resolve() in run.resolve().parents[:2]:  # the second: of a trial of a sweep
        return
    if usual.log_dir != folder or (usual.name != name and ELSEWHERE.search(name)):
        raise ModisteError(
            f"{run / 'overrides.yaml'} puts new runs into '{Path(folder, name)}', but a file may not say where a "
            "training run writes: give log_dir=… and name=… on the command line."
        )


def _in_force(earlier: Sequence[str], later: Sequence[str], groups: Collection[str]) -> list[str]:
    """Drop overrides of keys that later ones set, or of groups whose option later ones replace."""
    keys = {override.partition("=")[0] for override in later}
    before = _last(earlier)
    other = {override.partition("=")[0] for override in later if override not in before}
    replaced = tuple(f"{key}{sign}" for key in other & set(groups) for sign in "./")
    return [o for o in earlier if o.partition("=")[0] not in keys and not o.lstrip("+~").startswith(replaced)]


def _last(overrides: Iterable[str]) -> set[str]:
    """Return the effective overrides: the last one for each key."""
    return set({override_key(override): override for override in overrides}.values())


def check_unchanged(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check that a restarted run has the settings that it was started with.

    A recipe or a default may have been edited since. Permitted are changes by new ``overrides``, of paths, and of keys
    that only one of the two configurations has.

    Args:
        config: The composed configuration; ``resume`` or ``continue`` names the run.
        overrides: Its overrides.

    Raises:
        ModisteError: Any other key differs.
    """
    named = config["continue"] or config["resume"]
    if not named or not overrides:
        return
    run = RunDir.find(named)
    recorded = run.path / "overrides.yaml"
    known = _last(load_overrides(recorded)) if recorded.is_file() else set()
    given = {override_key(o).partition("@")[0].replace("/", ".") for o in overrides if o not in known}
    if config["continue"] and run.finished:
        check_goes_on(run, [override for override in overrides if override in _last(overrides) - known])
    if given & set(GLOBAL):
        return
    changed = list(differences(config, load_config(run.config), (*given, *PLACES)))
    if changed:
        key, was, now = changed[0]
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ModisteError(
            f"{run.path} was started with {key}={was}, which the configuration now sets to {now}{more}: give {key}=… "
            f"to say which, or start a new run with init={shlex.quote(str(run.path))}."
        )


def check_goes_on(run: RunDir, overrides: Sequence[str]) -> None:
    """Check that new overrides of a run that is trained to the end let it train on.

    Raises:
        ModisteError: They change settings of training, but not how long it is.
    """
    keys = {override: override_key(override) for override in overrides}
    changed = [override for override, key in keys.items() if key.split(".")[0] not in (*PLACES, "hydra")]
    if changed and not set(LENGTHS) & set(keys.values()):
        raise ModisteError(
            f"{run.path} is trained to the end, and {changed[0]} would change nothing in it: raise trainer.max_epochs, "
            f"too, or start a new run with init={shlex.quote(str(run.path))}."
        )


def differences(
    config: DictConfig, stored: DictConfig, without: Collection[str]
) -> Iterator[tuple[str, object, object]]:
    """Yield (key, stored, composed) of values that differ, except below the keys ``without``.

    >>> list(differences(OmegaConf.create({"a": 1, "b": {"c": 2}}), OmegaConf.create({"a": 0, "b": {"c": 3}}), ["b"]))
    [('a', 0, 1)]
    """
    below = tuple(f"{key}." for key in without)
    for path, parent, key in walk(config):
        if f"{path}.".startswith(below) or OmegaConf.is_interpolation(parent, key) or OmegaConf.is_missing(parent, key):
            continue
        now, absent = parent[key], object()
        try:
            was = OmegaConf.select(stored, path, default=absent)
        except OmegaConfBaseException:
            continue
        if isinstance(now, ListConfig) or isinstance(was, ListConfig):
            now, was = (OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for v in (now, was))
        if was is not absent and not isinstance(now, DictConfig) and was != now and path.split(".")[-1] != "download":
            yield path, was, now
