"""A race as a page: quality against time and against samples, and what can be concluded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oculex.evaluation.measures import LESS_IS_BETTER
from oculex.report import charts
from oculex.report.html import render, svg
from oculex.report.measures import Estimate, Measure, chance, headlines, known, number, span, untrained
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
        next=_next(race),
        terms=f"{', '.join([data] if isinstance(data, str) else data)}; {race['budget']} each{seed}",
        by_time=svg(charts.adaptive(by_time, "seconds of training", m.label, share=m.share)),
        by_samples=svg(charts.adaptive(by_samples, "samples seen", m.label, share=m.share)),
        rows=_rows(race, m),
        questions=[(measure.title, _told(race, measure)) for measure in _others(race)],
    )
    write_text(out, page)


def conclusion(race: Mapping[str, Any]) -> str:
    """Who is best, and by how much: paired on the items, which tells apart what separate intervals may not."""
    m, leader = Measure.of(race["metric"]), race["leader"]
    best = race["systems"][leader]["final"]
    sign = -1 if race["less_is_better"] else 1
    clear: list[str] = []
    close: list[str] = []
    for name, e in race["ahead"].items():
        lead = _Lead.of(m, e, sign)
        if lead.clear > 0:
            clear.append(f"{name} by {lead}")
        else:
            close.append(f"{name}, {lead}")
    reached = f"{m.text(best['value'])} (95\u202f% interval {m.span(best)}), n = {best['n']:,}."
    said = (
        f"{leader} ended best: {reached}"
        if clear
        else f"No system is clearly ahead. {leader} reached most: {reached}"
    )
    by_chance = chance(m, race["systems"][leader].get("metrics", {}), {})
    if by_chance is not None and known(best["low"]) and best["low"] <= by_chance:
        said += f" That is not clearly above chance, {m.text(by_chance)}:"
        said += " a longer budget or more held-out data would tell more."
    if clear:
        said += f" Compared item by item, it is ahead of {_listed(clear)}."
    if close:
        said += f" It cannot be told apart from {_listed(close)}: the interval of the difference holds 0."
    seeds = "One seed: what another would change is not in these intervals."
    return " ".join(filter(None, (said, _worth(race), _elsewhere(race), seeds)))


def _gains(race: Mapping[str, Any]) -> dict[str, _Lead]:
    """What training gave each system that was judged beside the same network from fresh weights."""
    m = Measure.of(f"{race['metric'].rpartition('/')[0]}/gain_over_untrained")
    found = {name: system.get("metrics", {}).get(m.name) for name, system in race["systems"].items()}
    return {name: _Lead.of(m, e, 1) for name, e in found.items() if e is not None}


def _worth(race: Mapping[str, Any]) -> str:
    """Whether training was worth its time, where that is known."""
    gains = _gains(race)
    if not gains:
        return ""
    gained = [f"{name} {gain}" for name, gain in gains.items() if gain.clear > 0]
    unclear = [f"{name}, {gain}" for name, gain in gains.items() if not gain.clear]
    lost = [f"{name} {-gain}" for name, gain in gains.items() if gain.clear < 0]
    said = []
    if gained:
        said.append(
            f"Over the same network from fresh weights, tuned in the same way, training gained {_listed(gained)}."
        )
    if unclear:
        said.append(f"Whether it gained anything cannot be told of {_listed(unclear)}.")
    if lost:
        said.append(f"It cost {_listed(lost)}.")
    if not gained:
        said.append("So none is worth its time here yet: train longer, or on more unlabelled images.")
    return " ".join(said)


def _next(race: Mapping[str, Any]) -> str:
    """How the best system's encoder is tuned on more labels, where its training was worth it."""
    leader = race["leader"]
    gain = _gains(race).get(leader)
    if gain is None or gain.clear <= 0:
        return ""
    return (
        f"oculex train supervised --data LABELLED --set init.run={race['systems'][leader].get('run', leader)}"
    )


def _elsewhere(race: Mapping[str, Any]) -> str:
    """Whether who ended best is so in everything that was asked."""
    others = _others(race)
    better = [
        f"{name} is ahead by {-lead} in {m.title}"
        for m in others
        for name, lead in _leads(race, m).items()
        if lead.clear < 0
    ]
    if better:
        return f"It is not best in everything: {_listed(better)}."
    return "In no further question is another one ahead of it." if others else ""


@dataclass(frozen=True)
class _Lead:
    """By how much one is better than another."""

    value: float
    low: float
    high: float
    unit: str

    @classmethod
    def of(cls, m: Measure, e: Estimate, sign: int) -> _Lead:
        """From the difference of the two; ``sign`` is -1 where less is better."""
        scale, unit = (100, " points") if m.share else (1, "")
        low, high = sorted(sign * scale * e[key] if known(e[key]) else -math.inf for key in ("low", "high"))
        return cls(sign * scale * e["value"], low, high, unit)

    @property
    def clear(self) -> int:
        """1 where it is better, -1 where worse, 0 where the interval holds 0 or is not known."""
        return (self.low > 0) - (self.high < 0 and known(self.low))

    def __neg__(self) -> _Lead:
        return _Lead(-self.value, -self.high, -self.low, self.unit)

    def __str__(self) -> str:
        shown = number(self.value)
        unit = self.unit.removesuffix("s") if shown in ("1", "−1") else self.unit
        return f"{shown}{unit} ({span(self.low, self.high)})"


def _others(race: Mapping[str, Any]) -> list[Measure]:
    """What else every system was asked: the first metric of each question beside that of the race."""
    finals = [system.get("metrics", {}) for system in race["systems"].values()]
    shared = {name: e for name, e in finals[0].items() if all(name in each for each in finals)}
    return [Measure.of(name) for name in headlines(shared, most=len(shared)) if name != race["metric"]]


def _leads(race: Mapping[str, Any], m: Measure) -> dict[str, _Lead]:
    """Of who ended best over each other system."""
    sign = -1 if m.name.endswith(LESS_IS_BETTER) else 1
    found = {name: each.get(m.name) for name, each in race.get("differences", {}).items()}
    return {name: _Lead.of(m, e, sign) for name, e in found.items() if e is not None}


def _told(race: Mapping[str, Any], m: Measure) -> str:
    """What the systems reached in a question, and what follows."""
    finals = {name: system["metrics"] for name, system in race["systems"].items()}
    values = ", ".join(f"{name} {m.text(each[m.name]['value'])}" for name, each in finals.items())
    by_chance = chance(m, finals[race["leader"]], {})
    said = f"{values}{f'; chance {m.text(by_chance)}' if by_chance is not None else ''}."
    for name, lead in _leads(race, m).items():
        if lead.clear:
            ahead, behind, by = (
                (race["leader"], name, lead) if lead.clear > 0 else (name, race["leader"], -lead)
            )
            said += f" {ahead} is ahead of {behind} by {by}."
        else:
            said += f" {race['leader']} and {name} cannot be told apart: {lead}."
    return said


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
        fresh = untrained(m, system.get("metrics", {}))
        rows.append(
            {
                "name": name,
                "value": m.text(final["value"]),
                "span": m.span(final),
                "bar": svg(
                    charts.interval(final["value"], low, high, scale=scale, colour=colours[name], level=fresh)
                ),
                "fresh": m.text(fresh) if fresh is not None else "",
                "n": f"{final['n']:,}" if final.get("n") else "",
                "parameters": f"{system['parameters']:,}" if system.get("parameters") else "–",
                "rate": number(system.get("samples_per_s")),
            }
        )
    return rows
