"""Access of the model libraries to the hub, switched off while they read what lies on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any


class _Switch:
    """A module's constant, replaced while any thread is within `held`."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self.lock, self.depth, self.before = threading.Lock(), 0, None

    @contextmanager
    def held(self, module: ModuleType) -> Iterator[None]:
        with self.lock:
            if not self.depth:
                self.before = getattr(module, self.name)
                setattr(module, self.name, self.value)
            self.depth += 1
        try:
            yield
        finally:
            with self.lock:
                self.depth -= 1
                if not self.depth:
                    setattr(module, self.name, self.before)


_OFFLINE, _TIME_OUT = _Switch("HF_HUB_OFFLINE", True), _Switch("TIME_OUT_REMOTE_CODE", 0)


@contextmanager
def without_hub(local: bool = True) -> Iterator[None]:
    """Have ``huggingface_hub``, and what is built on it, contact no host.

    The switch is the process's: a download of another thread fails meanwhile.

    Args:
        local: False, where a repository of the hub is read: nothing is switched.

    >>> import huggingface_hub
    >>> with without_hub():
    ...     huggingface_hub.is_offline_mode()
    True
    """
    from huggingface_hub import constants

    with _OFFLINE.held(constants) if local else nullcontext():
        yield


@contextmanager
def without_code(local: bool = True) -> Iterator[None]:
    """Have transformers never ask whether to run a model's code, and see `without_hub`."""
    from transformers import dynamic_module_utils

    with without_hub(local), _TIME_OUT.held(dynamic_module_utils):
        yield
