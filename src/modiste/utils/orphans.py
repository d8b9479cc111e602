"""Child processes that end with their parent, even when it was killed, and only by its signals."""

from __future__ import annotations

import os
import signal
import threading
import time

SECONDS = 1.0
"""Interval at which a child checks its parent."""


def end_with_parent(parent: int | None = None) -> None:
    """Kill this process within seconds of its parent's death, even if the parent was killed by SIGKILL.

    A thread polls the parent's process id; torch's kernels release the GIL, so it runs in time. This has no effect on
    Windows, where a child keeps the id of a dead parent.

    Args:
        parent: Process id to watch; None: the current parent.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


def obey_parent_only() -> None:
    """Make this process ignore Ctrl-C and SIGHUP, and SIGTERM unless its parent sends it or is gone.

    Terminals, ``timeout`` and job schedulers signal a whole process group, but the parent wants to finish its step
    first and then ends its children itself. Call this in the main thread, before other threads start. Where the sender
    of a signal is unknown (macOS, Windows), SIGTERM ends the process as usual.
    """
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # also in all threads that start later

    def obey() -> None:
        while True:
            sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
            if sender == parent or os.getppid() != parent:
                os._exit(0)

    threading.Thread(target=obey, name="obey_parent_only", daemon=True).start()
