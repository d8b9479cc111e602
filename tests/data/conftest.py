"""The real catalogue, read once a session."""

import pytest


@pytest.fixture(scope="session")
def real_kagl(data_dir):
    from modiste.data.kagl import Kagl

    path = data_dir / "fashion-product-images-small.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MODISTE_DATA")
    return Kagl(str(path))()


@pytest.fixture(scope="session")
def ccp_zip(data_dir):
    path = data_dir / "clothing-co-parsing.zip"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MODISTE_DATA")
    return path
