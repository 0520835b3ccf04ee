"""The page as a browser shows it."""

import json
import shutil

import pytest

from oculex.evaluation.records import Table
from oculex.report import charts
from oculex.report.page import write_report
from oculex.training import recipes
from oculex.training.folder import RunFolder, append_line, write_json

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="session")
def browser():
    """A real headless Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here; install the package chromium to test pages")
    playwright = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=path, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def run(tmp_path):
    from oculex.systems.contrastive.clip import SYSTEM

    folder = RunFolder.create(tmp_path / "run")
    write_json(folder.recipe, recipes.to_tree(recipes.preset(SYSTEM, "clip", "tiny")))
    for step in range(20, 200, 20):
        line = {
            "step": step,
            "samples": step * 256,
            "loss": 5 - step / 50,
            "lr": 1e-3,
            "samples_per_s": 600.0,
        }
        append_line(folder.metrics, line | {"data_wait": 0.01, "seconds": step / 2})
    for step in (100, 200):
        estimate = {"value": step / 250, "low": step / 250 - 0.05, "high": step / 250 + 0.04, "n": 2000}
        metrics = {"world/zeroshot/top1": estimate}
        append_line(
            folder.evaluations, {"step": step, "samples": step * 256, "seconds": step, "metrics": metrics}
        )
    append_line(folder.skipped, {"step": 3, "id": HOSTILE, "reason": "truncated"})
    labels = ["red cube", "blue ball", HOSTILE]
    truth = [labels[i % 3] for i in range(30)]
    parsed = [labels[(i + i // 20) % 3] for i in range(30)]
    table = Table.of(
        set="world", task="zeroshot", item=[str(i) for i in range(30)], cluster=[str(i) for i in range(30)], model="m",
        prompt="ensemble", control="", output="{}", parsed=parsed, truth=truth, score=0.0,
        status=["right" if a == b else "wrong" for a, b in zip(truth, parsed, strict=True)],
    )  # fmt: skip
    table.write(folder.records / "step.parquet")
    hits = [{"id": "1", "text": HOSTILE, "score": 0.5, "right": True}]
    (folder.path / "gallery.json").write_text(json.dumps([{"query": HOSTILE, "hits": hits}]))
    return write_report(folder.path)


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_is_whole_quiet_and_fits(browser, run, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(run.as_uri())
    assert page.title() != "owned"
    assert said == []
    assert asked == [run.as_uri()]
    for section in ("curves", "learning", "evaluation", "gallery", "confusion", "skipped", "again"):
        assert page.locator(f"#{section}").count() == 1, section
    assert "0.75 to 0.84, n = 2,000" in page.inner_text("body")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg polyline").count() >= 4
    page.close()


def test_nothing_in_the_file_refers_elsewhere(run):
    text = run.read_text(encoding="utf-8")
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "<script" not in text


def test_ticks_are_round_and_span_the_data():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((3, 9), (-1, 1), (0.001, 0.0042), (1e5, 3e6), (2, 2)):
        ticks = charts.ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 3 <= len(ticks) <= 12
