"""The one OpenVINO Core of this process."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Core


@functools.cache
def core() -> Core:
    """The one Core of this process. Each brings a stack for signals; where they go in the order in which they came, the
    process is left with one that is gone, and the next signal, such as that of a child's end, kills it."""
    import openvino as ov

    return ov.Core()
