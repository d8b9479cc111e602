"""The first thing anybody sees is right by eye."""

from __future__ import annotations

import pytest

import modiste


@pytest.mark.slow
def test_the_demo_classifies_retrieves_and_finds_red_dresses(tmp_path):
    """`experiment=demo`: zero-shot category F1 and text→image MRR on the test split, and the report's searches."""
    run = modiste.train(["experiment=demo", f"run_dir={tmp_path / 'demo'}"])
    retrieval, zeroshot = modiste.evaluate(run, tasks=["retrieval", "zeroshot"])
    assert zeroshot.metrics["category/weighted_f1"].value >= 0.8
    assert retrieval.metrics["t2i/mrr"].value >= 0.75
    searches = {e["query"]: e["results"] for e in retrieval.examples if e["search"] == "queries"}
    assert [result["relevant"] for result in searches["a red dress"]] == [True] * 5
