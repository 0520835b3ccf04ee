"""A run's page: what it says, that it says it whatever the run lacks, and how a browser shows it."""

from __future__ import annotations

import html
import json
import os
import re

import numpy as np
import pytest

from oculex.contracts import UserError
from oculex.report import commands, confusion
from oculex.report.page import _listed, write_report
from tests.report.conftest import CLASSES, HOSTILE, RECIPE, make_run, metrics

SECTIONS = ["headline", "curves", "throughput", "evaluation", "learning", "gallery", "confusion", "skipped", "again",
            "recipe", "machine"]  # fmt: skip


def text_of(page: str) -> str:
    """What a reader sees, roughly: no markup, spaces alike."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split()).replace("\u202f", " ")


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["world"], "the embedded world"),
        (["world:most=3@11", "world:most=1@1", "table:size=64@4", "table:size=64,objects=1"],
         "the embedded world and the simulated table"),
        (["data/photos@2", "data/shards", "world"], "photos, shards and the embedded world"),
        ([], "nothing"),
    ],
)  # fmt: skip
def test_a_page_names_each_source_once(sources, said):
    assert _listed(sources) == said


def test_the_page_tells_what_the_run_measured(run):
    said = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "clip, trained on the embedded world" in said
    assert "Preset tiny: 107,520 samples seen in 2 min 30 s on 2 CPU cores, seed 0." in said
    for name, e in json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["metrics"].items():
        if "chance" not in name and "median" not in name and e["value"] > 0.01:
            assert f"{100 * e['value']:.1f} %" in said, name
            assert f"{100 * e['low']:.1f} to {100 * e['high']:.1f} %" in said, name
    assert "chance 0.83 %, n = 2,000" in said
    assert "61 samples could not be used" in said
    assert "truncated JPEG 60" in said
    assert "The first 50" in said
    assert "oculex train clip --preset tiny --data world --budget 150s --seed 0" in said
    assert f"oculex evaluate {run}" in said


def test_confusion_counts_are_those_of_the_records(run):
    from oculex.evaluation.records import read

    table = read(run / "records" / "step-000000416.parquet")
    section = confusion.section([table])
    truth, answer, times, part = section["pairs"][0]
    hits = (table["truth"] == truth) & (table["parsed"] == answer)
    assert truth != answer
    assert times == hits.sum() == max(n for *_, n, _ in section["pairs"])
    assert part == pytest.approx(times / (table["truth"] == truth).sum())
    assert section["right"] == (table["status"] == "right").sum()
    assert section["silent"] == (table["status"] == "unparsed").sum() > 0
    assert section["classes"] == 120
    assert confusion.classes([table]) == {("world", "zeroshot"): 120}


def test_confused_classes_stand_together():
    mistakes = [("red cube", "blue cube"), ("red cone", "blue cone"), ("red cube", "red cone")]
    names, groups = confusion.ordered(CLASSES, mistakes)
    assert sorted(names) == sorted(CLASSES)
    assert groups == [(shape, 10) for shape in sorted({name.split()[1] for name in CLASSES})]
    assert [name.split()[1] for name in names[:10]] == ["arch"] * 10
    assert confusion.ordered(["b", "a"], []) == (["a", "b"], [("a", 1), ("b", 1)])
    assert confusion.ordered([f"class{i}" for i in range(40)], [])[1] == []


def test_nothing_is_loaded_and_nothing_hostile_is_markup(run):
    page = write_report(run).read_text(encoding="utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=False).split("onerror")[0] in page
    assert not re.findall(r'(?:src|href)="(?!data:image/|#)', page)
    assert page.count("<script>") == 1
    assert " style=" not in page


def test_a_run_that_has_only_a_recipe_has_a_page(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE | {"system": "another"}))
    said = text_of(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "another, trained on the embedded world" in said
    assert "It has not been trained here." in said
    assert "Not evaluated." in said
    assert "every sample that was asked for could be read" in said


def test_no_run_no_page(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)


def test_what_is_not_finite_or_cut_short_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"step": 430, "samples": 110080, "loss": NaN, "seconds": 152.0, "note": "x"}\n{"step": 440, "lo'
        )
    unbounded = {"world/zeroshot/top1": {"value": 0.5, "low": -np.inf, "high": np.inf, "n": 1}}
    with (run / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps({"step": 430, "samples": 110080, "metrics": unbounded}) + "\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert "no interval" in text_of(page)
    assert "NaN" not in page
    assert "nan" not in " ".join(re.findall(r' d="([^"]*)"', page))


def test_a_curve_has_points_of_one_number_of_items_only(run):
    """Recall among 2,000 is another question than recall among 1,000."""
    page = write_report(run).read_text(encoding="utf-8")
    before = page.count("&#34;series&#34;")
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    last["step"], last["samples"] = 420, 107_520
    for estimate in last["metrics"].values():
        estimate["n"] //= 2
    (run / "evaluations.jsonl").write_text("\n".join([*lines, json.dumps(last)]) + "\n")
    page = write_report(run).read_text(encoding="utf-8")
    learning = page.split('id="learning"')[1].split("</section>")[0]
    assert page.count("&#34;series&#34;") == before
    assert "107520" not in learning
    assert "n = 2,000" in learning


def test_the_largest_classification_is_shown_the_newest_among_equals(run):
    from oculex.evaluation.records import read

    whole = read(run / "records" / "step-000000416.parquet")
    part = whole.rows(np.arange(300))
    assert confusion.section([part, whole])["n"] == 2000
    assert confusion.section([part])["n"] == 300


def test_a_later_evaluation_of_as_many_items_counts(run):
    better = {name: e | {"value": 0.777, "low": 0.7, "high": 0.8} for name, e in metrics(1.0).items()}
    fewer = {"world/zeroshot/top1": {"value": 0.111, "low": 0.1, "high": 0.2, "n": 50}}
    probe = {"world/probe/top1": {"value": 0.888, "low": 0.8, "high": 0.9, "n": 2000}}
    for age, (name, found) in enumerate({"a": better, "b": fewer, "c": probe}.items()):
        path = run / "records" / f"evaluate-{name}.json"
        path.write_text(json.dumps({"metrics": found, "records": "x"}))
        since = (run / "evaluations.jsonl").stat().st_mtime + 1 + age
        os.utime(path, (since, since))
    said = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "77.7 %" in said
    assert "88.8 %" in said
    assert "11.1 %" not in said


def test_the_command_repeats_every_change_of_the_recipe():
    import shlex

    from oculex.systems.contrastive.clip import SYSTEM
    from oculex.training import recipes

    changed = recipes.change(
        recipes.preset(SYSTEM, "clip", "tiny"),
        {
            "optimizer.lr": 0.01,
            "stages.0.schedule.shape": "linear",
            "model.width": 96,
            "data.sources": ["a b", "world"],
        },
    )
    words = shlex.split(commands.reproduce(recipes.to_tree(changed)))
    sources = words[words.index("--data") + 1 : words.index("--budget")]
    settings = words[words.index("--set") + 1 :]
    again = recipes.change(recipes.preset(SYSTEM, "clip", "tiny"), settings)
    assert recipes.change(again, {"data.sources": sources}) == changed
    assert len(settings) == 3


# ------------------------------------------------------------------------------------------- browser


class Opened:
    """A page with everything it said and asked for."""

    def __init__(self, browser, path, width=1280, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.own = [url for url in self.asked if not url.startswith("data:")] == [path.as_uri()]

    def overflow(self):
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (800, "light"), (390, "dark")]
)
def test_a_browser_shows_it_whole_and_silently(browser, run, width, scheme):
    opened = Opened(browser, write_report(run), width, scheme)
    page = opened.page
    assert opened.said == []
    assert opened.own
    assert opened.overflow() <= 0
    assert page.evaluate("window.owned") is None
    assert [s for s in SECTIONS if not page.locator(f"#{s}").is_visible()] == []
    assert page.get_by_text("<script>window.owned", exact=False).first.is_visible()
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
    assert page.locator("#gallery li.right").count() == 3
    visible = "(e) => e.filter((x) => x.getClientRects().length).length"
    assert page.locator("#curves .hero svg").evaluate_all(visible) == 1
    letters = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.chart text')].filter((t) => t.getClientRects().length)"
        ".map((t) => t.getBoundingClientRect().height))"
    )
    assert letters >= 9
    ground, ink = page.evaluate(
        "(() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color] })()"
    )
    assert (max(map(int, re.findall(r"\d+", ground))) < 60) == (scheme == "dark")
    assert ground != ink
    page.close()


def test_the_pointer_and_the_keys_show_values(browser, run):
    opened = Opened(browser, write_report(run))
    page, tip = opened.page, opened.page.locator(".tip")
    chart = page.locator("#curves .wide svg")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert not tip.is_visible()
    chart.scroll_into_view_if_needed()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    chart.focus()  # which scrolls no more: a tip goes when the page is scrolled
    page.keyboard.press("ArrowRight")
    assert tip.inner_text().split() == ["420", "step", "loss", f"{last['loss']:.3g}"]
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text().startswith("410 step")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 40)
    assert tip.inner_text().startswith("420 step")
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    heat = page.locator("#confusion svg.heat")
    heat.scroll_into_view_if_needed()
    box, left = heat.bounding_box(), json.loads(heat.get_attribute("data-heat"))["left"]
    scale = box["width"] / float(heat.get_attribute("viewBox").split()[2])
    page.mouse.move(box["x"] + (left + 3) * scale, box["y"] + 3 * scale)
    first, total = re.match(r"(\w+ \w+)\n\d+ of (\d+) right", tip.inner_text()).groups()
    assert first == "black arch"
    assert int(total) > 0
    assert opened.said == []
    page.close()


def test_paper_is_white_whatever_the_screen_is(browser, run):
    opened = Opened(browser, write_report(run), 794, "dark")
    opened.page.emulate_media(media="print", color_scheme="dark")
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(map(int, re.findall(r"\d+", ground))) > 200
    assert opened.overflow() <= 0
    opened.page.close()


def test_many_systems_and_long_names_fit_a_phone(browser, tmp_path):
    run = make_run(tmp_path / "run")
    long = "x" * 200
    recipe = RECIPE | {"data": {"sources": [f"/{long}", "world"], "holdout": 0.1}, "budget": long}
    (run / "recipe.json").write_text(json.dumps(recipe))
    (run / "skipped.jsonl").write_text(json.dumps({"id": long, "reason": long}) + "\n")
    opened = Opened(browser, write_report(run), 390)
    opened.page.locator("#skipped summary").click()
    opened.page.locator("#recipe summary").click()
    assert opened.overflow() <= 0
    opened.page.close()
