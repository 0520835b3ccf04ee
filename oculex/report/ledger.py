"""The claim ledger as a page, and as a table for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from oculex.report import charts
from oculex.report.page import render
from oculex.training.folder import write_text

_UNITS = {"samples_to": "samples to reach the threshold"}


def write_ledger(claims: Sequence[Mapping[str, Any]], out: Path) -> None:
    """One self-contained page over judged claims."""
    write_text(
        out,
        render(
            "ledger.html.j2",
            title="Claims, measured",
            claims=[_shown(c) for c in claims],
            number=charts.number,
        ),
    )


def _shown(claim: Mapping[str, Any]) -> dict[str, Any]:
    curves = {
        f"{arm} {i}": seed
        for arm, seeds in claim["curves"].items()
        for i, seed in enumerate(seeds)
        if len(seed) > 1
    }
    arms = [arm for arm, seeds in claim["curves"].items() if any(len(seed) > 1 for seed in seeds)]
    means = {arm: _mean(claim["curves"][arm]) for arm in arms}
    return {
        **claim,
        "unit": _UNITS.get(claim["measure"], next(iter(claim["metrics"].values()))),
        "svg": Markup(charts.lines(means, "samples", "metric")) if curves else "",
        "keys": list(zip(arms, charts.COLOURS, strict=False)),
    }


def _mean(seeds: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float, float, float]]:
    """Mean, least and greatest over seeds at each evaluation."""
    return [
        (
            points[0][0],
            sum(p[1] for p in points) / len(points),
            min(p[1] for p in points),
            max(p[1] for p in points),
        )
        for points in zip(*seeds, strict=False)
    ]


def ledger_markdown(claims: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: system, claim, paper, effect, verdict."""
    rows = ["| system | claim | the paper | ours | verdict |", "|---|---|---|---|---|"]
    for c in claims:
        e = c["effect"]
        value, low, high = (charts.number(e[key]) for key in ("value", "low", "high"))
        ours = f"{c['compare']} {value} [{low}, {high}], {e['n']} seeds"
        rows.append(f"| {c['system']} | {c['statement']} | {c['paper']} | {ours} | {c['verdict']} |")
    return "\n".join(rows) + "\n"
