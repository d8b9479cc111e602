"""The one OpenVINO Core of this process; import this module before openvino, which otherwise sends telemetry."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino import Core

# openvino sends events to its maker when it is imported and when it converts, from a forked process; it does without
# where this package cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


@functools.cache
def core() -> Core:
    """The one Core of this process. Each brings a stack for signals; where they go in the order in which they came, the
    process is left with one that is gone, and the next signal, such as that of a child's end, kills it."""
    import openvino as ov

    return ov.Core()
