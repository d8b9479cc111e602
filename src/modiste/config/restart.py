"""``resume=RUN`` and ``continue=RUN``: the overrides that RUN was started with, and what has changed since."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modiste.config.overrides import override_key
from modiste.config.stored import load_config, load_overrides
from modiste.config.tree import walk
from modiste.config.validation import AUTOMATIC, GLOBAL, STARTS
from modiste.errors import ModisteError
from modiste.utils.run_dir import RunDir

# Where things lie may change between two starts.
PLACES = (*STARTS, "run_dir", "data_dir", "log_dir")
# Where a training writes to: keys anywhere in an override, and paths and addresses of what logs and saves.
WRITES = re.compile(r"\b(dirpath|filename|save_dir|sub_dir|run_dir|default_root_dir|entity)\b['\"]?\s*[:=]")
WRITER = re.compile(r"\b(callbacks|logger|trainer)\b")
ELSEWHERE = re.compile(r"(?:^|[\s'\"{\[:,=])[/~][\w./]|\.\.|::|://|\$\{")
OTHER = re.compile(r"\.\.|/")
NAMES = ("log_dir", "name", "data.name")
"""Keys that make the path of a new run directory."""


class Restart(NamedTuple):
    """A restarted run.

    Attributes:
        run: Its directory.
        continues: Whether training resumes in that directory.
        overrides: What it was started with, as far as the new overrides leave it in force.
    """

    run: Path
    continues: bool
    overrides: list[str]


def restart(overrides: Sequence[str], groups: Collection[str]) -> Restart | None:
    """The restart that ``resume=RUN`` or ``continue=RUN`` among ``overrides`` requests; None without either.

    ``continue=auto`` is neither: its overrides are whole, and only the job knows its directory.

    Args:
        overrides: Of `modiste train`.
        groups: Config groups: one that is replaced takes its earlier keys with it.

    Raises:
        ModisteError: The run is missing, has no record of its overrides, or more than one is given.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("resume", "continue") and value not in ("null", AUTOMATIC):
            run = _named_run(override)
            earlier = [o for o in load_overrides(run / "overrides.yaml") if override_key(o) not in (*STARTS, "run_dir")]
            in_force = _in_force(earlier, overrides, groups)
            _check_in_place(in_force, run)
            return Restart(run, key == "continue", in_force)
    return None


def _named_run(override: str) -> Path:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides([override])[0]
    except OverrideParseException:
        raise ModisteError(f"Cannot read '{override}': give one run directory, in quotes.") from None
    if parsed.is_sweep_override():
        raise ModisteError(f"{override}: give one run directory.")
    return RunDir.find(str(OmegaConf.create({"run": parsed.value()}).run)).path


def _check_in_place(stored: Sequence[str], run: Path) -> None:
    """Check that no override of a run, which may be a stranger's, says where a training writes or logs to.

    The folder of runs that it lies in is no surprise.
    """
    for override in stored:
        plain = override.replace("\\", "")  # Hydra takes escapes away
        key, value = override_key(plain), plain.partition("=")[2].strip("'\" ")
        elsewhere = bool(WRITES.search(plain) or (WRITER.search(plain) and ELSEWHERE.search(value)))
        if key in NAMES:
            above = run.resolve().parents[:3]  # log_dir/name/time, and a trial of a sweep
            placed = Path(value).expanduser().resolve() in above if key == "log_dir" else not OTHER.search(value)
            elsewhere = not placed
        if elsewhere:
            raise ModisteError(
                f"{run / 'overrides.yaml'} holds '{override}', and a file may not say where a training writes or logs "
                "to: give it again on the command line."
            )


def _in_force(earlier: Sequence[str], later: Sequence[str], groups: Collection[str]) -> list[str]:
    """Overrides without the keys that later ones set, and without what lay in a group that they replace by another."""
    keys = {override.partition("=")[0] for override in later}
    before = _last(earlier)
    other = {override.partition("=")[0] for override in later if override not in before}
    replaced = tuple(f"{key}{sign}" for key in other & set(groups) for sign in "./")
    return [o for o in earlier if o.partition("=")[0] not in keys and not o.lstrip("+~").startswith(replaced)]


def _last(overrides: Iterable[str]) -> set[str]:
    """Of overrides those that count: the last one of each key."""
    return set({override_key(override): override for override in overrides}.values())


def check_unchanged(config: DictConfig, overrides: Sequence[str]) -> None:
    """Check that a restarted run has the settings that it was stopped with.

    A recipe or a default may have been edited since. Keys that ``overrides`` add to those of the stored run may differ,
    and so may places and keys that only one of the two has.

    Args:
        config: The composed configuration; ``resume`` or ``continue`` names the run.
        overrides: That it was composed with.

    Raises:
        ModisteError: Other keys differ.
    """
    named = config["continue"] or config["resume"]
    if not named or not overrides:
        return
    run = RunDir.find(named)
    recorded = run.path / "overrides.yaml"
    known = _last(load_overrides(recorded)) if recorded.is_file() else set()
    given = {override_key(o).partition("@")[0].replace("/", ".") for o in overrides if o not in known}
    if given & set(GLOBAL):
        return
    changed = list(_differences(config, load_config(run.config), (*given, *PLACES)))
    if changed:
        key, was, now = changed[0]
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ModisteError(
            f"{run.path} was started with {key}={was}, which the configuration now sets to {now}{more}: give {key}=… "
            f"to say which, or start a new run with init={run.path}."
        )


def _differences(
    config: DictConfig, stored: DictConfig, without: Collection[str]
) -> Iterator[tuple[str, object, object]]:
    """(key, stored, composed) of the values that both have, other than what lies below a key of ``without``."""
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
