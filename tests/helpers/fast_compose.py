"""Composing hundreds of configs in one process: a YAML file is parsed once."""

import copy

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource

PARSED = {}


@pytest.fixture
def cached_files(monkeypatch):
    """Hydra reads a file of its search path once."""
    load = FileConfigSource.load_config

    def cached(self, config_path):
        key = self.path, config_path
        if key not in PARSED:
            PARSED[key] = load(self, config_path)
        return copy.deepcopy(PARSED[key])

    monkeypatch.setattr(FileConfigSource, "load_config", cached)
