"""Shared fixtures. Shapes in signatures are checked at run time throughout the suite."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium through playwright; the tests that open a page skip where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on the path; install the package `chromium` to test pages in a browser")
    sync = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; pip install -e '.[dev]'"
    )
    with sync.sync_playwright() as play:
        running = play.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests write to a cache of their own, shared by the whole run, never to the user's."""
    os.environ["OCULEX_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("OCULEX_CACHE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-evidence",
        action="store_true",
        help="Write what the tests measure into oculex/evidence, and run their long measurements at full length.",
    )


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


class Evidence:
    """What a test measures for a row of the catalog: ``evidence("clip", "learning", top1=0.93)``.

    Kept with --record-evidence alone, and only where the test passes.
    """

    def __init__(self, test: str, recording: bool) -> None:
        self.test, self.recording = test, recording
        self.facts: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, system: str, point: str, **facts: Any) -> None:
        self.facts.append((system, point, facts))

    def write(self) -> None:
        from oculex import catalog

        for system, point, facts in self.facts:
            catalog.record(system, point, {self.test.rsplit("::", 1)[1]: {"test": self.test, **facts}})


@pytest.fixture
def evidence(request: pytest.FixtureRequest):
    kept = Evidence(request.node.nodeid, request.config.getoption("--record-evidence"))
    yield kept
    if kept.recording and request.node.stash.get(_PASSED, False):
        kept.write()


@pytest.fixture(scope="session", params=[2, 4], ids=["2-ranks", "4-ranks"])
def pool(request):
    """A gloo group of two and of four processes, reused by the whole run."""
    from tests.pool import GlooPool

    group = GlooPool(request.param)
    yield group
    group.close()
