"""The ledger, the race, and the README's tables."""

from __future__ import annotations

import pytest

from oculex import catalog
from oculex.report.ledger import ledger_markdown, mean_curve, write_ledger
from oculex.report.race import conclusion, write_race
from oculex.report.systems_table import built_markdown, systems_markdown, verdicts
from tests.report.conftest import HOSTILE, claims, difference, estimate, race
from tests.report.test_page import Opened, text_of


def test_the_ledger_tells_each_claim(tmp_path):
    write_ledger(claims(), tmp_path / "ledger.html")
    page = (tmp_path / "ledger.html").read_text(encoding="utf-8")
    said = text_of(page)
    assert "65.5 % 63.5 to 67.5 % 3" in said
    assert "+6.2 points 4.1 to 8.3" in said
    assert "1.55 times" in said
    assert "0.82 to 2.9" in said
    assert "samples until top-1 accuracy reaches 40.0 %" in said
    assert "1 never reached it" in said
    assert "−0.01 no interval" in said
    assert "62 % to 81 % on attribution (Table 2)." in said
    assert HOSTILE not in page


def test_an_empty_ledger_is_a_page(tmp_path):
    write_ledger([], tmp_path / "ledger.html")
    assert "No claim was judged yet" in text_of((tmp_path / "ledger.html").read_text(encoding="utf-8"))


def test_the_markdown_keeps_its_columns():
    lines = ledger_markdown([claims()[0], claims()[1] | {"statement": "a | b\nc"}, claims()[2]]).splitlines()
    assert len(lines) == 5
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}
    assert "+6.2 points (4.1 to 8.3), 3 seeds | holds" in lines[2]
    assert "<script" not in lines[4]


def test_a_mean_curve_uses_what_all_seeds_have():
    seeds = [[[10, 0.2], [20, 0.4], [30, 0.9]], [[10, 0.4], [20, 0.8]]]
    assert mean_curve(seeds) == [(10, pytest.approx(0.3), 0.2, 0.4), (20, pytest.approx(0.6), 0.4, 0.8)]


def test_the_conclusion_follows_the_paired_differences():
    said = conclusion(race()).replace("\u202f", " ")
    assert said.startswith("clip ended best: 63.3 % (95 % interval 61.3 to 65.3 %), n = 2,000.")
    assert "ahead of tips by 13.4 points (11.4 to 15.4)." in said
    assert "cannot be told apart from negclip, 1.4 points (−0.6 to 3.4)" in said
    apart = race() | {"ahead": {"tips": difference(0.134)}}
    assert "told apart" not in conclusion(apart)
    alone = race() | {"ahead": {"negclip": difference(0.014)}}
    assert conclusion(alone).startswith("No system is clearly ahead. clip reached most: 63.3")
    assert "chance" not in conclusion(alone)
    guessed = estimate(0.7, 0.0, 2000)
    alone["systems"]["clip"]["metrics"] = {"world/zeroshot/top1": guessed, "world/zeroshot/chance": guessed}
    alone["systems"]["negclip"]["metrics"] = alone["systems"]["clip"]["metrics"]
    assert "not clearly above chance, 70.0" in conclusion(alone)
    unknown = race() | {"ahead": {"tips": {"value": 0.1, "low": None, "high": None, "n": 1}}}
    assert "ahead of" not in conclusion(unknown)


def test_less_can_be_better(tmp_path):
    texts = race() | {"metric": "world/language/nats_per_token", "less_is_better": True, "leader": "tips"}
    texts["ahead"] = {"clip": difference(-0.134)}
    assert "ahead of clip by 0.134 (0.114 to 0.154)" in conclusion(texts)
    write_race(texts, tmp_path / "race.html")
    said = text_of((tmp_path / "race.html").read_text(encoding="utf-8"))
    assert said.index("tips 0.499") < said.index("negclip 0.619") < said.index("clip 0.633")


def test_the_race_shows_both_axes_and_the_paired_comparison(tmp_path):
    write_race(race() | {"data": [HOSTILE, "world"]}, tmp_path / "race.html")
    page = (tmp_path / "race.html").read_text(encoding="utf-8")
    said = text_of(page)
    assert "against seconds of training" in page
    assert "against samples seen" in page
    assert "clip, negclip and tips, side by side" in said
    assert "2,130,000" in said
    assert f"{HOSTILE}, world; 3m each, seed 3." in said
    assert said.index("clip 63.3 %") < said.index("negclip 61.9 %") < said.index("tips 49.9 %")
    assert "Compared item by item, it is ahead of tips" in said
    assert HOSTILE not in page


def asked_more():
    """The race of three, whose systems answered a further question."""
    result, order = race(), "world/order/order"
    for n, system in enumerate(result["systems"].values()):
        ends = {result["metric"]: system["final"], order: estimate(0.3 + 0.2 * n, 0.02, 900)}
        system["metrics"] = ends | {f"{order}_chance": estimate(0.2, 0.0, 900)}
    return result | {"differences": {"negclip": {order: difference(-0.2)}, "tips": {order: difference(0.01)}}}


def test_a_race_tells_in_what_another_one_is_better(tmp_path):
    more = asked_more()
    words = "Order of words, caption told from other orders of its words"
    assert (
        f"It is not best in everything: negclip is ahead by 20 points (18 to 22) in {words}."
        in conclusion(more)
    )
    write_race(more, tmp_path / "race.html")
    said = text_of((tmp_path / "race.html").read_text(encoding="utf-8"))
    assert "In all else" in said
    assert (
        "clip 30.0 %, negclip 50.0 %, tips 70.0 %; chance 20.0 %. negclip is ahead of clip by 20 points"
        in said
    )
    assert "clip and tips cannot be told apart: 1 point (−1 to 3)." in said
    more["differences"]["negclip"]["world/order/order"] = difference(0.2)
    assert "In no further question is another one ahead of it." in conclusion(more)
    write_race(race(), tmp_path / "race.html")
    assert "In all else" not in (tmp_path / "race.html").read_text(encoding="utf-8")


def pretrained():
    """The race of three, judged beside the same networks from fresh weights."""
    result, task = race(), "world/finetune"
    gains = {"clip": difference(0.08), "negclip": difference(0.01), "tips": difference(-0.05)}
    for name, system in result["systems"].items():
        fresh = estimate(system["final"]["value"] - gains[name]["value"], 0.02, 2000)
        system["metrics"] = {f"{task}/top1": system["final"], f"{task}/untrained_top1": fresh,
                             f"{task}/gain_over_untrained": gains[name]}  # fmt: skip
    return result | {"metric": f"{task}/top1"}


def test_a_race_tells_what_pretraining_was_worth(tmp_path):
    said = conclusion(pretrained())
    assert "training gained clip 8 points (6 to 10)." in said
    assert "Whether it gained anything cannot be told of negclip, 1 point (−1 to 3)." in said
    assert "It cost tips 5 points (3 to 7)." in said
    assert "worth its time" not in said
    without = pretrained()
    for system in without["systems"].values():
        system["metrics"]["world/finetune/gain_over_untrained"] = difference(0.01)
    assert "none is worth its time here yet: train longer" in conclusion(without)
    assert "fresh weights" not in conclusion(race())
    write_race(pretrained(), tmp_path / "race.html")
    page = text_of((tmp_path / "race.html").read_text(encoding="utf-8"))
    assert "clip 63.3 % 61.3 to 65.3 % 55.3 %" in page.replace("\u202f", " ")
    assert "oculex train supervised --data LABELLED --set init.run=clip" in page
    write_race(without, tmp_path / "race.html")
    assert "train supervised" not in (tmp_path / "race.html").read_text(encoding="utf-8")
    write_race(race(), tmp_path / "race.html")
    assert "fresh" not in (tmp_path / "race.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_both_silently(browser, tmp_path, width):
    write_ledger(claims(), tmp_path / "ledger.html")
    write_race(asked_more(), tmp_path / "race.html")
    write_race(pretrained(), tmp_path / "pretrained.html")
    for name in ("ledger", "race", "pretrained"):
        opened = Opened(browser, tmp_path / f"{name}.html", width)
        assert opened.said == []
        assert opened.own
        assert opened.overflow() <= 0
        assert opened.page.evaluate("window.owned") is None
        opened.page.close()


def test_the_systems_table_has_every_numbered_row():
    lines = systems_markdown().splitlines()[2:]
    assert len(lines) == len(catalog.ROWS)
    for line, row in zip(lines, catalog.ROWS, strict=True):
        cells = [c.strip() for c in line.replace("\\|", "").strip("|").split("|")]
        assert cells[:2] == [str(row.number), f"`{row.name}`"]
        assert cells[3:] == [row.family, catalog.status(row)]


def test_what_is_built_has_its_verdicts():
    lines = built_markdown().splitlines()[2:]
    built = [row for row in catalog.ROWS if catalog.status(row) != "planned"]
    assert [line.split(" | ")[1] for line in lines] == [f"`{row.name}`" for row in built]
    assert verdicts([{"verdict": "inconclusive"}, {"verdict": "holds"}, {"verdict": "holds"}]) == (
        "holds: 2, inconclusive: 1"
    )
    assert verdicts([]) == ""
