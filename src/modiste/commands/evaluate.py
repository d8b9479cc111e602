"""Evaluate a run, a published model or embeddings on disk: modiste evaluate run=DIR 'task=[retrieval,zeroshot]'"""

from __future__ import annotations

import hashlib
import json
import logging
import time
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
    log.info("%s: %s", catalogue.card.name, catalogue.report)
    embedder, facts = build_embedder(cfg, run_dir, catalogue)
    target = run_dir or RunDir(cfg.run_dir)
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
    """The model of a run, and its data set with its split where the command line names no other."""
    given = command_overrides()
    with open_dict(cfg):
        cfg.model, cfg.tune = trained.model, trained.tune
        if not any(override.startswith(("data=", "data/")) for override in given):
            changes = [override.removeprefix("data.") for override in given if override.startswith("data.")]
            cfg.data = OmegaConf.merge(trained.data, OmegaConf.from_dotlist(changes))
            cfg.name = cfg.data.name


def command_overrides() -> list[str]:
    """The overrides of the command line."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def build_embedder(cfg: DictConfig, run_dir: RunDir | None, catalogue: Catalogue) -> tuple[Any, dict[str, Any]]:
    """What makes the embeddings, and the facts about it that results record."""
    from modiste.embeddings import MatrixEmbedder, ModelEmbedder, default_cache, progress_bar, read_matrix

    files = cfg.embeddings
    if files.image or files.text:
        if not (files.image and files.text):
            raise ModisteError("Evaluation from disk needs both embeddings.image=FILE and embeddings.text=FILE.")
        matrices = [read_matrix(Path(path).expanduser()) for path in (files.image, files.text)]
        matrix_embedder = MatrixEmbedder(catalogue, matrices[0], matrices[1])
        facts = {
            "name": Path(files.image).stem,
            "source": str(files.image),
            "describe": {"embed_dim": matrices[0].shape[1]},
        }
        return matrix_embedder, facts | {"fingerprint": matrix_embedder.fingerprint}
    model, facts = build_model(cfg, run_dir)
    cache = default_cache() if cfg.cache else None
    embedder = ModelEmbedder(model.to(device(cfg.device)), cfg.batch_size, cfg.precision, cache, progress_bar)
    facts |= {"fingerprint": embedder.fingerprint, "describe": model.describe() | {"precision": cfg.precision}}
    return embedder, facts


def build_model(cfg: DictConfig, run_dir: RunDir | None) -> tuple[Any, dict[str, Any]]:
    """The model of the run, or the one that ``model=`` names."""
    from modiste import loading

    if run_dir is not None:
        model = loading.load(run_dir.path, cfg.checkpoint).model
        trained: Any = OmegaConf.load(run_dir.config)
        return model, {
            "name": trained.name,
            "source": str(run_dir.path),
            "in_domain": trained.data.name == cfg.data.name,
        }
    model = loading.build_model(cfg)
    return model, {"name": model_choice(), "source": cfg.model.get("source", model_choice())}


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
    split = hashlib.sha256("\n".join(catalogue.column("split")).encode()).hexdigest()
    return {
        "model": facts,
        "data_fingerprint": f"{catalogue.fingerprint()}-{split[:16]}",
        "config": OmegaConf.to_container(cfg.task[task], resolve=True),
        "seed": cfg.seed,
    }


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
