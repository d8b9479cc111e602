"""Ranking metrics as pytrec_eval (trec_eval) computes them, with ties broken by gallery index."""

import numpy as np
import pytrec_eval


def trec_values(scores, relevance, ks, present=None):
    """One {trec measure: value} per query that has a relevant item; queries without any are excluded there as here.

    trec_eval sorts by score and breaks ties by document name, last first: names that descend with the index give our
    rule, lower index first. ``present`` (Q, G) says which documents a query's gallery holds; all of them by default.
    """
    n = scores.shape[1]
    names = [f"{n - g:06d}" for g in range(n)]
    present = np.ones(scores.shape, dtype=bool) if present is None else present
    run = {
        str(q): {name: score for name, score, kept in zip(names, row, present[q], strict=True) if kept}
        for q, row in enumerate(scores.tolist())
    }
    judged = {
        str(q): {names[g]: 1 for g in relevance.items[relevance.starts[q] : relevance.starts[q + 1]]}
        for q in range(len(relevance))
    }
    cuts = ",".join(map(str, ks))
    measures = {f"{m}.{cuts}" for m in ("map_cut", "recall", "P", "ndcg_cut", "success")} | {"map", "recip_rank"}
    evaluated = pytrec_eval.RelevanceEvaluator({q: j for q, j in judged.items() if j}, measures).evaluate(run)
    return [evaluated[str(q)] for q in range(len(relevance)) if judged[str(q)]]


def assert_equal_to_trec(ours, theirs, ks):
    """Every metric, query by query."""
    assert {len(v) for v in ours.values()} == {len(theirs)}
    names = {"map": "map", "mrr": "recip_rank"}
    for k in ks:
        names |= {f"map@{k}": f"map_cut_{k}", f"recall@{k}": f"recall_{k}", f"precision@{k}": f"P_{k}"}
        names |= {f"ndcg@{k}": f"ndcg_cut_{k}", f"hit_rate@{k}": f"success_{k}"}
    for name, theirs_name in names.items():
        np.testing.assert_allclose(ours[name], [row[theirs_name] for row in theirs], atol=1e-6, err_msg=name)
    reciprocal = np.array([row["recip_rank"] for row in theirs])
    np.testing.assert_allclose(ours["mrr@10"], np.where(reciprocal >= 0.1, reciprocal, 0), atol=1e-6)
    np.testing.assert_allclose(ours["median_rank"], 1 / reciprocal, rtol=1e-6)
