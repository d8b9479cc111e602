"""Child processes that end when their parent does, however it ended, or when it ends them."""

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


def obey_parent_only() -> None:
    """Have this process ignore Ctrl-C and SIGHUP, and SIGTERM unless its parent sends it or is gone.

    A terminal sends Ctrl-C and, closed, SIGHUP to a whole process group, and so do ``timeout`` and job schedulers with
    SIGTERM; the parent finishes its step first and ends its children itself. To be called in the main thread, before
    there are others.
    Where the sender of a signal cannot be known (macOS, Windows), SIGTERM ends the process as before.
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
