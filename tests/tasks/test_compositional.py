"""Swap probes, held-out pairs and improbable products on embedders whose answers are known."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.task_fakes import FakeCatalogue, FakeEmbedder
from modiste.errors import ModisteError
from modiste.tasks.compositional import SHOWN, Compositional, draw_others, strict_choice, wrong_choices

COLOURS = ["red", "blue", "green"]
TYPES = ["dress", "shirt", "shoe", "hat"]
GENDERS = ["women", "men"]
BLOCKS = {"colour": COLOURS, "type": TYPES, "gender": GENDERS}
SETTINGS = {
    "swaps": {"colour": "colour", "kind": "type", "gender": "gender"},
    "template": "a photo of a {colour} {type} for {gender}",
    "pair_template": "a {colour} {type}",
}


def catalogue(n=160, seed=0):
    """Train, test, and green hats held out; a few rows without a colour. Blue shoes are rare in train."""
    generator = np.random.default_rng(seed)
    columns = {name: generator.choice(values, n).tolist() for name, values in BLOCKS.items()}
    split = ["test" if u < 0.4 else "train" for u in generator.random(n)]
    for row in range(n):
        pair = columns["colour"][row], columns["type"][row]
        if pair == ("green", "hat"):
            split[row] = "hout_p"
        elif pair == ("blue", "shoe") and split[row] == "train" and generator.random() < 0.8:
            columns["type"][row] = "dress"
    columns["colour"][0], split[0] = "", "test"
    ids = [f"p{i}" for i in range(n)]
    return FakeCatalogue({"product_id": ids, "text": ["x"] * n, "split": split, **columns})


def encode(words, blind=()):
    """Unit vectors, one block of axes an attribute; a blind embedder leaves the block of an attribute empty."""
    return torch.tensor([float(v in words) for name, block in BLOCKS.items() for v in block if name not in blind])


class Encoder(FakeEmbedder):
    """Images and texts by the attributes that they show or name; ``blind`` to some in texts and images."""

    def __init__(self, table, blind=()):
        rows = zip(*(table.column(name) for name in BLOCKS), strict=True)
        super().__init__(torch.stack([encode(words, blind) for words in rows]))
        self.blind = blind

    def vector(self, text):
        return torch.nn.functional.normalize(encode(text.split(), self.blind), dim=0)


def random_embedder(table, seed=0):
    return FakeEmbedder(torch.randn(len(table), 12, generator=torch.Generator().manual_seed(seed)))


def values(result):
    return {name: interval.value for name, interval in result.metrics.items()}


def test_an_embedder_that_encodes_the_attributes_is_perfect():
    table = catalogue()
    result = Compositional(**SETTINGS)(Encoder(table), table, "test")
    assert set(values(result).values()) == {1.0}
    swaps = {f"{s}/{m}" for s in SETTINGS["swaps"] for m in ("accuracy", "text_score", "image_score", "group_score")}
    rare = {f"{part}/{s}_accuracy" for part in ("improbable", "probable") for s in SETTINGS["swaps"]}
    assert set(values(result)) == swaps | rare | {"heldout/pair_accuracy", "seen/pair_accuracy"}
    assert (result.task, result.primary) == ("compositional", "colour/accuracy")
    assert all(not found["rows"] for found in result.tables.values())


def test_an_embedder_that_is_blind_to_colour_ties_and_ties_are_wrong():
    """It is perfect at the rest; of the pairs it finds none, since another colour of the type always ties."""
    table = catalogue()
    found = values(Compositional(**SETTINGS)(Encoder(table, blind=["colour"]), table, "test"))
    for name, value in found.items():
        blind = name.startswith("colour/") or "colour_accuracy" in name or "pair_accuracy" in name
        assert value == (0.0 if blind else 1.0), name


def test_random_embeddings_are_at_chance():
    """Swaps 1/2, text and image score 1/4, group score 1/6, pairs one over their number; mean over embedders."""
    table = catalogue(600)
    runs = [
        values(Compositional(**SETTINGS, resamples=10)(random_embedder(table, s), table, "test")) for s in range(12)
    ]
    for metric, chance in {"accuracy": 1 / 2, "text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}.items():
        assert np.mean([run[f"kind/{metric}"] for run in runs]) == pytest.approx(chance, abs=0.07), metric
    assert np.mean([run["seen/pair_accuracy"] for run in runs]) == pytest.approx(1 / 12, abs=0.05)


def test_every_metric_equals_a_loop_over_the_definition():
    """Random embeddings, all decisions made again image by image; only the draws are shared."""
    table = catalogue()
    fake = random_embedder(table)
    result = Compositional(**SETTINGS, rare=0.2, seed=5)(fake, table, "test")
    shown = dict(zip(BLOCKS, (table.column(name) for name in BLOCKS), strict=True))
    split = table.column("split")
    test = [i for i in range(len(table)) if split[i] == "test" and all(shown[name][i] for name in BLOCKS)]

    def words(i):
        return {name: shown[name][i] for name in BLOCKS}

    def score(i, caption):
        return float((fake.rows[i] * fake.vector(caption)).sum())

    def caption(w):
        return f"a photo of a {w['colour']} {w['type']} for {w['gender']}"

    accuracy = {}
    for place, (name, column) in enumerate(SETTINGS["swaps"].items()):
        generator = np.random.default_rng([5, place])
        own = np.array([shown[column][i] for i in test])
        drawn = own[draw_others(own, np.zeros(len(own), dtype=int), generator)]
        accuracy[name] = [
            float(score(i, caption(words(i))) > score(i, caption(words(i) | {column: other})))
            for i, other in zip(test, drawn, strict=True)
        ]
        assert result.per_query[f"{name}/accuracy"].tolist() == accuracy[name]
        expected = {"text_score": [], "image_score": [], "group_score": []}
        # Partners are drawn group by group, in the order of the captions without the word.
        captions = [caption(words(i) | {column: ""}) for i in test]
        groups = np.array([sorted(set(captions)).index(c) for c in captions])
        for a, partner in zip(test, draw_others(own, groups, generator), strict=True):
            if partner < 0:
                continue
            b = test[partner]
            assert words(b) == words(a) | {column: words(b)[column]} != words(a)
            ca, cb = caption(words(a)), caption(words(b))
            text = score(a, ca) > score(a, cb) and score(b, cb) > score(b, ca)
            image = score(a, ca) > score(b, ca) and score(b, cb) > score(a, cb)
            for metric, right in {"text_score": text, "image_score": image, "group_score": text and image}.items():
                expected[metric].append(float(right))
        for metric, wanted in expected.items():
            assert result.per_query[f"{name}/{metric}"].tolist() == wanted
            assert 0 < len(wanted) == result.counts[f"{name}/pairs_of_images"]

    def pair(i):
        return shown["colour"][i], shown["type"][i]

    known = Counter(pair(i) for i in range(len(table)) if split[i] == "train" and all(words(i).values()))
    frequency = sorted(known[pair(i)] for i in test)
    limit = frequency[int(0.2 * (len(test) - 1))]
    assert result.counts["improbable/known_at_most"] == limit
    for name in SETTINGS["swaps"]:
        rare = [a for i, a in zip(test, accuracy[name], strict=True) if known[pair(i)] <= limit]
        usual = [a for i, a in zip(test, accuracy[name], strict=True) if known[pair(i)] > limit]
        assert result.per_query[f"improbable/{name}_accuracy"].tolist() == rare
        assert result.per_query[f"probable/{name}_accuracy"].tolist() == usual
    grid = {pair(i) for i in range(len(table)) if all(words(i).values())}
    for part, rows in {
        "heldout": [i for i in range(len(table)) if split[i] == "hout_p"],
        "seen": [i for i in test if known[pair(i)]],
    }.items():
        right = []
        for i in rows:
            scores = {p: score(i, f"a {p[0]} {p[1]}") for p in grid}
            right.append(float(all(scores[pair(i)] > s for p, s in scores.items() if p != pair(i))))
        assert result.per_query[f"{part}/pair_accuracy"].tolist() == right
    assert {name: float(np.mean(v)) for name, v in result.per_query.items()} == pytest.approx(values(result))


def test_another_row_is_drawn_as_often_as_its_word_occurs():
    words = np.array(["red"] * 400 + ["blue"] * 300 + ["green"] * 100)
    chosen = draw_others(words, np.zeros(800, dtype=int), np.random.default_rng(0))
    assert (words[chosen] != words).all()
    drawn = Counter(words[chosen[:400]].tolist())
    assert drawn["blue"] / 400 == pytest.approx(0.75, abs=0.06)


def test_values_with_one_word_are_one_value():
    """Navy is called blue: the two are never exchanged for each other."""
    table = catalogue()
    table.columns["colour"] = [c if i % 2 or c != "blue" else "navy" for i, c in enumerate(table.columns["colour"])]
    fake = FakeEmbedder(torch.ones(len(table), 4))
    Compositional(**SETTINGS, classes={"colour": {"navy": "blue"}})(fake, table, "test")
    assert not any("navy" in text for asked in fake.asked for text in asked)
    result = Compositional(**SETTINGS, classes={"colour": dict.fromkeys([*COLOURS, "navy"], "blue")})(
        fake, table, "test"
    )
    assert result.protocol["skipped"]["colour"] == "one value of colour only"
    assert result.primary == "kind/accuracy"


def test_rows_without_a_word_are_excluded_and_counted():
    table = catalogue()
    result = Compositional(**SETTINGS)(random_embedder(table), table, "test")
    assert result.counts["ignored"] == 1
    assert result.counts["images"] == table.column("split").count("test") - 1
    without = Compositional(**SETTINGS, ignore_values=["", "red"])(random_embedder(table), table, "test")
    assert without.counts["ignored"] == sum(
        c in ("", "red") for c, s in zip(table.column("colour"), table.column("split"), strict=True) if s == "test"
    )


def test_a_catalogue_without_held_out_splits_or_pairs_says_so():
    table = catalogue()
    table.columns["split"] = ["test"] * len(table)
    result = Compositional(**SETTINGS)(Encoder(table), table, "test")
    assert "no row of a split" in result.protocol["skipped"]["heldout"]
    assert "no train split" in result.protocol["known_pairs"]
    bare = Compositional(**SETTINGS | {"pair_template": ""})(Encoder(table), table, "test")
    assert set(bare.protocol["skipped"]) == {"improbable", "heldout"}
    json.dumps(bare.to_json(), allow_nan=False)


def test_a_held_out_pair_that_is_in_train_is_not_held_out():
    table = catalogue()
    row = table.column("split").index("train")
    table.columns["colour"][row], table.columns["type"][row] = "green", "hat"
    result = Compositional(**SETTINGS)(Encoder(table), table, "test")
    assert "heldout/pair_accuracy" not in result.metrics
    assert "heldout" in result.protocol["skipped"]


def test_rare_0_means_never_seen_in_train():
    table = catalogue()
    splits = table.columns["split"]
    for row in range(len(table)):
        if (table.columns["colour"][row], table.columns["type"][row]) == ("blue", "shoe") and splits[row] == "train":
            splits[row] = "excluded"
    result = Compositional(**SETTINGS, rare=0)(Encoder(table), table, "test")
    seen = sum(
        triple == ("blue", "shoe", "test")
        for triple in zip(table.columns["colour"], table.columns["type"], splits, strict=True)
    )
    assert result.counts["improbable/images"] == seen > 0
    whole = catalogue()
    result = Compositional(**SETTINGS, rare=0)(Encoder(whole), whole, "test")
    assert "at most 0 times" in result.protocol["skipped"]["improbable"]


def test_the_wrong_choices_are_listed_with_their_number():
    table = wrong_choices(["a", "a", "b", "a"], ["b", "b", "c", "c"], np.array([False, False, False, True]))
    assert table["rows"] == [["a", "b", 2, 3], ["b", "c", 1, 1]]
    many = wrong_choices([str(i) for i in range(99)], ["x"] * 99, np.zeros(99, dtype=bool))
    assert len(many["rows"]) == SHOWN


def test_the_strict_choice_is_the_same_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(25, 6, generator=generator), torch.randn(7, 6, generator=generator)
    targets = np.arange(25) % 7
    whole = strict_choice(images, texts, targets)
    monkeypatch.setattr("modiste.tasks.compositional.CHUNK", 4)
    parts = strict_choice(images, texts, targets)
    assert all((a == b).all() for a, b in zip(whole, parts, strict=True))
    tied = strict_choice(torch.ones(1, 2), torch.ones(3, 2), np.array([0]))
    assert not tied[0].any()


def test_seeds_decide_the_draws():
    table = catalogue()

    def run(seed):
        return Compositional(**SETTINGS, seed=seed)(random_embedder(table), table, "test")

    assert run(1) == run(1)
    assert (run(1).per_query["colour/accuracy"] != run(2).per_query["colour/accuracy"]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "a {type} for {gender}"}, r"has no \{colour\} to swap"),
        ({"pair_template": "a {colour}"}, "needs two columns"),
        ({"rare": 1.0}, "less than 1"),
    ],
)
def test_settings_that_do_not_fit_are_an_error(settings, message):
    with pytest.raises(ModisteError, match=message):
        Compositional(**SETTINGS | settings)


def test_what_cannot_be_exchanged_is_an_error():
    table = catalogue()
    with pytest.raises(ModisteError, match=r"set data\.compositional"):
        Compositional()(random_embedder(table), table, "test")
    with pytest.raises(ModisteError, match="has a value in each of"):
        Compositional(**SETTINGS, ignore_values=[*COLOURS, ""])(random_embedder(table), table, "test")
    one = {"swaps": {"colour": "colour"}, "template": "a {colour} thing"}
    with pytest.raises(ModisteError, match="has two values"):
        Compositional(**one, ignore_values=["red", "blue", ""])(random_embedder(table), table, "test")
    fake = random_embedder(table)
    fake.rows[:] = float("nan")
    with pytest.raises(ModisteError, match="not finite"):
        Compositional(**SETTINGS)(fake, table, "test")
