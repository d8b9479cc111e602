"""Result files as an evaluation writes them, values per query next to them."""

import json

import numpy as np


def values(n, p, seed):
    """0 or 1 for each query."""
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def store(
    folder,
    per_query,
    *,
    name="mine",
    fingerprint="f" * 16,
    data="kagl",
    task="marqo",
    split="test",
    gallery=None,
    beside=True,
    file=None,
    **extra,
):
    """``folder/results/<data>.<split>.<task>.json`` with the means of ``per_query``, and its .npz; returns the path."""
    metrics, counts = {}, {}
    for metric, found in per_query.items():
        mean = float(np.mean(found))
        metrics[metric] = {"value": mean, "low": mean - 0.01, "high": mean + 0.01, "n": len(found)}
        part = metric.rpartition("/")[0]
        counts[f"{part}/queries"] = len(found)
        if gallery is not None:
            counts[f"{part}/gallery"] = gallery
    content = {
        "schema": 1,
        "task": task,
        "data": data,
        "split": split,
        "model": {"name": name, "fingerprint": fingerprint, "describe": {}},
        "metrics": metrics,
        "counts": counts,
        "primary": next(iter(metrics)),
        "summary": [],
        "protocol": {},
        "config": {"query_prefix": "", "seed": 0},
        "data_fingerprint": "d" * 16,
        "files": {},
        "variant": "",
    } | extra
    path = folder / "results" / f"{file or f'{data}.{split}.{task}'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    if beside:
        np.savez_compressed(path.with_suffix(".npz"), **per_query)
    return path
