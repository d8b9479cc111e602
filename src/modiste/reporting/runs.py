"""Training runs in a folder: their overrides, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modiste.config.stored import read_plain
from modiste.utils.run_dir import RunDir

SEED = "seed"
WHERE = ("run_dir", "continue", "resume", "name", "hydra", "data_dir")
"""Settings that locate files and do not change what is trained."""
MOST = 4  # settings in a row's label
LONG = 8  # maximum characters of a number that is shown in full
TARGET = "_target_"


def find_runs(folder: str | Path) -> list[Path]:
    """Run directories of training runs in ``folder``, itself included, in natural order of their paths.

    Each seed of a trial is a separate run. Folders without a CSV log are skipped.
    """
    folder = Path(folder)
    found = [path.parent for path in folder.rglob("config.yaml") if any(path.parent.glob("csv/version_*/metrics.csv"))]
    return sorted(found, key=lambda path: [(len(part), part) for part in path.parts])


def overrides_of(run: Path) -> dict[str, str]:
    """Overrides of a run, key to value, without those in `WHERE`; empty where they are not recorded."""
    given = _yaml(run / "overrides.yaml")
    words = [str(word).lstrip("+").partition("=") for word in given] if isinstance(given, list) else []
    return {
        key: _unquoted(value) for key, _, value in words if key.split(".")[0] not in WHERE and not key.startswith("~")
    }


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' and "\\" not in value else value


def config_of(run: Path) -> dict[str, Any]:
    """Resolved configuration of a run; empty where it has none."""
    content = _yaml(RunDir(run).config)
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> Any:
    return read_plain(path) if path.is_file() else None


def differing(runs: Sequence[Path]) -> list[dict[str, str]]:
    """Settings in which the runs differ, for each run; values not overridden come from its configuration.

    Args:
        runs: Run directories.

    Returns:
        Setting to value, for each run, in the order of the overrides; empty for runs that differ in no recorded
        setting.
    """
    given, configs = [overrides_of(run) for run in runs], [_flat(config_of(run)) for run in runs]
    keys = [key for found in given for key in found]
    settings = [
        {key: found[key] if key in found else _shown(config.get(key)) for key in dict.fromkeys(keys)}
        for found, config in zip(given, configs, strict=True)
    ]
    varying = _varying(settings)
    if not varying:
        varying = _varying(configs)
        # A part of another class differs in all its settings: show its class instead.
        swapped = {key.removesuffix(f".{TARGET}") for key in varying if key.endswith(f".{TARGET}")}
        inside = {key for key in varying for part in swapped if key.startswith(f"{part}.")}
        settings = [
            {part: _shown(config.get(f"{part}.{TARGET}")).rpartition(".")[2] for part in sorted(swapped)}
            | {key: _shown(config.get(key)) for key in varying if key not in inside}
            for config in configs
        ]
        varying = _varying(settings)
    return [{key: found[key] for key in varying if found.get(key)} for found in settings]


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for found in settings for key in found)
    return [key for key in keys if len({str(found.get(key)) for found in settings}) > 1]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves by dotted name, without `WHERE`."""
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    inner = {f"{name}.{key}" if name else str(key): item for key, item in value.items() if name or key not in WHERE}
    return {key: leaf for where, item in inner.items() for key, leaf in _flat(item, where).items()}


def _shown(value: Any) -> str:
    """A value as written on the command line; empty for None."""
    return {None: "", True: "true", False: "false"}.get(value, value) if _plain(value) else str(value)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, str))


def shorter(value: str) -> str:
    """A setting as shown in a table: long numbers with four significant digits.

    >>> shorter("0.0012106012652034494"), shorter("0.001"), shorter("siglip"), shorter("20260101")
    ('0.001211', '0.001', 'siglip', '20260101')
    """
    if len(value) <= LONG or value.isdigit():
        return value
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value


def label_of(settings: Mapping[str, str], without: Sequence[str] = ()) -> str:
    """Label of a row from its settings.

    >>> label_of({"loss": "siglip", "optim.lr": "0.001", "seed": "1"}, without=["seed"])
    'loss=siglip, optim.lr=0.001'
    """
    words = [f"{key}={shorter(value)}" for key, value in settings.items() if key not in without]
    return ", ".join(words[:MOST]) + (", …" if len(words) > MOST else "")
