"""Micro-batches: order, sizes, waiting, a full queue, errors, and closing without losing anything."""

import threading
import time
from types import SimpleNamespace

import pytest

from modiste.serve.batching import Batcher, Busy
from modiste.serve.lists import Lists


def test_items_of_many_callers_share_batches_and_each_gets_its_own_result():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.005)
        return [item * 2 for item in items]

    got = {}

    def call(start):
        got[start] = [future.result(10) for future in batcher.submit([start, start + 1])]

    with Batcher(run, max_items=8, max_wait=0.02) as batcher:
        threads = [threading.Thread(target=call, args=(start,)) for start in range(0, 80, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {start: [2 * start, 2 * start + 2] for start in range(0, 80, 2)}
    assert sum(sizes) == 80
    assert max(sizes) <= 8
    assert len(sizes) < 40  # they were not run one by one


def test_an_item_waits_for_others_only_so_long_and_not_at_all_when_the_batch_is_full():
    with Batcher(lambda items: items, max_items=2, max_wait=0.2) as batcher:
        start = time.monotonic()
        batcher.submit([1])[0].result(5)
        alone = time.monotonic() - start
        start = time.monotonic()
        [future.result(5) for future in batcher.submit([1, 2])]
        full = time.monotonic() - start
    assert alone >= 0.19
    assert full < 0.15


def test_a_full_queue_refuses_the_whole_request_and_says_when_to_come_back():
    started, go = threading.Event(), threading.Event()

    def run(items):
        started.set()
        go.wait(10)
        return items

    with Batcher(run, max_items=1, max_wait=0, max_queue=3) as batcher:
        running = batcher.submit(["running"])
        assert started.wait(5)
        waiting = batcher.submit(["a", "b"])
        with pytest.raises(Busy) as refused:
            batcher.submit(["c", "d"])  # one of them would fit
        assert refused.value.retry_after >= 1
        assert len(batcher) == 2
        last = batcher.submit(["c"])
        go.set()
        assert [future.result(5) for future in running + waiting + last] == ["running", "a", "b", "c"]


def test_an_error_belongs_to_its_batch_and_the_thread_goes_on():
    def run(items):
        if "bad" in items:
            raise ValueError("bad input")
        return items

    with Batcher(run, max_items=1, max_wait=0) as batcher:
        bad, good = batcher.submit(["bad", "good"])
        with pytest.raises(ValueError, match="bad input"):
            bad.result(5)
        assert good.result(5) == "good"


def test_a_wrong_number_of_results_is_an_error_and_no_one_waits_for_ever():
    with Batcher(lambda items: items[:1], max_items=2, max_wait=0.05) as batcher:
        first, second = batcher.submit([1, 2])
        assert first.result(5) == 1
        with pytest.raises(ValueError, match="zip"):
            second.result(5)


def test_closing_finishes_what_was_queued_and_refuses_what_comes_after():
    def run(items):
        time.sleep(0.01)
        return items

    batcher = Batcher(run, max_items=1, max_wait=0)
    futures = batcher.submit(list(range(10)))
    batcher.close()
    assert [future.result(0) for future in futures] == list(range(10))
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([1])


def test_a_caller_that_gave_up_is_excluded():
    seen, started, go = [], threading.Event(), threading.Event()

    def run(items):
        seen.extend(items)
        started.set()
        go.wait(5)
        return items

    with Batcher(run, max_items=1, max_wait=0) as batcher:
        batcher.submit(["first"])
        assert started.wait(5)
        (gone,) = batcher.submit(["gone"])
        assert gone.cancel()
        (last,) = batcher.submit(["last"])
        go.set()
        assert last.result(5) == "last"
    assert seen == ["first", "last"]


class Panic(BaseException):
    """As of a Rust library: no Exception."""


def test_a_panic_of_a_library_is_an_error_of_its_request_and_the_thread_goes_on():
    def run(items):
        if "bad" in items:
            raise Panic("retry-limit-in-match over")
        return items

    with Batcher(run, max_wait=0) as batcher:
        with pytest.raises(RuntimeError, match="Panic: retry-limit"):
            batcher.submit(["bad"])[0].result(5)
        assert batcher.submit(["good"])[0].result(5) == "good"


def test_a_panic_in_a_health_list_reaches_those_who_wait():
    def compute(index):
        raise Panic("x")

    held = SimpleNamespace(edition=1, index=SimpleNamespace(), towers=SimpleNamespace(model=None))
    with pytest.raises(RuntimeError, match="Panic: x"):
        Lists({"duplicates": compute}).get("duplicates", held).result(5)
