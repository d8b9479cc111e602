"""What a GPU changes: `pytest -m gpu` needs a card, MODISTE_TEST_DEVICE=cpu runs the same tests without one."""

import os

import pytest
import torch

REHEARSE = "MODISTE_TEST_DEVICE"


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.path.parts:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.slow)  # leave them out of the quick run; -m gpu takes them


@pytest.fixture(scope="session")
def device():
    """The card, or in a rehearsal the CPU."""
    name = os.environ.get(REHEARSE, "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"there is no NVIDIA card; {REHEARSE}=cpu rehearses this test on the CPU")
    return torch.device(name)


@pytest.fixture
def trainer(device):
    """Overrides that train on the device in float32."""
    return ["trainer=gpu", "trainer.precision=32-true"] if device.type == "cuda" else ["trainer=cpu"]
