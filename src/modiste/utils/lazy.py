"""Lazy imports of a package's public names, since torch and Lightning take seconds to import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Create a package's ``__getattr__`` (PEP 562), which imports public names on first use.

    Args:
        package: The package's name, for the error message.
        homes: Public name → module that defines it.

    >>> lazy_exports("package", {"sqrt": "math"})("sqrt")(4.0)
    2.0
    """

    def module_getattr(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return module_getattr
