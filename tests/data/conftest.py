"""The real catalogue, read once a session."""

import pytest


def present(path):
    """The path, if the data are here."""
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MODISTE_DATA")
    return path


@pytest.fixture(scope="session")
def real_kagl(data_dir):
    from modiste.data.datasets.kagl import Kagl

    return Kagl(str(present(data_dir / "fashion-product-images-small.zip")))()


@pytest.fixture(scope="session")
def ccp_zip(data_dir):
    return present(data_dir / "clothing-co-parsing.zip")
