"""Titles that differ in accents, the order of words or one letter."""

import pytest

from modiste.evaluation.titles import match_titles

TRAIN = ["Puma Men Black T-shirt", "Nike Air Max 90 Shoes", "Red hat", "Robe d'été rouge"]


@pytest.mark.parametrize(
    ("title", "row"),
    [
        ("Puma Men Black T-shirt", 0),
        ("PUMA black t-shirt, men", 0),
        ("Pumá Men Blàck T-shirt", 0),
        ("Puma Men Blck T-shirt", 0),
        ("Puma Men Blackk T-shirt", 0),
        ("Robe d'ete rouge", 3),
        ("Puma Men Blue T-shirt", -1),
        ("Nike Air Max 9 Shoes", -1),
        ("Nike Air Max 95 Shoes", -1),
        ("Nike Air Max 90 Shoe", 1),
        ("Red hats", -1),  # too short for a letter more to be a slip
        ("", -1),
    ],
)
def test_like_titles_are_found_and_others_are_not(title, row):
    match = match_titles(TRAIN, [title])
    assert match.train.tolist() == [row]


def test_the_distance_says_whether_a_letter_differs():
    assert match_titles(TRAIN, ["black puma men t shirt", "Puma Men Blck T-shirt"]).distance.tolist() == [0, 1]
