"""Charts as inline SVG: pure functions from data to a string, with no library, no resource and no fixed colour.

Static SVG of our own, not a chart library: the smallest of those brings a hundred kilobytes of script or of
generated markup per page, and none draws what this project reports everywhere, a value with its interval and
with chance beside it. Colours and dashes are CSS classes (``s0`` to ``s5``), so one drawing serves light, dark
and print; values under the pointer come from ``data-chart``, which ``chart.js`` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

import numpy as np

SMALL, NARROW, WIDE = (290, 172), (360, 250), (880, 300)
"""Width and height in pixels: a chart among others; a chart of its own on a phone and on a desk."""
COLOURS = 6
"""Series told apart by colour; further ones repeat, with their names still written beside them."""
POINTS = 300
"""Points drawn of a line; longer ones are averaged, with their extremes as a band."""
_LETTER, _BOLD = 6.6, 7.5
"""Width of a letter of the charts' text and of the series' names, in pixels."""

Point = Sequence[float]
"""(x, y) or (x, y, low, high)."""
Series = Mapping[str, Sequence[Point]]


def lines(
    series: Series,
    x: str,
    y: str,
    *,
    size: tuple[int, int] = SMALL,
    share: bool = False,
    zero: bool = False,
    level: tuple[str, float] | None = None,
) -> str:
    """Lines, with interval bands where points carry them, each named at its end where there are several.

    ``x`` names the horizontal axis, ``y`` the quantity. ``share`` writes values as per cent, ``zero`` starts the
    vertical axis at 0, ``level`` is a named horizontal line such as chance. Empty where nothing is finite.
    """
    drawn = {name: thin(points) for name, points in series.items()}
    drawn = {name: points for name, points in drawn.items() if points}
    if not drawn:
        return ""
    xs = _from_zero([p[0] for points in drawn.values() for p in points])
    ys = [v for points in drawn.values() for p in points for v in p[1:]] + ([level[1]] if level else [])
    y_ticks = ticks(min(0.0, *ys) if zero else min(ys), max(ys), max(3, size[1] // 60))
    labels = tick_texts(y_ticks, share)
    names = _ends(drawn) if len(drawn) > 1 else {}
    left = 10 + _LETTER * max(map(len, labels))
    right = size[0] - (14 + _BOLD * min(18, max(map(len, names))) if names else 10)
    top, bottom = 10, size[1] - 36
    sx, sy = _scale(min(xs), max(xs), left, right), _scale(y_ticks[0], y_ticks[-1], bottom, top)
    parts = [
        _opening(drawn, x, y, size, share, (left, right, min(xs), max(xs)), (bottom, top, *_span(y_ticks)))
    ]
    for tick, label in zip(y_ticks, labels, strict=True):
        parts.append(f'<path class="grid" d="M{left:.1f} {sy(tick):.1f}H{right:.1f}"/>')
        parts.append(f'<text x="{left - 7:.1f}" y="{sy(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    parts += _x_axis(x, min(xs), max(xs), sx, (left, right), size)
    if level:
        parts.append(f'<path class="level" d="M{left:.1f} {sy(level[1]):.1f}H{right:.1f}"/>')
        parts.append(
            f'<text class="level" x="{right:.1f}" y="{sy(level[1]) - 5:.1f}" text-anchor="end">{escape(level[0])}</text>'
        )
    parts += [_line(points, i % COLOURS, sx, sy) for i, points in enumerate(drawn.values())]
    parts += _names(drawn, names, sx, sy, right + 8)
    return "".join(parts) + "</svg>"


def adaptive(series: Series, x: str, y: str, **options: object) -> str:
    """The same lines drawn twice; the style sheet shows the one that fits the screen."""
    wide = lines(series, x, y, size=WIDE, **options)  # type: ignore[arg-type]
    narrow = lines(series, x, y, size=NARROW, **options)  # type: ignore[arg-type]
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>' if wide else ""


def interval(
    value: float,
    low: float,
    high: float,
    *,
    scale: tuple[float, float] = (0.0, 1.0),
    level: float | None = None,
    colour: int = 0,
) -> str:
    """A value with its interval on a bar over ``scale``; ``level`` marks chance, or no effect.

    An interval that runs off the scale, or is unbounded, reaches the bar's end.
    """
    place = _scale(*scale, 5.0, 195.0)

    def at(v: float) -> float:
        return min(195.0, max(5.0, place(min(max(v, scale[0]), scale[1]))))

    tick = f'<path class="mark" d="M{at(level):.1f} 1V15"/>' if level is not None else ""
    return (
        f'<svg class="interval s{colour % COLOURS}" viewBox="0 0 200 16" aria-hidden="true">'
        f'<path class="grid" d="M5 8H195"/>{tick}<path class="span" d="M{at(low):.1f} 8H{at(high):.1f}"/>'
        f'<circle class="dot" cx="{at(value):.1f}" cy="8" r="3"/></svg>'
    )


def scatter(
    points: Mapping[str, Point], x: str, y: str, *, size: tuple[int, int] = NARROW, level: float | None = None
) -> str:
    """Named points (x, y, low, high) with their intervals, x on a scale of powers; each name stands beside its point.

    ``level`` is a horizontal line. Empty where no point is finite.
    """
    kept = {
        name: [float(v) for v in p] for name, p in points.items() if all(map(math.isfinite, p)) and p[0] > 0
    }
    if not kept:
        return ""
    ys = [v for p in kept.values() for v in p[1:]] + ([level] if level is not None else [])
    y_ticks = ticks(min(ys), max(ys), max(3, size[1] // 60))
    labels = tick_texts(y_ticks)
    low, high = (math.log10(f(p[0] for p in kept.values())) for f in (min, max))
    air = max(0.15, 0.1 * (high - low))
    left, right, top, bottom = 10 + _LETTER * max(map(len, labels)), size[0] - 10.0, 10, size[1] - 36
    sx, sy = _scale(low - air, high + air, left, right), _scale(y_ticks[0], y_ticks[-1], bottom, top)
    told = "; ".join(f"{name}: {p[1]:.3g} at {number_of(p[0])}" for name, p in kept.items())
    parts = [
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" tabindex="0" '
        f'aria-label="{escape(f"{y} against {x}. {told}")}">'
    ]
    for tick, label in zip(y_ticks, labels, strict=True):
        parts.append(f'<path class="grid" d="M{left:.1f} {sy(tick):.1f}H{right:.1f}"/>')
        parts.append(f'<text x="{left - 7:.1f}" y="{sy(tick) + 4:.1f}" text-anchor="end">{label}</text>')
    for tick in _powers(low - air, high + air, size[0] // 70):
        at = sx(math.log10(tick))
        parts.append(f'<text x="{at:.1f}" y="{size[1] - 20}" text-anchor="middle">{number_of(tick)}</text>')
    parts.append(f'<text x="{right:.1f}" y="{size[1] - 4}" text-anchor="end">{escape(x)}</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{left:.1f} {sy(level):.1f}H{right:.1f}"/>')
    taken: list[tuple[float, float, float]] = []
    for n, (name, (at, value, least, most)) in enumerate(kept.items()):
        cx, cy, text = sx(math.log10(at)), sy(value), _short(name)
        wide = _BOLD * len(text)
        beside = cx + 8 + wide <= right
        start = cx + 8 if beside else max(left, cx - 8 - wide)
        height = _free(taken, start, start + wide, cy + 4)
        taken.append((start, start + wide, height))
        parts.append(
            f'<g class="s{n % COLOURS}"><path class="line" d="M{cx:.1f} {sy(least):.1f}V{sy(most):.1f}"/>'
            f'<circle class="dot" cx="{cx:.1f}" cy="{cy:.1f}" r="4"/></g>'
            f'<text class="name s{n % COLOURS}" x="{start:.1f}" y="{height:.1f}">{escape(text)}</text>'
        )
    return "".join(parts) + "</svg>"


def number_of(value: float) -> str:
    """A count, short: 850, 12k, 3.4M, 1.2G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _powers(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten between two logarithms, thinned to at most ``most``."""
    every = [m * 10.0**n for n in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    inside = [v for v in every if low <= math.log10(v) <= high]
    return inside[:: max(1, -(-len(inside) // max(1, most)))]


def _free(taken: Sequence[tuple[float, float, float]], start: float, stop: float, y: float) -> float:
    """The height nearest to ``y`` at which a text from start to stop touches none that stands."""
    for step in range(40):
        for height in (y - 7 * step, y + 7 * step):
            if all(stop < a or start > b or abs(height - c) >= 13 for a, b, c in taken):
                return height
    return y


def heat(counts: np.ndarray, names: Sequence[str], groups: Sequence[tuple[str, int]], label: str) -> str:
    """A confusion matrix, counts [truth, answer]: each cell as its share of the row; mistakes in a colour.

    ``groups`` are names of consecutive rows with how many there are; they label the side.
    """
    n, side = len(names), 480.0
    left = 10 + _LETTER * max((len(name) for name, _ in groups), default=0) if groups else 1.0
    cell = side / n
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cells: dict[str, list[str]] = {}
    for row, column in np.argwhere(counts > 0).tolist():
        strength = max(1, math.ceil(5 * math.sqrt(shares[row, column])))
        kind = f"{'right' if row == column else 'wrong'} h{strength}"
        cells.setdefault(kind, []).append(f"M{column} {row}h1v1h-1z")
    data = {
        "names": list(names),
        "cells": [[r, c, int(counts[r, c])] for r, c in np.argwhere(counts > 0).tolist()],
        "totals": counts.sum(1).astype(int).tolist(),
        "left": left,
        "cell": cell,
    }
    parts = [
        f'<svg class="heat" viewBox="0 0 {left + side + 1:.0f} {side + 2:.0f}" role="img" tabindex="0" '
        f'aria-label="{escape(label)}" data-heat="{_data(data)}">'
    ]
    row = 0
    for name, count in groups:
        middle = 1 + (row + count / 2) * cell
        parts.append(f'<text x="{left - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        row += count
        if row < n:
            parts.append(f'<path class="grid" d="M{left:.1f} {1 + row * cell:.1f}h{side}"/>')
            parts.append(f'<path class="grid" d="M{left + row * cell:.1f} 1v{side}"/>')
    parts.append(f'<g transform="translate({left:.2f} 1) scale({cell:.5f})">')
    parts += [f'<path class="{kind}" d="{"".join(path)}"/>' for kind, path in cells.items()]
    return "".join(parts) + f'</g><path class="frame" d="M{left:.1f} 1h{side}v{side}h-{side}z"/></svg>'


# --------------------------------------------------------------------------------------------- pieces


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span low..high, evenly spaced; at least two."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        low, high = low - abs(low) * 0.1, high + (abs(high) * 0.1 or 1.0)
    raw = (high - low) / about
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(m * base for m in (1, 2, 2.5, 5, 10) if m * base >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def tick_texts(values: Sequence[float], share: bool = False) -> list[str]:
    """Equal decimals on one axis: 0.5, 1.0, 1.5; 20k, 40k; 0 %, 20 %."""
    if share:
        return [f"{v}\u202f%" for v in tick_texts([float(f"{100 * v:.12g}") for v in values])]
    top = max(map(abs, values), default=0.0)
    if 0 < top < 1e-3:
        return ["0" if v == 0 else f"{v:.1e}".replace("e-0", "e-").replace("-", "−") for v in values]
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e4, "k")) if top >= s), (1.0, ""))
    size = 1e3 if unit == "k" else size
    scaled = [float(f"{v / size:.6g}") for v in values]
    decimals = max(len(f"{v:.6f}".rstrip("0").partition(".")[2]) for v in scaled)
    return [f"{v:.{decimals}f}{unit if v else ''}".replace("-", "−") for v in scaled]


def thin(points: Iterable[Point]) -> list[tuple[float, ...]]:
    """The finite points in order of x, at most ``POINTS``: buckets' means, with least and greatest as a band."""
    kept = sorted((tuple(map(float, p)) for p in points if all(map(math.isfinite, p))), key=lambda p: p[0])
    if len(kept) <= POINTS:
        return kept
    out: list[tuple[float, ...]] = []
    for bucket in np.array_split(np.array(kept), POINTS):
        x, y = bucket[:, 0].mean(), bucket[:, 1].mean()
        band = bucket[:, 2:].mean(0) if bucket.shape[1] == 4 else (bucket[:, 1].min(), bucket[:, 1].max())
        out.append((float(x), float(y), float(band[0]), float(band[1])))
    return out


def _opening(
    drawn: Series,
    x: str,
    y: str,
    size: tuple[int, int],
    share: bool,
    across: Sequence[float],
    up: Sequence[float],
) -> str:
    data = {
        "x": [float(f"{v:.6g}") for v in across],
        "y": [float(f"{v:.6g}") for v in up],
        "unit": x,
        "share": share,
        "series": [
            [name, [[float(f"{v:.5g}") for v in p] for p in points]] for name, points in drawn.items()
        ],
    }
    ends = "; ".join(f"{name}: from {p[0][1]:.4g} to {p[-1][1]:.4g}" for name, p in drawn.items())
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" tabindex="0" '
        f'aria-label="{escape(f"{y} against {x}. {ends}")}" data-chart="{_data(data)}">'
    )


def _x_axis(
    x: str,
    low: float,
    high: float,
    sx: Callable[[float], float],
    span: tuple[float, float],
    size: tuple[int, int],
) -> list[str]:
    inside = [t for t in ticks(low, high, max(3, size[0] // 85)) if low <= t <= high]
    parts = []
    for tick, label in zip(inside, tick_texts(inside), strict=True):
        at = max(span[0], min(sx(tick), size[0] - len(label) * _LETTER / 2))
        parts.append(f'<text x="{at:.1f}" y="{size[1] - 20}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{span[1]:.1f}" y="{size[1] - 4}" text-anchor="end">{escape(x)}</text>')
    return parts


def _line(points: Sequence[Point], colour: int, sx: Callable, sy: Callable) -> str:
    def path(pairs: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{sx(a):.1f} {sy(b):.1f}" for a, b in pairs)

    parts = [f'<g class="s{colour}">']
    if len(points[0]) == 4:
        band = [(p[0], p[3]) for p in points] + [(p[0], p[2]) for p in reversed(points)]
        parts.append(f'<path class="band" d="{path(band)}Z"/>')
    parts.append(f'<path class="line" d="{path((p[0], p[1]) for p in points)}"/>')
    if len(points) <= 12:
        parts += [f'<circle class="dot" cx="{sx(p[0]):.1f}" cy="{sy(p[1]):.1f}" r="3"/>' for p in points]
    return "".join(parts) + "</g>"


def _ends(drawn: Series) -> dict[str, float]:
    return {name: points[-1][1] for name, points in drawn.items()}


def _from_zero(xs: list[float]) -> list[float]:
    """Counts that begin near 0 are drawn from 0."""
    return [0.0, *xs] if 0 < min(xs) <= 0.2 * max(xs) else xs


def _names(drawn: Series, ends: Mapping[str, float], sx: Callable, sy: Callable, x: float) -> list[str]:
    """Names beside the lines' ends, moved apart where they would touch; a thin line leads to one that ends early."""
    order = sorted(ends, key=lambda name: sy(ends[name]))
    at: list[float] = []
    for name in order:
        at.append(max(sy(ends[name]) + 4, at[-1] + 14 if at else 0.0))
    colours = {name: i % COLOURS for i, name in enumerate(drawn)}
    parts = []
    for name, y in zip(order, at, strict=True):
        end = sx(drawn[name][-1][0])
        if end < x - 40:
            path = f"M{end + 5:.1f} {sy(ends[name]):.1f}L{x - 4:.1f} {y - 4:.1f}"
            parts.append(f'<path class="leader s{colours[name]}" d="{path}"/>')
        parts.append(
            f'<text class="name s{colours[name]}" x="{x:.1f}" y="{y:.1f}">{escape(_short(name))}</text>'
        )
    return parts


def _short(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "…"


def _data(value: object) -> str:
    return escape(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = high - low
    return (lambda v: start + (v - low) / span * (stop - start)) if span else (lambda v: (start + stop) / 2)


def _span(values: Sequence[float]) -> tuple[float, float]:
    return values[0], values[-1]
