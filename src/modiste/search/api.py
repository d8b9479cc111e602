"""The actions of `modiste index`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modiste.config import load_run_config, validate
from modiste.config.inherit import from_run
from modiste.config.invocation import Invocation
from modiste.errors import ModisteError
from modiste.search import open as open_index
from modiste.search.calibrate import ALL
from modiste.search.encoder import ModelCard
from modiste.search.index import Index
from modiste.search.opened import FACTS
from modiste.search.planner import KS
from modiste.utils.run_dir import RunDir


def make(cfg: DictConfig, line: Invocation) -> str:
    """Build the index of a catalogue, or update it.

    Raises:
        ModisteError: No model is given, or the index is of another model; or see `modiste.search.build.build`.
    """
    from modiste.data.build import load
    from modiste.search.build import build
    from modiste.utils.progress import progress_bar

    folder = Path(cfg.out).expanduser()
    if cfg.run:
        cfg = from_run(cfg, load_run_config(RunDir.find(cfg.run).config), line.overrides)
    validate(cfg)
    catalogue = load(cfg.data).select(split=cfg.split)
    source = _source(cfg, line, folder, catalogue)
    changes = build(folder, catalogue, source, cfg.delete_missing, progress_bar, _engine(cfg, folder))
    return f'{changes}: {folder}\nSearch: modiste search index={shlex.quote(str(folder))} "red shoes"'


def _engine(cfg: DictConfig, folder: Path) -> dict[str, str]:
    """The engine of a new index. Raises ModisteError for an unknown engine, or a server without a URL."""
    if cfg.engine not in ("lancedb", "qdrant"):
        raise ModisteError(f"engine={cfg.engine} is not known: choose lancedb or qdrant.")
    if cfg.engine == "lancedb":
        return {"kind": "lancedb"}
    if not cfg.qdrant.url:
        raise ModisteError("engine=qdrant needs a server: qdrant.url=http://…, or MODISTE_QDRANT_URL.")
    return {"kind": "qdrant", "url": str(cfg.qdrant.url), "collection": str(cfg.qdrant.collection or folder.stem)}


def _source(cfg: DictConfig, line: Invocation, folder: Path, catalogue: Any) -> Any:
    """Source of the embeddings: ``run=``, ``model=``, ``vectors=``, or the existing index's own model."""
    from modiste.embedding.build import choose_device, decode_of
    from modiste.search.build import Source, vectors_on_disk

    options = {
        "batch_size": cfg.batch_size, "precision": cfg.precision, "decode": decode_of(cfg.data),
        "backend": cfg.backend, "min_cosine": cfg.min_cosine,
    }  # fmt: skip
    source = None
    if cfg.run or line.choice("model") is not None:
        model, name, where = _model(cfg)
        node = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "tune")}
        published = str(cfg.model["_target_"]).startswith("modiste.pretrained")
        source = Source.of_model(
            model.to(choose_device(cfg.device)), name, node, where, weights=not published, options=options,
            export_text=cfg.export_text, coverage=cfg.coverage, prefixes=_prefixes(cfg.run),
        )  # fmt: skip
    if cfg.vectors:
        vectors, manifest = vectors_on_disk(Path(cfg.vectors).expanduser(), catalogue)
        made = manifest.get("model_fingerprint", "")
        dim = len(next(iter(vectors.values())))
        if source is None:
            name = f"embeddings {cfg.vectors}"
            card = ModelCard(name, made or f"{name}, {dim} numbers", manifest.get("preprocess", {}), dim)
            return Source(card, vectors=vectors, options=options)
        given = ModelCard(str(cfg.vectors), made, manifest.get("preprocess", source.card.preprocess), dim)
        if made:
            given.check(source.card, Path(cfg.vectors))
        return Source(**{**vars(source), "vectors": vectors})
    if source is not None:
        return source
    if (folder / FACTS).is_file():
        return Source.of_index(open_index(folder, qdrant_url=cfg.qdrant.url), options=options)
    raise ModisteError("No model given: set run=DIR, model=NAME or vectors=DIR.")


def _prefixes(run: str | None) -> list[int]:
    """Sizes of the prefixes that a run was trained on; none without ``loss=matryoshka``."""
    loss = load_run_config(RunDir.find(run).config).get("loss") if run else None
    return list(loss.dims) if loss and str(loss["_target_"]).endswith(".MatryoshkaLoss") else []


def _model(cfg: DictConfig) -> tuple[Any, str, str]:
    """The model, its name and its source."""
    from modiste.models.load import build_model
    from modiste.models.load import load as load_model

    if cfg.run:
        return load_model(Path(cfg.run).expanduser(), cfg.checkpoint).model, run_name(cfg.run), str(cfg.run)
    import torch

    torch.manual_seed(cfg.seed)  # model=two_tower is random
    source = str(cfg.model.get("source", cfg.model["_target_"].rpartition(".")[2]))
    return build_model(cfg).eval(), source, source


def run_name(run: str) -> str:
    """Name of a run: its directory, with the parent's name if it is a timestamp.

    >>> run_name("runs/shop"), run_name("runs/demo/2026-11-30_10-00-00/")
    ('shop', 'demo/2026-11-30_10-00-00')
    """
    path = Path(run).expanduser().resolve()
    return f"{path.parent.name}/{path.name}" if path.name[:1].isdigit() else path.name


def _index(cfg: DictConfig) -> Index:
    if not cfg.index:
        raise ModisteError("No index given: set index=shop.index.")
    return open_index(cfg.index, qdrant_url=cfg.qdrant.url)


def versions(cfg: DictConfig, line: Invocation) -> str:
    """List the versions of an index."""
    lines = [f"{int(v):>6}  {v.created}  {v.rows:>9,} rows  {v.note}" for v in _index(cfg).versions()]
    return "\n".join(lines)


def restore(cfg: DictConfig, line: Invocation) -> str:
    """Restore an earlier version as the newest."""
    index = _index(cfg)
    if cfg.at is None:
        known = ", ".join(str(int(version)) for version in index.versions())
        raise ModisteError(f"modiste index restore needs at=VERSION, one of {known}.")
    index.restore(int(cfg.at))
    return f"Back to version {cfg.at}, as version {index.version}: {len(index):,} rows."


def delete(cfg: DictConfig, line: Invocation) -> str:
    """Delete products."""
    index = _index(cfg)
    if not cfg.ids:
        raise ModisteError("modiste index delete needs products: ids=[SKU1,SKU2].")
    index.delete([str(name) for name in cfg.ids])
    return f"{index.versions()[-1].note}, {len(index):,} rows left; version {index.version}."


def plan(cfg: DictConfig, line: Invocation) -> str:
    """Measure search methods, and choose the smallest that reaches the recall floor."""
    index = _index(cfg)
    measured = index.plan(list(cfg.choices) if cfg.choices else None, cfg.recall_floor)
    heads = " ".join(f"recall@{k}".rjust(10) for k in KS)
    lines = [f"{'choice':<14} {'MiB':>9} {heads} {'ms/query':>9}  narrowest filter measured"]
    for m in measured:
        last = m.steps[-1] if m.steps else None
        worst = (
            f"{last.selectivity:.0%} of the rows: recall@{last.k} {last.recall:.3f}" if last else "every filter: exact"
        )
        recalls = " ".join(f"{m.recall[k]:>10.3f}" for k in KS)
        lines.append(f"{m.choice:<14} {m.bytes / 2**20:>9.1f} {recalls} {m.milliseconds:>9.2f}  {worst}")
    used = index.plan_in_use
    lines.append(
        f"Taken: {used.choice}, the smallest with a recall of {used.floor} or more on {used.queries} sampled queries. "
        f"Filters that {used.limit:,} rows or fewer pass are scored exactly, and so are queries for more than {KS[-1]} "
        "results."
    )
    return "\n".join(lines)


def calibrate(cfg: DictConfig, line: Invocation) -> str:
    """Recalibrate the match thresholds."""
    found = _index(cfg).calibrate(cfg.coverage)
    if not found:
        return "Too few pairs: no threshold is set, and results are not marked as matches."
    lines = []
    for kind, t in found.items():
        pairs = "all rows, training rows included," if t.split == ALL else f"split {t.split}"
        lines.append(
            f"{kind} queries: a match from {t.threshold:.3f} on, which {t.coverage:.0%} of {t.pairs} pairs of {pairs} "
            f"reach or more ({t.chance:.1%} of random pairs reach it)"
        )
    return "\n".join(lines)


def health(cfg: DictConfig, line: Invocation) -> str:
    """Write the catalogue-health lists."""
    from modiste.search.health import write

    index = _index(cfg)
    if not cfg.out:
        raise ModisteError("modiste index health needs a folder for its CSV files: out=DIR.")
    return "\n".join(f"{count:>7,}  {file}" for _, count, file in write(index, Path(cfg.out).expanduser()))


ACTIONS: dict[str, Callable[[DictConfig, Invocation], str]] = {
    "build": make,
    "versions": versions,
    "restore": restore,
    "delete": delete,
    "plan": plan,
    "calibrate": calibrate,
    "health": health,
}
