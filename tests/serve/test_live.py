"""What is swapped out is freed, and an index that replaces another is never taken for it."""

import gc
import shutil
import weakref

import pytest


@pytest.fixture
def moving(indexes, tmp_path):
    """A served index, and a function that puts another index in its place."""
    from modiste import search
    from modiste.serve.live import Live
    from modiste.serve.metrics import Metrics
    from modiste.serve.settings import Settings

    folder = tmp_path / "moving.index"
    shutil.copytree(indexes[0], folder)
    live = Live("main", folder, search.open, Settings(str(folder), backend="torch", poll_seconds=3600), Metrics())

    def replace():
        shutil.rmtree(folder)
        shutil.copytree(indexes[1], folder)
        assert live.refresh()

    yield live, replace
    live.close()


def test_a_version_that_is_swapped_out_is_freed_without_the_garbage_collector(moving):
    """The server freezes the first version's objects, which the collector then never looks at."""
    from modiste import search

    live, replace = moving
    with live.use() as held:
        held.photo(0, False)
        first = held.index.browse(k=1).column("product_id")[0].as_py()
        version = [weakref.ref(one) for one in (held, held.index, held.scored)]
        model = [weakref.ref(one) for one in (held.towers, held.towers.model, held.towers.grounding)]
    del held
    gc.collect()
    gc.disable()
    try:
        search.open(live.path).delete(first)
        assert live.refresh()
        assert [one() for one in version] == [None] * 3
        assert None not in [one() for one in model]  # still in use
        replace()
        assert [one() for one in model] == [None] * 3
    finally:
        gc.enable()


def test_lists_of_an_index_are_not_those_of_another_with_the_same_version_number(moving):
    import pyarrow as pa

    from modiste.serve.lists import Lists

    live, replace = moving
    lists, seen = Lists({"fingerprints": lambda index: pa.table({"model": [index.fingerprint]})}), []
    for change in (lambda: None, lambda: None, replace):
        change()
        with live.use() as held:
            made = lists.get("fingerprints", held)
            assert made.result(30).column("model").to_pylist() == [held.index.fingerprint]
            assert lists.total("fingerprints", held) == 1
            seen.append((held.version, held.edition, made))
    (version, edition, made), again, (same, other, _) = seen
    assert again == (version, edition, made)
    assert same == version
    assert other != edition
