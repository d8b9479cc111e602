"""Recompute results from the settings in their files, and compare them bit for bit."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modiste.config import quote
from modiste.config.stored import check_overrides
from modiste.errors import ModisteError
from modiste.reporting.tables import differences, find_results, read_result, read_values, without_paths
from modiste.utils.own_process import own_command, own_environment
from modiste.utils.run_dir import EVALUATED, RunDir, read_text

# Overrides of output paths and speed, which are replaced.
REPLACED = ("run", "run_dir", "overwrite", "cache", "deterministic")
# What is compared, most informative first: key of the result file → verdict on another value.
IDENTITY = {
    "model": "other weights",
    "data_fingerprint": "other data",
    "config": "other settings",
    "seed": "other seed",
}
NUMBERS = ("metrics", "counts", "protocol", "confusion", "tables", "examples", "overlap")
SHOWN = 3  # differences listed per result


@dataclass(frozen=True)
class Recipe:
    """Recipe for recomputing a result.

    Attributes:
        overrides: Hydra's overrides, without those of `REPLACED`.
        run: The run directory of the model; None for a published model or embeddings on disk.
        threads: Number of torch threads, which affects the last bits; None if not recorded.
    """

    overrides: tuple[str, ...]
    run: Path | None
    threads: int | None = None

    def __str__(self) -> str:
        own = [] if self.run is None else [f"run={self.run}"]
        return shlex.join(["modiste", "evaluate", *own, *self.overrides])


@dataclass
class Verdict:
    """Verdict on one result: ``identical`` or another status, and the differences."""

    path: Path
    word: str
    details: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the result was reproduced."""
        return self.word in ("identical", "within tolerance")

    def __str__(self) -> str:
        return f"{self.word}: {self.path}" + (f" ({'; '.join(self.details)})" if self.details else "")


def verify_results(
    paths: Sequence[str],
    run: str | None = None,
    tolerance: float = 0.0,
    cache: bool = True,
    config_dirs: Sequence[Path] = (),
) -> Iterator[Verdict]:
    """Recompute results from the settings in their files and compare them.

    Args:
        paths: Result files, or directories that contain some.
        run: Present location of the run directory; None: around the file, or as recorded.
        tolerance: Maximum difference of numbers that count as equal.
        cache: Use cached embeddings.
        config_dirs: Folders with the user's config groups; those that a file names are ignored.

    Raises:
        ModisteError: There are no results.
    """
    recipes: dict[Recipe, list[Path]] = {}
    for path in dict.fromkeys(file for given in paths for file in find_results(given)):
        try:
            recipes.setdefault(recipe(read_result(path), path, run), []).append(path)
        except ModisteError as error:
            yield Verdict(path, "not computed", [str(error)])
    for how, files in recipes.items():
        print(f"Recomputing: {how}", file=sys.stderr, flush=True)
        yield from verify(how, files, tolerance, cache, config_dirs)


def recipe(result: dict[str, Any], path: Path, moved: str | None = None) -> Recipe:
    """How ``result`` was computed: from its ``overrides`` if it has any, else from its ``command``.

    The file is untrusted: Hydra's keys are excluded, and flags, config folders and resolvers are refused or ignored.

    Args:
        result: Content of the result file.
        path: The file; a run directory around it takes precedence over the recorded one.
        moved: Present location of the run directory.

    Raises:
        ModisteError: The file does not record how it was computed, or the run directory is missing.
    """
    try:
        words = shlex.split(result.get("command", ""))
    except ValueError:
        words = []
    if words[:2] != ["modiste", "evaluate"] and not result.get("overrides"):
        raise ModisteError(f"{path} has no record of its modiste evaluate command: evaluate again.")
    overrides = [word for word in words[2:] if not word.startswith("-")]
    overrides = result.get("overrides") or overrides
    names = [str(override).partition("=")[0].lstrip("+~") for override in overrides]
    kept = [
        o for o, name in zip(overrides, names, strict=True) if name not in REPLACED and not name.startswith("hydra")
    ]
    run_dir = find_run(result, path, moved) if "run" in names else None
    threads = result.get("environment", {}).get("threads")
    return Recipe(tuple(check_overrides(kept, path)), run_dir, threads if isinstance(threads, int) else None)


def find_run(result: dict[str, Any], path: Path, moved: str | None) -> Path:
    """The run directory of a result: as given, around the file, or as recorded.

    Raises:
        ModisteError: It does not exist.
    """
    if moved:
        return RunDir.find(moved).path
    recorded = Path(str(result["model"].get("source", ""))).expanduser()
    for folder in (path.resolve().parent.parent, recorded):
        if RunDir(folder).is_run:
            return folder
    raise ModisteError(f"There is no run directory {recorded}, recorded in {path}: give its location with run=DIR.")


def verify(
    how: Recipe, paths: Sequence[Path], tolerance: float, cache: bool, config_dirs: Sequence[Path] = ()
) -> Iterator[Verdict]:
    """Recompute the results of one recipe in a separate process and folder, and compare each."""
    with tempfile.TemporaryDirectory(prefix="modiste-verify-") as name:
        problem = compute(how, Path(name), cache, config_dirs)
        made = {file.name: file for file in Path(name).rglob("results/*.json")}
        for path in paths:
            result = read_result(path)
            again = made.get(path.name) or next((f for f in made.values() if same_place(result, f)), None)
            if problem or again is None:
                yield Verdict(path, "not computed", [problem or "the command makes no such result"])
            else:
                yield compare(path, again, tolerance)


def same_place(result: dict[str, Any], file: Path) -> bool:
    """Whether ``file`` has the same task, data set, split and variant."""
    other = json.loads(read_text(file))
    return all(result.get(key) == other.get(key) for key in ("task", "data", "split", "variant"))


def compute(how: Recipe, folder: Path, cache: bool, config_dirs: Sequence[Path] = ()) -> str:
    """Run the evaluation with outputs below ``folder``; return an error message, or an empty string."""
    words = [*how.overrides, "overwrite=true", "deterministic=true", f"cache={str(cache).lower()}"]
    if how.run is None:
        words.append(f"hydra.run.dir={quote(str(folder / 'out'))}")
    else:  # results of a run are stored in its directory
        words.append(f"run={quote(str(stand_in(how.run, folder / 'run')))}")
    flags = [f"--config-dir={config_dir}" for config_dir in config_dirs]
    command = own_command("evaluate", *flags, *words)
    # Required for a deterministic cuBLAS.
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **own_environment()}
    if how.threads is not None:
        environment |= {"OMP_NUM_THREADS": str(how.threads), "MKL_NUM_THREADS": str(how.threads)}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = finished.stderr.strip().splitlines()
    last = lines[-1].removeprefix("Error: ") if lines else f"exit code {finished.returncode}"
    return last if finished.returncode else ""


def stand_in(run: Path, folder: Path) -> Path:
    """Link configuration and checkpoints of ``run`` into ``folder``: nothing is written to ``run``."""
    folder.mkdir(parents=True)
    for name in EVALUATED:
        (folder / name).symlink_to((run / name).resolve())
    return folder


# ---------------------------------------------------------------------------------------------------------- comparison


def compare(path: Path, again: Path, tolerance: float) -> Verdict:
    """Compare a result file with the recomputed one."""
    before, after = read_result(path), read_result(again)
    old, new = comparable(before), comparable(after)
    for key, word in IDENTITY.items():
        found = list(differences(old[key], new[key], key))
        if found:
            return Verdict(path, word, [_tell(*difference) for difference in found[:SHOWN]])
    gone = any("unknown" in (side["overlap"] or {}) for side in (old, new))  # the training data
    keys = [key for key in NUMBERS if key in before and not (gone and key == "overlap")]
    new["examples"] = as_stored(old["examples"], new["examples"])
    found = [item for key in keys for item in differences(old[key], new[key], key)]
    stored = path.with_suffix(".npz").exists()
    if stored:
        try:
            found += per_query_differences(path.with_suffix(".npz"), again.with_suffix(".npz"))
        except ModisteError as error:  # of the stored file; the other was just written
            return Verdict(path, "DAMAGED", [str(error)])
    notes = [] if stored else ["there are no values per query next to it"]
    serious = [difference for difference in found if not _tolerated(*difference, tolerance)]
    if serious:
        more = [f"{len(serious) - SHOWN} more"] if len(serious) > SHOWN else []
        return Verdict(
            path, "DIFFERENT", [*(_tell(*d) for d in serious[:SHOWN]), *more, *machines(before, after), *notes]
        )
    if found:
        largest = max(abs(a - b) for _, a, b in found)
        return Verdict(path, "within tolerance", [f"largest |Δ| {largest:.3g}", *notes])
    return Verdict(path, "identical", notes)


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """The compared part of a result, without paths of files: their content is compared."""
    model = result["model"]
    weights = {"fingerprint": model.get("fingerprint"), "precision": model.get("describe", {}).get("precision")}
    return {key: without_paths(result, key) for key in (*IDENTITY, *NUMBERS)} | {"model": weights}


def as_stored(before: list[dict[str, Any]] | None, after: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Drop fields of examples that an earlier version did not record, such as the wanted item of a miss.

    >>> as_stored([{"rank": 1}], [{"rank": 2, "wanted": {}}])
    [{'rank': 2}]
    """
    if not before or not after or len(before) != len(after):
        return after
    return [{k: v for k, v in new.items() if k in old} for old, new in zip(before, after, strict=True)]


def per_query_differences(before: Path, after: Path) -> list[tuple[str, Any, Any]]:
    """`differences` of the values per query: the largest of each metric."""
    found: list[tuple[str, Any, Any]] = []
    old, new = read_values(before), read_values(after)
    for name in sorted({*old, *new}):
        where = f"per_query.{name}"
        if name not in old or name not in new:
            there, now = ("there" if name in side else "nothing" for side in (old, new))
            found.append((where, there, now))
        elif old[name].shape != new[name].shape:
            found.append((where, str(old[name].shape), str(new[name].shape)))
        elif not np.array_equal(old[name], new[name], equal_nan=old[name].dtype.kind == "f"):
            one, other = old[name].astype(np.float64).ravel(), new[name].astype(np.float64).ravel()
            deltas = np.nan_to_num(np.abs(one - other), nan=np.inf)
            deltas[(one == other) | (np.isnan(one) & np.isnan(other))] = 0
            worst = int(deltas.argmax())
            found.append((f"{where}.{worst}", float(one[worst]), float(other[worst])))
    return found


def machines(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Differences between the machines, whose kernels may round differently."""
    names = ("processor", "cores", "threads", "accelerators", "packages")
    then, now = ({name: result.get("environment", {}).get(name) for name in names} for result in (before, after))
    found = differences(then, now)
    told = [f"{name} {one} then, {other} now" for name, one, other in found if name != "packages.modiste"]
    return [f"made elsewhere: {', '.join(told)}"] if told else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _tolerated(where: str, before: Any, after: Any, tolerance: float) -> bool:
    return tolerance > 0 and _is_number(before) and _is_number(after) and abs(before - after) <= tolerance


def _tell(where: str, before: Any, after: Any) -> str:
    delta = f", |Δ| {abs(before - after):.3g}" if _is_number(before) and _is_number(after) else ""
    shown = (str(value) if len(str(value)) <= 24 else f"{str(value)[:12]}…" for value in (before, after))
    return f"{where} {' → '.join(shown)}{delta}"
