"""Fixtures of the tests that compose many configurations."""

from helpers.fast_compose import cached_files

__all__ = ["cached_files"]
