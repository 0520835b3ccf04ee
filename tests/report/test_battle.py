"""The page of a battle: one file, escaped, that says who is best, at what cost, and whether tasks agree."""

import pytest

from oculex.report.battle import conclusion, ranked, table, write_battle
from tests.report.conftest import HOSTILE

TASKS = ("classify", "shifts", "detection")
METRICS = {"classify": "top1", "shifts": "top1", "detection": "ap"}


def estimate(value, half=0.05, n=100):
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def made(names=("small", "large", HOSTILE)):
    settings = [{"name": f"{t}, frozen", "group": "frozen", "set": "world", "task": t, "metric": METRICS[t],
                 "full": f"world/{t}/{METRICS[t]}"} for t in TASKS]  # fmt: skip
    scores = dict(zip(names, (0.2, 0.9, -1.1), strict=True))
    one, half = estimate(1.0, 0.0), estimate(0.5)
    matrix = [[one if i == j else half for j in range(3)] for i in range(3)]
    return {
        "settings": settings,
        "values": {name: {s["name"]: estimate(0.5 + score / 4) for s in settings} for name, score in scores.items()},
        "z": {name: {s["name"]: score for s in settings} for name, score in scores.items()},
        "score": {name: estimate(score, 0.1) for name, score in scores.items()},
        "place": {name: estimate(n) for n, name in enumerate(names, 1)},
        "best": dict(zip(names, (0.03, 0.97, 0.0), strict=True)),
        "agreement": {"spearman": matrix, "kendall": matrix},
        "mean_agreement": {"spearman": half, "kendall": half},
        "chosen": {name: {"frozen": 1e-3} for name in names},
        "less_is_better": [],
        "backbones": {name: {"parameters": 10.0 ** (5 + n), "multiply_adds": 1e7 * (n + 1), "images_per_s": 100.0,
                             "image_size": 64, "runs": {}} for n, name in enumerate(names)},
        "asked": {"backbones": list(names), "data": ["my data"], "set": [], "whole": False},
        "data": ["my data"],
        "budget": "100samples",
        "seeds": [0, 1],
        "rates": [1e-3, 4e-3],
        "machine": {"cores": 2, "gpu": None},
        "recommended": [{"name": "small", "from": 1e5, "sure": False}, {"name": "large", "from": 1e6, "sure": True}],
    }  # fmt: skip


@pytest.fixture
def page(tmp_path):
    write_battle(made(), tmp_path / "battle.html")
    return (tmp_path / "battle.html").read_text(encoding="utf-8")


def test_the_best_comes_first_and_its_lead_is_told():
    battle = made()
    assert ranked(battle)[0] == "large"
    said = conclusion(battle)
    assert said.startswith("large is best over all tasks")
    assert "97" in said
    assert "cannot be told" not in said
    battle["score"]["small"] = estimate(0.8, 0.2)
    assert "small cannot be told from it" in conclusion(battle)
    assert table(battle).splitlines()[1].split()[:2] == ["1", "large"]


def test_everything_from_outside_is_escaped(page):
    assert "<script>window.owned" not in page
    assert "<img src=x" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_reader_finds_what_to_take_what_it_costs_and_how_to_run_it(page):
    assert "clearly better than the smaller ones" in page
    assert "100k to 1M" in page
    assert "oculex race battle_of_backbones --backbones small large" in page
    assert "--data &#39;my data&#39; --budget 100samples --seed 0 --seeds 2" in page
    assert page.count("<svg") >= 3 + 4
    assert page.count("0.5<small>") == 6


def test_an_interval_that_is_not_known_is_no_obstacle(tmp_path):
    battle = made()
    for e in (
        battle["score"]["small"],
        battle["values"]["small"]["classify, frozen"],
        battle["agreement"]["kendall"][1][0],
    ):
        e.update(low=None, high=None)
    battle["agreement"]["spearman"][0][1] = {"value": None, "low": None, "high": None, "n": 3}
    write_battle(battle, tmp_path / "battle.html")
    assert "no interval" in (tmp_path / "battle.html").read_text()
