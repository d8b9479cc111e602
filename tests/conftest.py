"""What every test shares: a cache of its own, two threads, and the real data sets where MODISTE_DATA has them."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from helpers.fast_compose import cached_files as cached_files

# Read by torch when a test imports it.
os.environ.setdefault("OMP_NUM_THREADS", "2")


def pytest_configure(config):
    """Scans and embeddings never go to the user's cache, not even those of a doctest; all workers share one."""
    # A shell ignores it in what it starts with &, and so would every process that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.modiste_cache = os.environ["MODISTE_CACHE"] = tempfile.mkdtemp(prefix="modiste-cache-")
    # TensorBoard's absl closes the stream of its handler when a command in this process configures logging, unless that
    # is the real stderr: as pytest's capture it would take the rest of the tests with it.
    with contextlib.suppress(ImportError):
        from absl import logging as absl_logging

        absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.modiste_cache, ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir():
    """The folder of the real data sets."""
    folder = os.environ.get("MODISTE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MODISTE_DATA is not set to the folder of the real data sets")
    return Path(folder)


def present(path):
    """The path, if the data are here."""
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MODISTE_DATA")
    return path


@pytest.fixture(scope="session")
def kagl_zip(data_dir):
    return present(data_dir / "fashion-product-images-small.zip")


@pytest.fixture(scope="session")
def real_kagl(kagl_zip):
    from modiste.data.datasets.kagl import Kagl

    return Kagl(str(kagl_zip))()


@pytest.fixture(scope="session")
def ccp_zip(data_dir):
    return present(data_dir / "clothing-co-parsing.zip")
