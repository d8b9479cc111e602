"""Permission to download is given by name: `_args_` of a stored configuration cannot give it by position."""

import importlib
import inspect
import pkgutil

import pytest

from modiste.config import instantiate
from modiste.data import datasets as package
from modiste.data.storage.streaming import Stream

LEAVE = ("download", "private")
"""Words of parameters that let addresses be opened."""
CLASSES = [
    item
    for found in pkgutil.iter_modules(package.__path__)
    for item in vars(importlib.import_module(f"{package.__name__}.{found.name}")).values()
    if inspect.isclass(item) and item.__module__ == f"{package.__name__}.{found.name}"
]


@pytest.mark.parametrize("kind", [*CLASSES, Stream], ids=lambda kind: kind.__name__)
def test_leave_has_no_position(kind):
    taken = inspect.signature(kind).parameters
    assert all(taken[name].kind is inspect.Parameter.KEYWORD_ONLY for name in LEAVE if name in taken)


@pytest.mark.parametrize("target", ["table.Table", "fashion_mnist.FashionMnist"])
def test_arguments_by_position_give_no_leave(target, tmp_path):
    for count in range(1, 12):
        node = {"_target_": f"modiste.data.datasets.{target}", "_args_": [str(tmp_path), *[True] * count]}
        try:
            made = instantiate(node)
        except Exception:  # too many, or of a wrong type
            continue
        assert made.download is False
