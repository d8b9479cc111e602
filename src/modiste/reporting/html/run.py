"""Content of a run directory, read once for its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from modiste.config.stored import read_plain
from modiste.errors import ModisteError
from modiste.reporting import tables
from modiste.reporting.html.gallery import Images
from modiste.utils.run_dir import read_json

Catalogues = Images | Mapping[str, Images] | None


@dataclass
class Run:
    """A run directory: results and available catalogues by file stem, and its other files."""

    path: Path
    results: dict[str, dict[str, Any]]
    catalogues: Mapping[str, Images]
    config_text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    suites: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, catalogue: Catalogues) -> Run:
        """Read a run directory. Raises ModisteError if it does not exist or has a malformed file."""
        if not path.is_dir():
            raise ModisteError(f"There is no run directory '{path}': give the folder that a run wrote.")
        results = {file.stem: tables.read_result(file) for file in sorted((path / "results").glob("*.json"))}
        catalogues = catalogue if isinstance(catalogue, Mapping) else {}
        if catalogue is not None and not isinstance(catalogue, Mapping):
            catalogues = {stem: catalogue for stem, result in results.items() if result["data"] == catalogue.card.name}
        config = path / "config.yaml"
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
        content = read_plain(config) if config.is_file() else None
        plain = content if isinstance(content, dict) else {}
        facts = {name: _json(path / f"{name}.json") for name in ("environment", "cost", "data", "selection")}
        suites = [_json(file) for file in sorted(path.glob("suite.*.json"))]
        return cls(path, results, catalogues, text, plain, **facts, suites=suites)

    @property
    def title(self) -> str:
        """Name and folder of the run."""
        folder, name = self.path.resolve().name, str(self.config.get("name") or "")
        return folder if name in ("", folder) else f"{name} · {folder}"

    def facts(self) -> dict[str, str]:
        """Facts for the head of the page."""
        data = self.config.get("data")
        trained = bool(self.cost) or (self.path / "checkpoints").is_dir()
        facts = {
            "model": self._distinct(lambda r: r["model"]["name"]) or _target(self.config),
            "trained on": str(data.get("name", "")) if isinstance(data, Mapping) and trained else "",
            "evaluated on": self._distinct(lambda r: f"{r['data']} ({r['split']})"),
            "cost": _cost(self.cost),
            "date": self._date(),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def origin(self) -> dict[str, str]:
        """Commands, weights, machine and directory of the run."""
        environment = self.environment or next(
            (r["environment"] for r in self.results.values() if r.get("environment")), {}
        )
        facts = {
            "trained with": str(self.environment.get("command", "")),
            "evaluated with": self._distinct(lambda r: r.get("command")),
            "weights": self._distinct(lambda r: str(r["model"].get("fingerprint") or "")[:16]),
            "machine": _machine(environment),
            "run directory": str(self.path),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _distinct(self, read: Callable[[dict[str, Any]], Any]) -> str:
        return ", ".join(dict.fromkeys(str(read(r)) for r in self.results.values() if read(r)))

    def _date(self) -> str:
        """Time of the last evaluation, else of the configuration file."""
        created = max((str(result.get("created") or "") for result in self.results.values()), default="")
        if not created and self.config_text:
            written = (self.path / "config.yaml").stat().st_mtime
            created = datetime.fromtimestamp(written, tz=timezone.utc).isoformat(timespec="minutes")
        return created[:16].replace("T", " ")


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {path.stem: content}


def _target(config: Mapping[str, Any]) -> str:
    model = config.get("model")
    return str(model.get("_target_", "")).rpartition(".")[2] if isinstance(model, Mapping) else ""


def _machine(environment: Mapping[str, Any]) -> str:
    plain = {
        k: v for k, v in environment.items() if isinstance(v, (str, int, float)) and k not in ("created", "command")
    }
    return ", ".join(f"{name} {value}" for name, value in plain.items())


def _cost(cost: Mapping[str, Any]) -> str:
    """The cost in one line; only the wall time has no label."""
    words = tables.cost_words(cost)
    first = [words.pop("wall time")] if "wall time" in words else []
    counts = [f"{words.pop(name)} {name}" for name in ("pairs", "pairs/s", "steps") if name in words]
    return ", ".join([*first, *counts, *(f"{name} {word}" for name, word in words.items())])
