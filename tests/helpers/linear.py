"""Whether what reads foreign text takes time in proportion to its length."""

import time
from collections.abc import Callable

SHORT, LONG = 12_500, 50_000


def assert_linear(read: Callable[[str], object], unit: str, before: str = "", after: str = "") -> None:
    """Read ``unit`` repeated to 12,500 and to 50,000 characters: quadratic time would grow by 16, linear by 4.

    Time of the processor: what else runs on the machine does not count.
    """

    def seconds(length: int) -> float:
        text = before + unit * (length // len(unit)) + after
        start = time.thread_time()
        read(text)
        return time.thread_time() - start

    short, long = (min(seconds(length) for _ in range(3)) for length in (SHORT, LONG))
    assert long < 8 * short + 0.02, f"{unit!r}: {short:.3f} s, then {long:.3f} s"
