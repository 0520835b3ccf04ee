import pytest
import torch

from tests.training.small import squares, train


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def whole(photos, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(photos, tmp_path_factory.mktemp("runs") / "whole", "ema=0.9")


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """As in the processes that these tests start: the rounding of a sum depends on how many threads share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
