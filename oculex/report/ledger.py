"""The claim ledger as a page, and as a table for the README."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from oculex.report import charts
from oculex.report.html import render, svg
from oculex.report.measures import Measure, known, number, span
from oculex.training.folder import write_text

Claim = Mapping[str, Any]

VERDICTS = {"holds": "holds", "does not hold at this scale": "fails", "inconclusive": "open"}
"""Verdicts, in the order of the summary, with their marks in the style sheet."""
_NO_EFFECT = {"difference": 0.0, "ratio": 1.0}


def write_ledger(claims: Sequence[Claim], out: Path) -> None:
    """One self-contained page over judged claims: the verdicts, then each claim with its arms and curves."""
    counts = Counter(claim["verdict"] for claim in claims)
    page = render(
        "ledger.html.j2",
        claims=[_shown(claim) for claim in claims],
        summary=[(verdict, mark, counts[verdict]) for verdict, mark in VERDICTS.items()],
    )
    write_text(out, page)


def ledger_markdown(claims: Sequence[Claim]) -> str:
    """A Markdown table: system, claim, paper, effect with its interval, verdict."""
    rows = ["| system | claim | the paper | ours | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        cells = (
            f"`{claim['system']}`",
            claim["statement"],
            claim["paper"],
            measured(claim),
            claim["verdict"],
        )
        rows.append("| " + " | ".join(map(cell, cells)) + " |")
    return "\n".join(rows) + "\n"


def measured(claim: Claim) -> str:
    """The effect with its interval, and over how many seeds."""
    return f"{_effect(claim)} ({_span(claim)}), {_seeds(claim)}"


def cell(text: object) -> str:
    """A text that stays in its cell of a Markdown table, and is no HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _shown(claim: Claim) -> dict[str, Any]:
    effect, curves = claim["effect"], _curves(claim)
    colours = {arm: i for i, arm in enumerate(curves)} or dict.fromkeys(claim["arms"], 0)
    scale, none = _scale(claim["arms"].values()), _no_effect(claim)
    estimates = (
        [effect] if none is None else [effect, {"value": none}, {"value": claim.get("at_least", none)}]
    )
    bar = _bar(effect, scale=_scale(estimates), level=none)
    return {
        "system": claim["system"],
        "name": claim["name"],
        "statement": claim["statement"],
        "paper": claim["paper"],
        "verdict": claim["verdict"],
        "mark": VERDICTS.get(claim["verdict"], "open"),
        "unit": _unit(claim),
        "arms": [_arm(claim, arm, scale, colours.get(arm, 0)) for arm in claim["arms"]],
        "effect": {
            "text": _effect(claim),
            "span": _span(claim),
            "bar": bar,
            "kind": claim.get("compare", ""),
        },
        "needed": _needed(claim),
        "curves": svg(_drawn(claim, curves)),
        "circumstances": _circumstances(claim),
    }


def _arm(claim: Claim, arm: str, scale: tuple[float, float], colour: int) -> dict[str, Any]:
    estimate, m = claim["arms"][arm], _measure(claim)
    missed = claim.get("unreached", {}).get(arm)
    return {
        "name": arm,
        "value": m.text(estimate["value"]),
        "span": m.span(estimate),
        "n": estimate.get("n", ""),
        "note": f"{missed} never reached it" if missed else "",
        "bar": _bar(estimate, scale=scale, colour=colour),
    }


def _measure(claim: Claim) -> Measure:
    """How the arms' values are written: as the metric is, or plainly where the value counts samples."""
    metrics = claim.get("metrics") or {}
    return Measure.of("" if claim["measure"] == "samples_to" else metrics.get(claim.get("treatment"), ""))


def _unit(claim: Claim) -> str:
    metric = next(iter((claim.get("metrics") or {}).values()), "")
    if claim["measure"] == "samples_to":
        return f"samples until {Measure.of(metric).label} reaches {Measure.of(metric).text(claim.get('threshold'))}"
    return Measure.of(metric).title if metric else str(claim["measure"])


def _no_effect(claim: Claim) -> float | None:
    return _NO_EFFECT.get(claim.get("compare", ""))


def _effect(claim: Claim) -> str:
    value, kind = claim["effect"]["value"], claim.get("compare")
    if kind == "ratio":
        return f"{number(value)} times"
    if kind == "difference" and _measure(claim).share:
        return f"{_sign(value)}{number(100 * abs(value))} points"
    return f"{_sign(value)}{number(abs(value))}" if kind == "difference" else number(value)


def _span(claim: Claim) -> str:
    low, high = claim["effect"].get("low"), claim["effect"].get("high")
    points = claim.get("compare") == "difference" and _measure(claim).share
    return span(100 * low, 100 * high) if points and known(low) and known(high) else span(low, high)


def _sign(value: float) -> str:
    return "−" if value < 0 else "+"


def _seeds(claim: Claim) -> str:
    count = len(claim.get("seeds") or ()) or claim["effect"].get("n", 0)
    return f"{count} seed{'' if count == 1 else 's'}"


def _needed(claim: Claim) -> str:
    least, none = claim.get("at_least"), _no_effect(claim)
    return "" if least is None or none is None or least == none else f"holds above {number(least)}"


def _bar(estimate: Mapping[str, Any], **options: Any) -> Markup:
    """The interval drawn, where it is known."""
    bounds = [estimate.get(key) for key in ("value", "low", "high")]
    return svg(charts.interval(*bounds, **options) if all(map(known, bounds)) else "")  # type: ignore[arg-type]


def _scale(estimates: Any) -> tuple[float, float]:
    """A range that holds every known value and bound, with some air."""
    ends = [float(e[k]) for e in estimates for k in ("value", "low", "high") if known(e.get(k))] or [0.0]
    air = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - air, max(ends) + air


def _curves(claim: Claim) -> dict[str, list[Sequence[Sequence[float]]]]:
    """Arms with their seeds' curves of more than one point."""
    drawn = {a: [s for s in seeds if len(s) > 1] for a, seeds in (claim.get("curves") or {}).items()}
    return {arm: seeds for arm, seeds in drawn.items() if seeds}


def _drawn(claim: Claim, curves: Mapping[str, list[Sequence[Sequence[float]]]]) -> str:
    m = Measure.of(next(iter((claim.get("metrics") or {}).values()), ""))
    level = (
        (f"threshold {m.text(claim['threshold'])}", claim["threshold"]) if claim.get("threshold") else None
    )
    means = {arm: mean_curve(seeds) for arm, seeds in curves.items()}
    return charts.adaptive(means, "samples", m.label or "metric", share=m.share, level=level)


def mean_curve(seeds: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float, float, float]]:
    """Mean, least and greatest over seeds at the evaluations that all seeds had."""
    by_samples = [{point[0]: point[1] for point in seed} for seed in seeds]
    common = sorted(set.intersection(*map(set, by_samples)))
    values = [[seed[samples] for seed in by_samples] for samples in common]
    return [(s, fmean(each), min(each), max(each)) for s, each in zip(common, values, strict=True)]


def _circumstances(claim: Claim) -> str:
    machine = claim.get("machine") or {}
    if isinstance(machine, Mapping):
        machine = machine.get("gpu") or (f"{machine['cores']} CPU cores" if machine.get("cores") else "")
    budget = f"budget {claim['budget']} an arm" if claim.get("budget") else ""
    return ", ".join(filter(None, (_seeds(claim), budget, str(machine), str(claim.get("date") or ""))))
