"""Charts: round axes, nothing lost in thinning, well-formed markup, colours that everyone can tell apart."""

from __future__ import annotations

import html
import itertools
import json
import re
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oculex.report import charts
from tests.report.conftest import HOSTILE

finite = st.floats(-1e12, 1e12, allow_nan=False)


@given(finite, finite, st.integers(3, 8))
def test_ticks_cover_the_range_in_even_round_steps(a, b, about):
    low, high = min(a, b), max(a, b)
    found = charts.ticks(low, high, about)
    steps = np.diff(found)
    assert found[0] <= low + 1e-6 * steps[0]
    assert found[-1] >= high - 1e-6 * steps[0]
    assert 2 <= len(found) <= about + 3
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert steps[0] > 0


@pytest.mark.parametrize(
    ("values", "share", "texts"),
    [
        ([0, 0.5, 1.0], False, ["0.0", "0.5", "1.0"]),
        ([0, 25_000, 50_000], False, ["0", "25k", "50k"]),
        ([0, 500_000, 1_000_000], False, ["0.0", "0.5M", "1.0M"]),
        ([0, 0.25, 0.5], True, ["0\u202f%", "25\u202f%", "50\u202f%"]),
        ([0, 0.00025, 0.0005], False, ["0", "2.5e−4", "5.0e−4"]),
        ([-5, 0, 5], False, ["−5", "0", "5"]),
    ],
)
def test_tick_texts(values, share, texts):
    assert charts.tick_texts(values, share) == texts


def test_thinning_keeps_means_and_extremes():
    values = np.random.default_rng(0).standard_normal(10_000)
    values[5_000] = 40.0
    kept = charts.thin(list(enumerate(values)))
    assert len(kept) == charts.POINTS
    assert max(p[3] for p in kept) == 40.0
    assert min(p[2] for p in kept) == values.min()
    sizes = [len(part) for part in np.array_split(values, charts.POINTS)]
    assert np.average([p[1] for p in kept], weights=sizes) == pytest.approx(values.mean())


def test_thinning_drops_what_is_not_finite_and_sorts():
    points = [(3, 1.0), (1, float("nan")), (2, 5.0), (float("inf"), 1.0)]
    assert charts.thin(points) == [(2.0, 5.0), (3.0, 1.0)]


def test_lines_are_well_formed_and_hold_the_data():
    points = [(0, 1.0, 0.5, 1.5), (10, 2.0, 1.5, 2.5)]
    drawn = charts.lines({HOSTILE: points, "b": [(0, 1), (5, 2)]}, "step", HOSTILE, level=(HOSTILE, 1.2))
    root = ElementTree.fromstring(drawn)
    data = json.loads(root.attrib["data-chart"])
    assert data["series"][0] == [HOSTILE, [list(map(float, p)) for p in points]]
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert len(root.findall(".//path[@class='band']")) == 1
    assert len(root.findall(".//path[@class='line']")) == 2


def test_a_point_is_drawn_where_the_axes_say():
    root = ElementTree.fromstring(charts.lines({"a": [(0, 0.0), (4, 8.0), (10, 10.0)]}, "x", "y", zero=True))
    data = json.loads(root.attrib["data-chart"])
    (left, right, x0, x1), (bottom, top, y0, y1) = data["x"], data["y"]
    dot = root.findall(".//circle[@class='dot']")[1].attrib
    assert float(dot["cx"]) == pytest.approx(left + (4 - x0) / (x1 - x0) * (right - left), abs=0.06)
    assert float(dot["cy"]) == pytest.approx(bottom + (8 - y0) / (y1 - y0) * (top - bottom), abs=0.06)


def test_nothing_finite_draws_nothing():
    assert charts.lines({"a": [(0, float("nan"))], "b": []}, "x", "y") == ""
    assert charts.adaptive({}, "x", "y") == ""


def test_names_of_lines_that_end_together_do_not_touch():
    series = {name: [(0, 0.0), (1, 1.0 + i / 1e4)] for i, name in enumerate("abcdef")}
    root = ElementTree.fromstring(charts.lines(series, "x", "y"))
    at = sorted(float(t.attrib["y"]) for t in root.iter("text") if "name" in t.attrib.get("class", ""))
    assert len(at) == 6
    assert min(np.diff(at)) >= 13


def test_an_interval_is_drawn_to_scale_and_within_its_bar():
    root = ElementTree.fromstring(charts.interval(0.5, 0.25, float("inf"), scale=(0.0, 1.0), level=0.1))
    left, right = re.match(r"M([\d.]+) 8H([\d.]+)", root.find("path[@class='span']").attrib["d"]).groups()
    assert (float(left), float(right)) == (52.5, 195.0)
    assert float(root.find("circle").attrib["cx"]) == 100.0


def test_heat_map_tells_every_cell_once():
    counts = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 9]])
    drawn = charts.heat(counts, ["a", "b", HOSTILE], [("a", 2), (HOSTILE, 1)], "confusion")
    root = ElementTree.fromstring(drawn)
    data = json.loads(root.attrib["data-heat"])
    assert data["cells"] == [[0, 0, 8], [0, 1, 2], [1, 1, 5], [2, 0, 1], [2, 2, 9]]
    assert data["totals"] == [10, 5, 10]
    cells = "".join(p.attrib["d"] for p in root.iter("path") if "h1v1h-1z" in p.attrib["d"])
    assert sorted(re.findall(r"M(\d) (\d)h", cells)) == [
        ("0", "0"),
        ("0", "2"),
        ("1", "0"),
        ("1", "1"),
        ("2", "2"),
    ]
    assert html.unescape(drawn).count(HOSTILE) == 2


# -------------------------------------------------------------------------------------------- colours

_TO_LINEAR = np.vectorize(lambda c: c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
_BLINDNESS = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "none": np.eye(3),
    "protanopia": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]),
    "deuteranopia": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]),
}  # fmt: skip


def _lab(linear: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.clip(xyz / [0.9505, 1.0, 1.089], 1e-6, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def _palettes() -> dict[str, dict[str, np.ndarray]]:
    style = files("oculex.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return {
        mode: {
            name: _TO_LINEAR(np.array([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255)
            for name, code in re.findall(r"--([\w]+): #([0-9a-f]{6})", block)
        }
        for mode, block in zip(("light", "dark"), blocks, strict=True)
    }


def _contrast(a: np.ndarray, b: np.ndarray) -> float:
    high, low = sorted((float(c @ [0.2126, 0.7152, 0.0722]) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(mode):
    palette = _palettes()[mode]
    for name in ("ink", "soft", "good", "bad", *(f"s{i}" for i in range(charts.COLOURS))):
        assert _contrast(palette[name], palette["ground"]) >= 4.5, name


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("sight", list(_BLINDNESS))
def test_colours_are_told_apart_by_everyone(mode, sight):
    palette = _palettes()[mode]
    seen = [_lab(np.clip(_BLINDNESS[sight] @ palette[f"s{i}"], 0, 1)) for i in range(charts.COLOURS)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 12
