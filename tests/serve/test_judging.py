"""Interleaving and its test: fair to both sides, reproducible, and right where the answer is known."""

import json
import random
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from modiste.errors import ModisteError
from modiste.serve.judging import BOTH, MAIN, OTHER, Query, judge, measure, parse_queries, team_draft


def test_a_draft_holds_each_product_once_and_both_sides_as_often():
    generator = random.Random(0)
    for seed in range(200):
        main, other = ([str(i) for i in generator.sample(range(30), 12)] for _ in range(2))
        draft = team_draft(main, other, 10, str(seed))
        items = [item for item, _ in draft]
        assert len(items) == len(set(items)) == 10
        assert draft == team_draft(main, other, 10, str(seed))
        teams = Counter(team for _, team in draft)
        assert abs(teams[MAIN] - teams[OTHER]) <= 1
        for team, ranking in ((MAIN, main), (OTHER, other)):  # in the order of its own ranking
            own = [ranking.index(item) for item, of in draft if of in (team, BOTH) and item in ranking]
            assert own == sorted(own)


def test_equal_rankings_are_credited_to_both_and_tie():
    draft = team_draft(list("abcdef"), list("abcdef"), 6, "x")
    assert draft == [(item, BOTH) for item in "abcdef"]
    assert judge([draft], [["a", "c"]])["wins"] == {"main": 0, "compare": 0, "ties": 1}


def test_marking_at_random_favours_neither_side():
    generator, marks = random.Random(1), Counter()
    for seed in range(600):
        main, other = ([str(i) for i in generator.sample(range(40), 12)] for _ in range(2))
        draft = team_draft(main, other, 10, str(seed))
        marks[draft[generator.randrange(3)][1]] += 1  # readers look at the top
    assert abs(marks[MAIN] - marks[OTHER]) < 4 * (marks[MAIN] + marks[OTHER]) ** 0.5


def test_short_lists_end_and_none_is_empty():
    assert team_draft([], [], 10, "x") == []
    assert {item for item, _ in team_draft(["a"], ["b", "c"], 10, "x")} == {"a", "b", "c"}


def test_the_verdict_is_the_exact_sign_test():
    drafts = [[("a", MAIN), ("b", OTHER)]] * 10
    result = judge(drafts, [["a"]] * 9 + [["b"]])
    assert result["wins"] == {"main": 9, "compare": 1, "ties": 0}
    assert result["p"] == pytest.approx(2 * (1 + 10) / 2**10)
    with pytest.raises(ModisteError, match="start again"):
        judge(drafts, [["a"]])


def test_known_products_are_measured_by_both_rankings():
    queries = [Query("red", "1"), Query("blue"), Query("green", "3")]
    rows = measure(queries, [["1", "2"], ["9"], ["2", "3"]], [["2", "1"], ["9"], ["4"]])
    found = {row["metric"]: row for row in rows}
    assert (found["hit_rate@10"]["main"], found["hit_rate@10"]["compare"]) == (1.0, 0.5)
    assert (found["MRR@10"]["main"], found["MRR@10"]["compare"]) == (0.75, 0.25)
    assert found["MRR@10"]["n"] == 2
    assert measure([Query("red")], [["1"]], [["1"]]) == []


@pytest.mark.parametrize("file", ["", "\n\n", "query\n", "a\nb\nc"])
def test_a_file_without_queries_or_with_too_many_is_refused(file):
    with pytest.raises(ModisteError, match="give 1 to 2"):
        parse_queries(file, 2)


class Changing:
    """A server whose indexes rank in the reverse order from the ``at``-th search on."""

    def __init__(self, at):
        self.at, self.searches = at, 0

    @contextmanager
    def use(self, name):
        yield SimpleNamespace(edition=1 + (self.searches >= self.at), towers=SimpleNamespace(fingerprint="f" * 64))

    def search(self, body):
        self.searches += 1
        ids = ["a", "b", "c"][:: -1 if self.searches > self.at else 1]
        return {"results": [{"product_id": name} for name in ids]}


@pytest.mark.parametrize(("at", "same"), [(1, False), (4, False), (5, False), (100, True)])
def test_a_verdict_is_of_the_versions_that_were_judged(at, same):
    """An index may change while queries are answered, between that and the verdict, and while this is computed."""
    pytest.importorskip("fastapi")
    from modiste.serve import comparing
    from modiste.serve.schema import JudgeBody, QueriesBody
    from modiste.serve.uploads import Refused

    calls = {route.path: route.endpoint for route in comparing.router(Changing(at)).routes}
    file = "shoes\nhats"
    asked = json.loads(calls["/compare/queries"](QueriesBody(file=file)).body)
    judged = JudgeBody(file=file, seed=asked["seed"], versions=asked["versions"], picked=[["a"], ["b"]])
    if same:
        assert calls["/compare/judge"](judged).status_code == 200
    else:
        with pytest.raises(Refused, match="An index has changed"):
            calls["/compare/judge"](judged)
