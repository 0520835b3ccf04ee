"""Shared fixtures. Shapes in signatures are checked at run time throughout the suite."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

for part in ("nn", "objectives", "systems"):
    install_import_hook(f"oculex.{part}", "beartype.beartype")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Small real datasets, where present: OCULEX_REAL_DATA or a folder shared/data beside the checkout."""
    folder = Path(os.environ.get("OCULEX_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set OCULEX_REAL_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests write to a cache of their own, shared by the whole run, never to the user's."""
    os.environ["OCULEX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("OCULEX_CACHE")


@pytest.fixture(scope="session", params=[2, 4], ids=["2-ranks", "4-ranks"])
def pool(request):
    """A gloo group of two and of four processes, reused by the whole run."""
    from tests.pool import GlooPool

    group = GlooPool(request.param)
    yield group
    group.close()
