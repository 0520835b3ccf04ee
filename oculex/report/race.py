"""A race as a page: quality against time and against samples, and what can be concluded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculex.report import charts
from oculex.report.html import render, svg
from oculex.report.measures import Measure, known, number
from oculex.training.folder import write_text


def write_race(race: Mapping[str, Any], out: Path) -> None:
    """One self-contained page. Where the race carries a paired ``conclusion``, that is told as well."""
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
        paired=race.get("conclusion", ""),
        terms=f"{', '.join([data] if isinstance(data, str) else data)}; {race['budget']} each{seed}",
        by_time=svg(charts.adaptive(by_time, "seconds of training", m.label, share=m.share)),
        by_samples=svg(charts.adaptive(by_samples, "samples seen", m.label, share=m.share)),
        rows=_rows(race, m),
    )
    write_text(out, page)


def conclusion(race: Mapping[str, Any]) -> str:
    """Who is best, and whether by more than the uncertainty; larger values are better.

    Separate intervals are a stricter test than a paired comparison: where they overlap, a paired one may still
    tell the two apart.
    """
    m = Measure.of(race["metric"])
    finals = {name: system["final"] for name, system in race["systems"].items()}
    leader, *others = sorted(finals, key=lambda name: -finals[name]["value"])
    best = finals[leader]
    level = any(finals[name]["value"] == best["value"] for name in others)
    place = "ended level with another" if level else "ended highest"
    said = f"{leader} {place}: {m.text(best['value'])} (95\u202f% interval {m.span(best)})."
    clear: list[str] = []
    close: list[str] = []
    for name in others:
        apart = (
            known(best.get("low")) and known(finals[name].get("high")) and best["low"] > finals[name]["high"]
        )
        (clear if apart else close).append(
            f"{name} ({m.text(finals[name]['value'])}, {m.span(finals[name])})"
        )
    if clear:
        said += f" It is ahead of {_listed(clear)} by more than both intervals."
    if close:
        said += f" It cannot be told apart from {_listed(close)}: the intervals overlap."
    return said


def _title(names: list[str]) -> str:
    return " against ".join(names) if len(names) == 2 else f"{_listed(names)}, side by side"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _rows(race: Mapping[str, Any], m: Measure) -> list[dict[str, Any]]:
    systems = race["systems"]
    top = max((s["final"]["high"] for s in systems.values() if known(s["final"].get("high"))), default=1.0)
    scale = (0.0, 1.0) if m.share else (0.0, max(top, 1e-9))
    order = sorted(systems, key=lambda name: -systems[name]["final"]["value"])
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
