"""Scans go to a folder of the test session; the real data is read once a session."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _session_cache(tmp_path_factory):
    before = os.environ.get("MODISTE_CACHE")
    os.environ["MODISTE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MODISTE_CACHE"]
    else:
        os.environ["MODISTE_CACHE"] = before


@pytest.fixture(scope="session")
def real_data():
    """The folder of the real data sets."""
    folder = os.environ.get("MODISTE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MODISTE_DATA is not set to the folder of the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def real_kagl(real_data):
    from modiste.data.kagl import Kagl

    path = real_data / "fashion-product-images-small.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MODISTE_DATA")
    return Kagl(str(path))()
