"""Two tiny indexes of synthetic garments by two models, and a server over them."""

import pytest

from helpers.served import make_index, running


@pytest.fixture(scope="session")
def indexes(tmp_path_factory):
    """Folders of two indexes of the same garments by two models."""
    for package in ("fastapi", "fastapi_offline", "lancedb", "prometheus_client", "uvicorn"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("indexes")
    return [make_index(folder / f"{name}.index", seed) for name, seed in (("shop", 0), ("other", 1))]


@pytest.fixture(scope="session")
def server(indexes):
    """A server over both, with small limits."""
    from modiste.serve.app import create_app
    from modiste.serve.settings import Settings

    settings = Settings(
        str(indexes[0]), compare=str(indexes[1]), backend="torch", max_upload_mb=1, max_pixels=1_000_000,
        max_inputs=100, poll_seconds=0.1,
    )  # fmt: skip
    with running(create_app(settings)) as served:
        yield served


@pytest.fixture
def client(server):
    """Calls of the server."""
    import httpx

    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
