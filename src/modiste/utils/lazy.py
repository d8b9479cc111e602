"""Lazy imports of a package's public names: torch and Lightning are heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
        package: Its name.
        homes: Public name → module that defines it.

    >>> lazy_exports("package", {"sqrt": "math"})("sqrt")(4.0)
    2.0
    """

    def module_getattr(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return module_getattr
