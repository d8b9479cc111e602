"""Child processes that end when their parent does, however it ended."""

from __future__ import annotations

import os
import signal
import threading
import time

SECONDS = 1.0


def end_with_parent(parent: int | None = None) -> None:
    """Have this process killed within seconds of its parent's death, even by SIGKILL, which no handler sees.

    A thread asks for the parent's id now and then; torch's kernels release the GIL, so it is asked in time. Nothing
    happens on Windows, where a child keeps the id of a dead parent.

    Args:
        parent: The process that must live; None: the present parent.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
