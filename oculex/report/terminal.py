"""What a terminal says of a run: the numbers in groups, each with interval and chance, and what to type next."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from oculex.report import commands, confusion
from oculex.report.measures import (
    Estimate,
    Measure,
    chance,
    duration,
    headlines,
    is_chance,
    number,
    span,
    titles,
    untrained,
)
from oculex.training import checkpoint
from oculex.training.folder import RunFolder, read_json, read_lines

Metrics = Mapping[str, Estimate]


def learnt(run: Path, program: str = "oculex") -> str:
    """What a run has learnt, where its page is, what to type next; or, where it was stopped, how to go on."""
    folder = RunFolder.open(Path(run))
    recipe, lines = read_json(folder.recipe), list(read_lines(folder.metrics))
    evaluations = [line for line in read_lines(folder.evaluations) if line["metrics"]]
    steps = read_json(folder.plan)["steps"] if folder.plan.is_file() else 0
    saved = checkpoint.latest(folder)
    done = checkpoint.state(saved)["step"] if saved is not None else 0
    if done < steps:
        return (
            f"{recipe['system']} stopped; {done:,} of {steps:,} steps are saved.\n"
            f"go on  {program} resume {folder.path}"
        )
    parts = []
    if lines:
        seen = f"{lines[-1]['samples']:,} samples in {duration(lines[-1]['seconds'])}"
        parts.append(f"{recipe['system']} learnt from {seen}.")
    if evaluations:
        metrics = evaluations[-1]["metrics"]
        classes = confusion.classes(confusion.tables(folder.records))
        parts[-1:] = [*parts[-1:], "On data it never saw (95 % intervals):"]
        parts = [" ".join(parts), "", _rows(headlines(metrics), metrics, classes, title=True)]
        following = commands.further(folder.path, recipe["system"], list(metrics), program)
    else:
        following = commands.further(folder.path, recipe["system"], [], program)
    steps_next = [("next" if not n else "", command) for n, (_, command) in enumerate(following)]
    return "\n".join([*parts, "", _aligned([("page", str(folder.path / "report.html")), *steps_next])])


def results(metrics: Metrics, records: Path | None = None) -> str:
    """Every metric, under the set and task that it belongs to. Chance is told where ``records`` let it be known."""
    from oculex.evaluation.records import read

    classes = confusion.classes([read(records)]) if records is not None else {}
    return _grouped(metrics, lambda names: _rows(names, metrics, classes))


def differences(found: Metrics) -> str:
    """Paired differences: shares in points, with their sign; a star where the interval leaves out 0."""
    return _grouped(found, lambda names: _table(_difference(Measure.of(name), found[name]) for name in names))


def finals(race: Mapping[str, Any]) -> str:
    """Where the systems of a race ended, in the order in which they were named."""
    m = Measure.of(race["metric"])
    ends = {name: system["final"] for name, system in race["systems"].items()}
    rows = [(name, m.text(e["value"]), m.span(e), f"n = {e['n']:,}") for name, e in ends.items()]
    return f"{m.set}: {m.title}\n{_table(rows)}"


def _grouped(metrics: Metrics, write: Callable[[list[str]], str]) -> str:
    groups: dict[str, list[str]] = {}
    for name in metrics:
        if not is_chance(name):
            groups.setdefault(Measure.of(name).heading, []).append(name)
    return "\n\n".join(f"{heading}\n{write(names)}" for heading, names in groups.items())


def _rows(
    names: Sequence[str], metrics: Metrics, classes: Mapping[tuple[str, str], int], title: bool = False
) -> str:
    rows = []
    titled = titles(names) if title else {}
    for name in names:
        m, e = Measure.of(name), metrics[name]
        by_chance = chance(m, metrics, classes)
        rows.append(
            (
                titled.get(name, m.label),
                m.text(e["value"]),
                m.span(e),
                ", ".join(
                    f"{what} {m.text(level)}"
                    for what, level in (("untrained", untrained(m, metrics)), ("chance", by_chance))
                    if level is not None
                ),
                f"n = {e['n']:,}",
            )
        )
    return _table(rows)


def _difference(m: Measure, e: Estimate) -> tuple[str, ...]:
    low, high = e["low"], e["high"]
    scale, unit = (100, " points") if m.share else (1, "")
    told = "*" if low > 0 or high < 0 else ""
    value = f"{'+' if e['value'] > 0 else ''}{number(scale * e['value'])}{unit}"
    return m.label, value, span(scale * low, scale * high), told, f"n = {e['n']:,}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, values to the right, the rest to the left."""
    rows = [[cell.replace("\u202f", " ") for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, value, *rest = (
            (" " * (w - _width(c)) + c) if n == 1 else c + " " * (w - _width(c))
            for n, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "   ".join([first, value, *rest]).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _aligned(pairs: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in pairs)
