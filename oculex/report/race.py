"""A race as a page: quality against time and against samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from oculex.report import charts
from oculex.report.page import render
from oculex.training.folder import write_text


def write_race(race: Mapping[str, Any], out: Path) -> None:
    """One self-contained page."""
    systems = race["systems"]
    by = [
        {name: [(point[axis], *point[2:]) for point in s["curve"]] for name, s in systems.items()}
        for axis in (0, 1)
    ]
    page = render(
        "race.html.j2",
        title=" against ".join(systems),
        r=race,
        keys=list(zip(systems, charts.COLOURS, strict=False)),
        by_time=Markup(charts.lines(by[0], "seconds of training", race["metric"])),
        by_samples=Markup(charts.lines(by[1], "samples", race["metric"])),
        number=charts.number,
    )
    write_text(out, page)
