"""Data files and splits of a local folder, by the rules of Hugging Face `datasets`.

`datasets` itself would open URLs and files outside the folder that its README names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from modiste.errors import ModisteError, did_you_mean
from modiste.utils import plain_yaml
from modiste.utils.run_dir import read_json

CARDS = ("README.md", ".huggingface.yaml")
DICTIONARY, STATE = "dataset_dict.json", "state.json"
"""Files of ``save_to_disk`` that list the splits, and the files of a split."""
TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
BUILDERS = {
    **dict.fromkeys(TABLES, "table"),
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tar": "webdataset",
    **dict.fromkeys(
        (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"), "imagefolder"
    ),
}
"""Suffix → builder. `datasets` has more, some of which run code or follow links to other files."""
IGNORED = ("config.json", "dataset_info.json", "dataset_infos.json", DICTIONARY, STATE)
BETWEEN = r"[-._ 0-9]"
KEYWORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
FRONT_MATTER = re.compile(r"\ufeff?\s*---[^\S\n]*\n(.*?)\n---", re.DOTALL)
SHARDED = re.compile(r"data/(?P<split>[\w.]+)-\d{5}-of-\d{5}[^/]*")


def saved_files(folder: Path) -> dict[str, list[Path]] | None:
    """Return split ("" if there are none) → Arrow files of ``save_to_disk``, or None for another layout.

    Raises:
        ModisteError: A JSON file of ``save_to_disk`` is damaged, or names a file that is missing or not in its folder.
    """
    if (folder / DICTIONARY).is_file():
        content = read_json(folder / DICTIONARY)
        names = content.get("splits") if isinstance(content, dict) else None
        return {str(name): _state_files(folder / _plain_name(folder / DICTIONARY, name)) for name in _listed(names)}
    return {"": _state_files(folder)} if (folder / STATE).is_file() else None


def _state_files(folder: Path) -> list[Path]:
    content = read_json(folder / STATE)
    listed = _listed(content.get("_data_files") if isinstance(content, dict) else None)
    names = [item.get("filename") if isinstance(item, dict) else None for item in listed]
    files = [folder / _plain_name(folder / STATE, name) for name in names]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None or not files:
        raise ModisteError(f"{folder / STATE} names no file {missing or 'at all'}: save the data set again.")
    return files


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _plain_name(source: Path, name: object) -> str:
    """Return ``name`` if it can be a file or folder next to ``source``, else raise ModisteError."""
    if not isinstance(name, str) or name in ("", ".", "..") or name != PurePosixPath(name).name or "\\" in name:
        raise ModisteError(f"{source} names {name!r}, which is not in its folder: save the data set again.")
    return name


def split_files(folder: Path, config: str | None = None) -> tuple[str, dict[str, list[Path]]]:
    """Return the builder (see `BUILDERS`) of a folder, and split → data files.

    The ``configs`` of the README list the files. Without them, the rules of `datasets` apply to their names: files
    like ``data/SPLIT-00000-of-00001.parquet``, else folders called train, validation, test or similar, else such file
    names, else everything is "train".

    Args:
        folder: A folder that passed `modiste.utils.links.refuse_outside`.
        config: One of the README's ``configs``; None: the only one, or the default.

    Raises:
        ModisteError: There are no data files, the configuration is unknown or ambiguous, or the README is malformed or
            names files outside the folder.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("train.csv", "test.csv", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     kind, files = split_files(Path(folder))
    >>> kind, {split: [file.name for file in files] for split, files in files.items()}
    ('table', {'train': ['train.csv'], 'test': ['test.csv']})
    """
    names = [name for name in _names(folder) if PurePosixPath(name).suffix.lower() in BUILDERS]
    patterns = _patterns(folder, config)
    if patterns is not None:
        splits = {split: [n for n in names if any(_fits(n, p) for p in given)] for split, given in patterns.items()}
    else:
        shown = [name for name in names if not _hidden(name)]
        kind = _commonest(shown)
        splits = by_name([name for name in shown if _builder(name) == kind])
    kind = _commonest([name for files in splits.values() for name in files])
    if not kind:
        raise ModisteError(f"{folder} holds no data files: the supported suffixes are {', '.join(BUILDERS)}.")
    found = {split: [folder / name for name in files if _builder(name) == kind] for split, files in splits.items()}
    return kind, {split: files for split, files in found.items() if files}


def _names(folder: Path) -> list[str]:
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in files if PurePosixPath(name).name not in IGNORED)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)


def _builder(name: str) -> str:
    return BUILDERS[PurePosixPath(name).suffix.lower()]


def _commonest(names: Sequence[str]) -> str:
    counts = Counter(map(_builder, names))
    return counts.most_common(1)[0][0] if counts else ""


def by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """Return split → files, by the names of files and folders.

    >>> by_name(["data/train-00000-of-00001.parquet", "data/gallery-00000-of-00001.parquet"])
    {'train': ['data/train-00000-of-00001.parquet'], 'gallery': ['data/gallery-00000-of-00001.parquet']}
    >>> by_name(["val/a.png", "training set/b.png"]), by_name(["my_dev.csv"]), by_name(["all.csv"])
    ({'train': ['training set/b.png'], 'validation': ['val/a.png']}, {'validation': ['my_dev.csv']}, \
{'train': ['all.csv']})
    """
    sharded = [match for match in map(SHARDED.fullmatch, names) if match is not None]
    if sharded:
        splits = sorted({match["split"] for match in sharded}, key=lambda split: (_rank(split), split))
        return {split: [match[0] for match in sharded if match["split"] == split] for split in splits}
    for pattern in (rf"(.*[/]|.*{BETWEEN}|)({{}})({BETWEEN}[^/]*)?/.*", rf"(.*[/]|.*{BETWEEN}|)({{}}){BETWEEN}[^/]*"):
        found = {
            split: [name for name in names if re.fullmatch(pattern.format(words), name)]
            for split, words in KEYWORDS.items()
        }
        if any(found.values()):
            return {split: files for split, files in found.items() if files}
    return {"train": list(names)}


def _rank(split: str) -> int:
    return list(KEYWORDS).index(split) if split in KEYWORDS else len(KEYWORDS)


def _patterns(folder: Path, config: str | None) -> dict[str, list[str]] | None:
    """Split → patterns of the chosen ``configs`` entry of the README; None if no entry lists files."""
    configs = _configs(folder)
    if not configs:
        return None
    name = config if config is not None else _default(folder, configs)
    if name not in configs:
        raise ModisteError(f"{folder} has no configuration '{name}'. {did_you_mean(str(name), configs)}")
    chosen = configs[name]
    inside = _checked(folder, str(chosen.get("data_dir") or ""))
    if chosen.get("data_files") is None:
        return {"train": [f"{inside}/**"]} if inside else None
    patterns = _by_split(folder, chosen["data_files"])
    return {
        split: [str(PurePosixPath(inside, _checked(folder, pattern))) for pattern in given]
        for split, given in patterns.items()
    }


def _configs(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The ``configs`` of a folder's README by name. Raises ModisteError for invalid YAML."""
    found: dict[str, Mapping[str, Any]] = {}
    for card in (folder / name for name in CARDS):
        if not card.is_file():
            continue
        text = card.read_text(encoding="utf-8", errors="replace")
        match = FRONT_MATTER.match(text) if card.suffix == ".md" else [text, text]
        try:
            content = plain_yaml.load(match[1]) if match else None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise ModisteError(f"{card} has YAML that cannot be read ({str(error)[:100]!r}): fix it.") from None
        listed = _listed(content.get("configs")) if isinstance(content, dict) else []
        found |= {str(item.get("config_name", "default")): item for item in listed if isinstance(item, dict)}
    return found


def _default(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> str:
    marked = [name for name, entry in configs.items() if entry.get("default") is True]
    names = list(configs) if len(configs) == 1 else marked or [name for name in configs if name == "default"]
    if not names:
        raise ModisteError(f"{folder} has several configurations: set data.catalogue.config={' or '.join(configs)}.")
    return names[0]


def _by_split(folder: Path, given: Any) -> dict[str, list[str]]:
    """Split → patterns, from any form of ``data_files``."""
    if isinstance(given, dict):
        given = [{"split": split, "path": path} for split, path in given.items()]
    entries = given if isinstance(given, list) else [given]
    if all(isinstance(entry, str) for entry in entries):
        return {"train": entries}
    found: dict[str, list[str]] = {}
    for entry in entries:
        paths = entry.get("path") if isinstance(entry, dict) else None
        paths = [paths] if isinstance(paths, str) else _listed(paths)
        if not paths or not all(isinstance(path, str) for path in paths) or not isinstance(entry.get("split"), str):
            raise ModisteError(f"The README of {folder} has data_files that are not split and path: fix it.")
        found.setdefault(entry["split"], []).extend(paths)
    return found


def _checked(folder: Path, pattern: str) -> str:
    """Normalise a pattern of the README. Raises ModisteError if it leads out of the folder."""
    plain = pattern.removeprefix("./")
    parts = PurePosixPath(plain).parts
    if plain.startswith(("/", "~")) or ".." in parts or "\\" in plain or "::" in plain or re.match(r"\w+:", plain):
        raise ModisteError(
            f"The README of {folder} names the data files '{pattern}', which are not in the folder: put copies into "
            "it, or remove them from the README."
        )
    return str(PurePosixPath(plain)) if parts else ""


def _fits(name: str, pattern: str) -> bool:
    """Whether a path matches a pattern, in which ``**`` stands for any folders, without backtracking.

    >>> [_fits("a/b/c.csv", pattern) for pattern in ("a/**", "**/c.*", "a/*.csv", "a/b/c.csv")]
    [True, True, False, True]
    """
    parts = PurePosixPath(pattern).parts

    def beyond(places: set[int]) -> set[int]:  # ** also matches no folder
        for place in range(len(parts)):
            if place in places and parts[place] == "**":
                places.add(place + 1)
        return places

    places = beyond({0})
    for word in PurePosixPath(name).parts:
        here = [place for place in places if place < len(parts)]
        stay = {place for place in here if parts[place] == "**"}
        places = beyond(stay | {place + 1 for place in here if fnmatchcase(word, parts[place])})
    return len(parts) in places
