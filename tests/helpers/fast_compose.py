"""Composing hundreds of configs in one process: a YAML file is parsed once."""

import copy
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cached_files():
    """Hydra parses a file of its search path once, and again if it changes."""
    from hydra._internal.core_plugins import file_config_source
    from hydra.core.plugins import Plugins

    Plugins.instance()  # imports the modules of the plugins a second time, which replaces their classes
    source, parsed = file_config_source.FileConfigSource, {}
    load = source.load_config

    def cached(self, config_path):
        file = Path(self.path) / self._normalize_file_name(config_path)
        if not file.is_file():
            return load(self, config_path)  # the error is Hydra's
        seen = file.stat()
        key = file, seen.st_mtime_ns, seen.st_size
        if key not in parsed:
            parsed[key] = load(self, config_path)
        return copy.deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "load_config", cached)
        yield
