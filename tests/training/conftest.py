import pytest

from tests.training.small import squares, train


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def whole(photos, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(photos, tmp_path_factory.mktemp("runs") / "whole", "ema=0.9")
