"""The page in a real browser: its tabs are the run's capabilities, and what it shows is what the model says."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oculex import inference
from oculex.data.decode import opened as decoded
from oculex.data.sources import open_source
from tests import toys

TABS = {
    "clip": ["Search", "Classify"],
    "classifier": ["Search", "Classify", "Features"],
    "llava": ["Search", "Ask"],
    "lavit": ["Search", "Ask", "Draw"],
    "fiber": ["Search", "Find"],
    "gpt": ["Continue"],
}
SHOTS = os.environ.get("OCULEX_SHOTS", "")
"""A folder for pictures of the pages, for people to look at."""


class Page:
    """A page of a run with everything that it said and asked for."""

    def __init__(self, browser, url, width=1280, scheme="light"):
        self.url, self.said, self.asked = url, [], []
        self.page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        self.page.set_default_timeout(180_000)
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("button[role=tab]")

    def tabs(self):
        return [tab.inner_text() for tab in self.page.locator("button[role=tab]").all()]

    def open(self, title):
        self.page.get_by_role("tab", name=title).click()
        return self.page.get_by_role("tabpanel").filter(visible=True)

    def away(self):
        """What was asked of anybody else."""
        here = (self.url, "data:", "blob:")
        return [url for url in self.asked if not url.startswith(here)]

    def shoot(self, name):
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)

    def upload(self, panel, path):
        panel.locator("input[type=file]").first.set_input_files(str(path))

    def line(self):
        """The one line of a mistake."""
        toast = self.page.locator(".toast-body").last
        toast.wait_for()
        return toast.inner_text()

    def done(self):
        errors = [text for kind, text in self.said if kind == "error"]
        self.page.close()
        return errors, self.away()


@pytest.fixture
def visit(browser, serving, request):
    def go(name, **options):
        return Page(browser, serving(request.getfixturevalue(name)).url, **options)

    return go


@pytest.fixture(scope="session")
def blue(tmp_path_factory):
    path = tmp_path_factory.mktemp("blue") / "blue.png"
    Image.new("RGB", (16, 16), toys.COLOURS["blue"]).save(path)
    return path


@pytest.mark.parametrize("name", TABS)
def test_tabs_are_what_the_run_can_do_and_nothing_leaves_the_machine(visit, request, name):
    page = visit(name)
    assert page.tabs() == TABS[name]
    text = page.page.locator("#head").inner_text()
    assert request.getfixturevalue(name).name in text
    assert "trained on" in text
    widths = set()
    for title in TABS[name]:
        page.open(title)
        widths.add(page.page.locator("#head").bounding_box()["width"])
    assert len(widths) == 1  # the page stays as wide as it is
    page.page.wait_for_timeout(300)
    assert page.done() == ([], [])


def test_it_says_which_classes_its_data_have(visit):
    """A small run asked for what it never saw answers nonsense."""
    page = visit("classifier")
    text = page.page.locator("#head").inner_text()
    assert f"Trained on data of {len(toys.COLOURS)} classes, so it may know nothing else: " in text
    page.page.close()


def test_many_classes_and_hostile_ones_are_named_safely():
    from oculex.serve.page import NAMED, _known

    assert _known(()) == ""
    assert "&lt;b&gt;x&lt;/b&gt;." in _known(["<b>x</b>"])
    line = _known([f"class {n}" for n in range(1000)])
    assert "1,000 classes" in line
    assert f"class {NAMED - 1} and {1000 - NAMED} more." in line


def test_a_text_and_a_picture_find_pictures(visit, clip, blue):
    page = visit("clip")
    panel = page.open("Search")
    panel.get_by_label("What is to be seen").fill("a photo of a blue.")
    panel.get_by_role("button", name="Search by text").click()
    hits = panel.locator(".hits li")
    hits.first.wait_for()
    assert hits.count() == 12
    assert page.page.evaluate("[...document.querySelectorAll('.hits img')].every((i) => i.naturalWidth > 0)")
    captions = panel.locator(".hits li span").all_inner_texts()
    assert sum("blue" in each for each in captions) >= 6, captions  # an eighth by chance
    scores = [float(each) for each in panel.locator(".hits b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.shoot("search-text")
    page.upload(panel, blue)
    panel.locator(".upload img").wait_for()
    before = panel.locator(".hits small").all_inner_texts()
    panel.get_by_role("button", name="Search by picture").click()
    page.page.wait_for_function(
        "(old) => JSON.stringify([...document.querySelectorAll('.hits small')].map((e) => e.innerText)) !== old",
        arg=re.sub(r'", "', '","', str(before).replace("'", '"')),
    )
    captions = panel.locator(".hits li span").all_inner_texts()
    assert sum("blue" in each for each in captions) >= 6, captions
    page.shoot("search-picture")
    assert page.done() == ([], [])


def test_names_are_told_apart_and_so_are_classes(visit, blue):
    for name, button in (("clip", "Choose among these names"), ("classifier", "Classify")):
        page = visit(name)
        panel = page.open("Classify")
        page.upload(panel, blue)
        panel.locator(".upload img").wait_for()
        panel.get_by_role("button", name=button).click()
        panel.locator(".bars li").first.wait_for()
        assert panel.locator(".bars li span").first.inner_text() == "blue"
        assert panel.locator(".bars li").count() == len(toys.COLOURS)
        page.shoot(f"classify-{name}")
        assert page.done() == ([], [])


def test_an_answer_appears_and_is_the_commands(visit, llava, blue):
    page = visit("llava")
    panel = page.open("Ask")
    page.upload(panel, blue)
    panel.locator(".upload img").wait_for()
    panel.get_by_role("button", name="Ask").click()
    (said,) = inference.generate(llava, [blue])
    assert said["text"]
    page.page.wait_for_function(
        "(text) => document.querySelector('#answer textarea').value === text", arg=said["text"]
    )
    page.shoot("ask")
    assert page.done() == ([], [])


def test_a_text_goes_on(visit, gpt):
    page = visit("gpt")
    panel = page.open("Continue")
    panel.get_by_label("How it begins").fill("a photo")
    panel.get_by_role("button", name="Go on").click()
    (said,) = inference.generate(gpt, prompt="a photo")
    page.page.wait_for_function(
        "(text) => document.querySelector('#continued textarea').value === text", arg=said["text"]
    )
    page.shoot("continue")
    assert page.done() == ([], [])


def test_drawings_appear_and_are_the_commands(visit, lavit, tmp_path):
    page = visit("lavit")
    panel = page.open("Draw")
    panel.get_by_label("What is to be drawn").fill("a red square")
    panel.get_by_role("button", name="Draw").click()
    pictures = panel.locator("#drawn img")
    page.page.wait_for_function("document.querySelectorAll('#drawn img').length >= 4")
    assert [each for each in panel.locator("#drawn").inner_text().splitlines() if "seed" in each] == [
        f"seed {n}" for n in range(4)
    ]
    shown = page.page.request.get(pictures.nth(1).get_attribute("src")).body()
    own = np.asarray(Image.open(inference.draw(lavit, "a red square", tmp_path / "a.png", seed=1)))
    seen = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB"))
    assert np.array_equal(seen[8::16, 8::16], own)
    page.shoot("draw")
    assert page.done() == ([], [])


def test_boxes_appear_on_the_picture(visit, fiber, tmp_path):
    source = open_source(str(fiber.parent / "data" / "squares.json"))
    path = tmp_path / "squares.png"
    decoded(source[0]["image"], "0").save(path)
    page = visit("fiber")
    panel = page.open("Find")
    page.upload(panel, path)
    panel.locator(".upload img").wait_for()
    panel.get_by_label("What is to be found").fill("a [red square] and a [blue square]")
    panel.get_by_role("button", name="Find").click()
    panel.locator(".phrases li").first.wait_for()
    assert panel.locator(".phrases span").all_inner_texts() == ["red square", "blue square"]
    panel.locator("#boxes img").wait_for()
    page.shoot("find")
    assert page.done() == ([], [])


def test_features_appear(visit, blue):
    page = visit("classifier")
    panel = page.open("Features")
    page.upload(panel, blue)
    panel.locator(".upload img").wait_for()
    panel.get_by_role("button", name="Look").click()
    page.page.wait_for_function("document.querySelectorAll('#features img').length >= 3")
    assert "the class token's attention" in panel.locator("#features").inner_text()
    page.shoot("features")
    assert page.done() == ([], [])


def test_an_example_fills_the_inputs(visit):
    page = visit("llava")
    panel = page.open("Ask")
    panel.locator(".gallery-item").first.click()
    panel.locator(".upload img").wait_for()
    panel.get_by_role("button", name="Ask").click()
    page.page.wait_for_function("document.querySelector('#answer textarea').value.includes('square')")
    page.done()


def test_what_is_no_picture_is_one_line(visit, tmp_path):
    path = tmp_path / "b<img src=x onerror='window.owned=1'>.png"
    path.write_bytes(b"this is no picture")
    page = visit("clip")
    panel = page.open("Classify")
    page.upload(panel, path)
    panel.locator(".upload img").wait_for(state="attached")
    panel.get_by_role("button", name="Choose among these names").click()
    line = page.line()
    assert "not a readable image: it is none of JPEG, PNG" in line
    page.shoot("mistake")
    assert page.page.evaluate("window.owned") is None
    page.page.close()


def test_hostile_texts_stay_texts(visit, clip, blue):
    page = visit("clip")
    panel = page.open("Classify")
    page.upload(panel, blue)
    panel.locator(".upload img").wait_for()
    hostile = "<img src=x onerror='window.owned=1'>{{value.about}}${1+1}"
    panel.get_by_label("Names, one a line").fill(f"{hostile}\nblue")
    panel.get_by_role("button", name="Choose among these names").click()
    panel.locator(".bars li").first.wait_for()
    assert hostile.replace("${", "$\u2060{") in panel.locator(".bars li span").all_inner_texts()
    assert page.page.evaluate("window.owned") is None
    page.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_it_fits_a_phone_and_the_dark(visit, width, scheme):
    page = visit("classifier", width=width, scheme=scheme)
    page.open("Classify")
    page.page.wait_for_timeout(300)
    over = page.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0
    page.shoot(f"width-{width}-{scheme}")
    page.page.close()
