"""Evaluate a run, a published model or embeddings on disk: modiste evaluate run=DIR 'task=[retrieval,zeroshot]'"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict

from modiste.config import instantiate, validate
from modiste.errors import ModisteError
from modiste.rundir import RunDir, write_json

if TYPE_CHECKING:
    from modiste.data.catalogue import Catalogue
    from modiste.tasks.result import Result

log = logging.getLogger(__name__)


# Adapters of the user's own data: two data sets of theirs share a name.
GENERIC = ("modiste.data.table.Table", "modiste.data.hub.Hub")


def run(cfg: DictConfig) -> None:
    """Runs every task whose result does not exist yet, prints a table and writes the report."""
    run_dir = RunDir.find(cfg.run) if cfg.run else None
    if run_dir is not None:
        take_over(cfg, OmegaConf.load(run_dir.config))
    validate(cfg)
    from modiste.data.catalogue import load as load_catalogue
    from modiste.report import write_report
    from modiste.tables import print_results

    tasks = {name: instantiate(node) for name, node in cfg.task.items()}
    catalogue = load_catalogue(cfg.data)
    embedder, facts = build_embedder(cfg, run_dir, catalogue)
    # Several models may be evaluated under one name, such as model=pretrained.
    target = run_dir or RunDir(Path(cfg.run_dir) / facts["fingerprint"][:8])
    paths = []
    for name, task in tasks.items():
        identity = describe(cfg, name, facts, catalogue)
        path = target.results / f"{cfg.data.name}.{cfg.split}.{name}.json"
        if cfg.overwrite or not same_result(path, identity):
            started = time.perf_counter()
            result = task(embedder, catalogue, cfg.split)
            write_result(path, result, identity | {"seconds": round(time.perf_counter() - started, 2)})
        else:
            log.info("%s exists for the same model, data and protocol: kept (overwrite=true computes it again)", path)
        paths.append(path)
    print_results(paths)
    print(f"\nResults: {target.results}\nReport: {write_report(target.path, catalogue)}")


def take_over(cfg: DictConfig, trained: Any) -> None:
    """The model of a run, and its data set with its split where the command line names no other.

    Raises:
        ModisteError: The command line also names a model, or a split but no data set.
    """
    given = command_overrides()
    named = {override.lstrip("+~").partition("=")[0] for override in given}
    if "model" in named:
        raise ModisteError("run= and model= exclude each other: one model is evaluated at a time.")
    if "data/split" in named and "data" not in named:
        raise ModisteError("data/split= beside run= needs data=, too: for instance data=kagl data/split=marqo.")
    with open_dict(cfg):
        cfg.model, cfg.tune = trained.model, trained.tune
        if "data" not in named:
            changes = [o.lstrip("+").removeprefix("data.") for o in given if o.lstrip("+").startswith("data.")]
            cfg.data = OmegaConf.merge(trained.data, OmegaConf.from_dotlist(changes))
            cfg.name = cfg.data.name


def command_overrides() -> list[str]:
    """The overrides of the command line."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def build_embedder(cfg: DictConfig, run_dir: RunDir | None, catalogue: Catalogue) -> tuple[Any, dict[str, Any]]:
    """What makes the embeddings, and the facts about it that results record."""
    from modiste.embeddings import ModelEmbedder, default_cache, progress_bar

    if cfg.embeddings.image:
        return matrices(cfg, catalogue)
    model, facts = build_model(cfg, run_dir)
    cache = default_cache() if cfg.cache else None
    embedder = ModelEmbedder(model.to(device(cfg.device)), cfg.batch_size, cfg.precision, cache, progress_bar)
    facts |= {"fingerprint": embedder.fingerprint, "describe": model.describe() | {"precision": cfg.precision}}
    return embedder, facts


def matrices(cfg: DictConfig, catalogue: Catalogue) -> tuple[Any, dict[str, Any]]:
    """Embeddings from files: one row a catalogue row, the texts as the first caption template says them."""
    from modiste.data.captions import Captions
    from modiste.embeddings import MatrixEmbedder, read_matrix

    images, texts = (read_matrix(Path(path).expanduser()) for path in (cfg.embeddings.image, cfg.embeddings.text))
    captions = Captions(list(cfg.data.captions.templates)).bind(catalogue)
    embedder = MatrixEmbedder(catalogue, images, texts, [captions.first(row) for row in range(len(catalogue))])
    facts = {"name": Path(cfg.embeddings.image).stem, "source": cfg.embeddings.image}
    return embedder, facts | {"describe": {"embed_dim": images.shape[1]}, "fingerprint": embedder.fingerprint}


def build_model(cfg: DictConfig, run_dir: RunDir | None) -> tuple[Any, dict[str, Any]]:
    """The model of the run, or the one that ``model=`` names."""
    import torch

    from modiste import loading

    if run_dir is not None:
        model = loading.load(run_dir.path, cfg.checkpoint).model
        trained: Any = OmegaConf.load(run_dir.config)
        return model, {
            "name": trained.name,
            "source": str(run_dir.path),
            "in_domain": same_data(trained.data, cfg.data),
        }
    if not any(override.startswith("model=") for override in command_overrides()):
        raise ModisteError(
            "What is to be evaluated? Give run=DIR, model=NAME, or embeddings.image=FILE and embeddings.text=FILE."
        )
    torch.manual_seed(cfg.seed)  # model=two_tower is random: chance level
    model = loading.build_model(cfg)
    return model, {"name": model_choice(), "source": cfg.model.get("source", model_choice())}


def same_data(trained: Any, evaluated: Any) -> bool:
    """Whether two data nodes are the same data set."""
    if trained.name != evaluated.name:
        return False
    return evaluated.catalogue["_target_"] not in GENERIC or trained.catalogue == evaluated.catalogue


def model_choice() -> str:
    """The word that ``model=`` was given."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices["model"]) if HydraConfig.initialized() else "model"


def device(name: str) -> str:
    """A torch device name; ``auto`` takes the first accelerator there is."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe(cfg: DictConfig, task: str, facts: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """What a result is a result of: equal descriptions give equal numbers."""
    config = OmegaConf.to_container(cfg.task[task], resolve=True)
    return {
        "model": facts,
        "data_fingerprint": catalogue.fingerprint(),
        "config": config,
        "files": {path: digest for path in strings(config) if (digest := file_digest(Path(path)))},
        "seed": cfg.seed,
    }


def strings(value: Any) -> Iterator[str]:
    """All strings in plain containers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def file_digest(path: Path) -> str:
    """sha256 of a file, or of the JSON files of a folder; empty where there is neither."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path] if path.is_file() else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() if files else ""


def same_result(path: Path, identity: dict[str, Any]) -> bool:
    """Whether ``path`` holds a result of the same model, data and protocol."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(known.get(name) == json.loads(json.dumps(value)) for name, value in identity.items())


def write_result(path: Path, result: Result, identity: dict[str, Any]) -> None:
    """One JSON of a (model, data, task), its values per query beside it."""
    import numpy as np

    from modiste.commands.train import command
    from modiste.machine import environment

    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {"schema": 1, **result.to_json(), **identity, "created": created, "command": command()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix(".npz"), **result.per_query)  # type: ignore[arg-type]
    write_json(path, content | {"environment": environment()})
