"""A race as a page: quality against time and against samples, and what can be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculex.report import charts
from oculex.report.html import render, svg
from oculex.report.measures import Measure, known, number, span
from oculex.training.folder import write_text


def write_race(race: Mapping[str, Any], out: Path) -> None:
    """One self-contained page."""
    m, systems = Measure.of(race["metric"]), race["systems"]
    by_time, by_samples = (
        {name: [(p[axis], *p[2:]) for p in system["curve"]] for name, system in systems.items()}
        for axis in (0, 1)
    )
    data = race.get("data") or ["the same data"]
    seed = f", seed {race['seed']}" if "seed" in race else ""
    page = render(
        "race.html.j2",
        title=_title(list(systems)),
        measure=m,
        said=conclusion(race),
        terms=f"{', '.join([data] if isinstance(data, str) else data)}; {race['budget']} each{seed}",
        by_time=svg(charts.adaptive(by_time, "seconds of training", m.label, share=m.share)),
        by_samples=svg(charts.adaptive(by_samples, "samples seen", m.label, share=m.share)),
        rows=_rows(race, m),
    )
    write_text(out, page)


def conclusion(race: Mapping[str, Any]) -> str:
    """Who is best, and by how much: paired on the items, which tells apart what separate intervals may not."""
    m, leader = Measure.of(race["metric"]), race["leader"]
    best = race["systems"][leader]["final"]
    sign = -1 if race["less_is_better"] else 1
    scale, unit = (100, " points") if m.share else (1, "")
    clear: list[str] = []
    close: list[str] = []
    for name, e in race["ahead"].items():
        low, high = sorted(sign * scale * e[key] if known(e[key]) else -math.inf for key in ("low", "high"))
        by = f"{number(sign * scale * e['value'])}{unit} ({span(low, high)})"
        (clear if low > 0 else close).append(f"{name} by {by}" if low > 0 else f"{name}, {by}")
    said = f"{leader} ended best: {m.text(best['value'])} (95\u202f% interval {m.span(best)}), n = {best['n']:,}."
    if clear:
        said += f" Compared item by item, it is ahead of {_listed(clear)}."
    if close:
        said += f" It cannot be told apart from {_listed(close)}: the interval of the difference holds 0."
    return f"{said} One seed: what another would change is not in these intervals."


def _title(names: list[str]) -> str:
    return " against ".join(names) if len(names) == 2 else f"{_listed(names)}, side by side"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _rows(race: Mapping[str, Any], m: Measure) -> list[dict[str, Any]]:
    systems = race["systems"]
    top = max((s["final"]["high"] for s in systems.values() if known(s["final"].get("high"))), default=1.0)
    scale = (0.0, 1.0) if m.share else (0.0, max(top, 1e-9))
    sign = 1 if race["less_is_better"] else -1
    order = sorted(systems, key=lambda name: sign * systems[name]["final"]["value"])
    colours = {name: i for i, name in enumerate(systems)}
    rows = []
    for name in order:
        system, final = systems[name], systems[name]["final"]
        low, high = (final[k] if known(final.get(k)) else final["value"] for k in ("low", "high"))
        rows.append(
            {
                "name": name,
                "value": m.text(final["value"]),
                "span": m.span(final),
                "bar": svg(charts.interval(final["value"], low, high, scale=scale, colour=colours[name])),
                "n": f"{final['n']:,}" if final.get("n") else "",
                "parameters": f"{system['parameters']:,}" if system.get("parameters") else "–",
                "rate": number(system.get("samples_per_s")),
            }
        )
    return rows
