"""A run's page: one file, nothing loaded from elsewhere, everything from outside escaped."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from oculex import catalog
from oculex.evaluation.curves import along
from oculex.report import charts, commands, confusion, drawings, drawn, filmed, gallery, modalities, stream
from oculex.report.html import render, svg
from oculex.report.measures import (
    Estimate,
    Measure,
    chance,
    duration,
    headlines,
    is_chance,
    known,
    share,
    titles,
    untrained,
)
from oculex.training.folder import RunFolder, read_json, read_lines, write_text

Lines = Sequence[Mapping[str, Any]]

SKIPPED = 50
_ELSEWHERE = ("step", "samples", "seconds", "time", "loss", "samples_per_s", "data_wait")
"""Keys of a logged step that are axes, or have a chart of their own."""
_NAMES = {"lr": "learning rate", "grad_norm": "gradient norm", "scale": "logit scale"}


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from the run's files; returns its path. What a run lacks, its page leaves out."""
    folder = RunFolder.open(Path(run))
    recipe, lines = read_json(folder.recipe), list(read_lines(folder.metrics))
    evaluations = [line for line in read_lines(folder.evaluations) if line["metrics"]]
    metrics, tables = _metrics(folder, evaluations), confusion.tables(folder.records)
    classes = confusion.classes(tables)
    machine = folder.path / "machine.json"
    where = commands.flat(read_json(machine)) if machine.is_file() else {}
    changes = commands.changed(recipe)
    page = render(
        "run.html.j2",
        head=_head(folder, recipe, lines, where),
        numbers=_numbers(metrics, classes),
        training=_training(lines),
        speed=_speed(lines),
        evaluation=_evaluation(metrics, classes),
        learning=_learning(evaluations, classes),
        gallery=gallery.section(folder.path),
        drawn=drawn.section(folder.path),
        drawings=drawings.section(folder.records),
        films=filmed.section(folder.path),
        confusion=confusion.section(tables),
        modalities=modalities.section(tables),
        stream=stream.section(folder.records),
        skipped=_skipped(list(read_lines(folder.skipped))),
        recipe=[(name, value, name in changes) for name, value in commands.flat(recipe).items()],
        changed=len(changes),
        machine=list(where.items()),
        reproduce=commands.reproduce(recipe),
        further=commands.further(folder.path, recipe["system"], list(metrics)),
    )
    write_text(folder.path / "report.html", page)
    return folder.path / "report.html"


def overview(run: Path) -> dict[str, Any]:
    """What stands at the top of the run's page: its ``head`` and the ``numbers`` that sum it up."""
    folder = RunFolder.open(Path(run))
    recipe, lines = read_json(folder.recipe), list(read_lines(folder.metrics))
    evaluations = [line for line in read_lines(folder.evaluations) if line["metrics"]]
    metrics, classes = _metrics(folder, evaluations), confusion.classes(confusion.tables(folder.records))
    machine = folder.path / "machine.json"
    where = commands.flat(read_json(machine)) if machine.is_file() else {}
    return {
        "head": _head(folder, recipe, lines, where),
        "numbers": _numbers(metrics, classes),
    }


def _head(
    folder: RunFolder, recipe: Mapping[str, Any], lines: Lines, machine: Mapping[str, str]
) -> dict[str, str]:
    rows = {row.name: row for row in (*catalog.ROWS, *catalog.BASELINES)}
    row, system = rows.get(recipe["system"]), str(recipe["system"])
    paper = f"{row.title}. {row.authors}, {row.year}." if row else ""
    place = machine.get("gpu", "null")
    place = place if place != "null" else f"{machine.get('cores', '?')} CPU cores"
    seen = "It has not been trained here."
    if lines:
        last = lines[-1]
        time = f" in {duration(last['seconds'])}" if known(last.get("seconds")) else ""
        seen = f"{last['samples']:,} samples seen{time} on {place}, seed {recipe['seed']}."
    changed = max(
        p.stat().st_mtime for p in (folder.recipe, folder.metrics, folder.evaluations) if p.exists()
    )
    return {
        "title": f"{system}, trained on {_listed(recipe['data']['sources'])}",
        "paper": paper,
        "sentence": f"Preset {recipe['preset']}: {seen}",
        "run": folder.path.resolve().name,
        "date": f"{datetime.fromtimestamp(changed):%d %B %Y}".lstrip("0"),
    }


_MADE = {"world": "the embedded world", "table": "the simulated table"}
"""Sources that are no files, by what begins their specification."""


def _listed(sources: Sequence[str]) -> str:
    """Each once, however many parts of it are mixed."""
    paths = [source.rpartition("@")[0] or source for source in sources]
    names = list(dict.fromkeys(_MADE.get(path.split(":")[0], Path(path).name or path) for path in paths))
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "nothing")))


def _metrics(folder: RunFolder, evaluations: Lines) -> dict[str, Estimate]:
    """The run's last evaluation, brought up to date by later `oculex evaluate` of as many items or more."""
    found: dict[str, Estimate] = dict(evaluations[-1]["metrics"]) if evaluations else {}
    since = folder.evaluations.stat().st_mtime if evaluations else 0.0
    later = [path for path in folder.records.glob("*.json") if path.stat().st_mtime >= since]
    for path in sorted(later, key=lambda path: path.stat().st_mtime):
        for name, estimate in read_json(path).get("metrics", {}).items():
            if name not in found or estimate["n"] >= found[name]["n"]:
                found[name] = estimate
    return found


# ------------------------------------------------------------------------------------------- numbers


def _numbers(metrics: Mapping[str, Estimate], classes: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """The headlines, each by the ``title`` that it has among them."""
    titled = titles(headlines(metrics))
    return [_estimate(name, metrics, classes) | {"title": title} for name, title in titled.items()]


def _estimate(
    name: str, metrics: Mapping[str, Estimate], classes: Mapping[tuple[str, str], int]
) -> dict[str, Any]:
    m, e = Measure.of(name), metrics[name]
    by_chance = chance(m, metrics, classes)
    drawn = m.share and known(e["value"]) and 0 <= e["value"] <= 1
    low, high = ((e[k] if known(e.get(k)) else e["value"]) for k in ("low", "high"))
    bar = charts.interval(e["value"], low, high, level=by_chance) if drawn else ""
    value, _, unit = m.text(e["value"]).partition("\u202f")
    return {
        "name": name,
        "measure": m,
        "value": value,
        "unit": unit,
        "span": m.span(e),
        "n": f"{e['n']:,}" if e.get("n") is not None else "",
        "chance": m.text(by_chance) if by_chance is not None else "",
        "untrained": m.text(fresh) if (fresh := untrained(m, metrics)) is not None else "",
        "bar": svg(bar),
    }


def _evaluation(
    metrics: Mapping[str, Estimate], classes: Mapping[tuple[str, str], int]
) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for name in metrics:
        if not is_chance(name):
            groups.setdefault(Measure.of(name).heading, []).append(_estimate(name, metrics, classes))
    return list(groups.items())


# -------------------------------------------------------------------------------------------- curves


def _curve(lines: Lines, key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in lines if _is_number(line.get(key))]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _training(lines: Lines) -> dict[str, Any] | None:
    """The loss large, its parts with it; each other scalar a chart of its own."""
    keys = list(dict.fromkeys(key for line in lines for key in line))
    if not lines or "loss" not in keys:
        return None
    parts = {key.removeprefix("loss/"): _curve(lines, key) for key in keys if key.startswith("loss/")}
    loss = {"loss": _curve(lines, "loss")} | (parts if len(parts) > 1 else {})
    others = [key for key in keys if key not in _ELSEWHERE and not key.startswith("loss/")]
    small = [_chart(lines, key, zero=key in ("lr", "grad_norm")) for key in others]
    return {"loss": svg(charts.adaptive(loss, "step", "loss")), "others": [c for c in small if c["svg"]]}


def _chart(lines: Lines, key: str, **options: Any) -> dict[str, Any]:
    name = _NAMES.get(key, key.replace("_", " "))
    return {"name": name, "svg": svg(charts.lines({name: _curve(lines, key)}, "step", name, **options))}


def _speed(lines: Lines) -> dict[str, Any] | None:
    rates, waits = (_curve(lines, key) for key in ("samples_per_s", "data_wait"))
    if not rates:
        return None
    rate = charts.lines({"samples per second": rates}, "step", "samples per second", zero=True)
    wait = charts.lines({"data wait": waits}, "step", "share of time", share=True, zero=True)
    return {
        "rate": f"{median(value for _, value in rates):,.0f}",
        "wait": share(sum(value for _, value in waits) / len(waits)) if waits else "",
        "charts": [("Samples per second", svg(rate)), ("Share of time waiting for data", svg(wait))],
    }


def _learning(evaluations: Lines, classes: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    out = []
    for name in headlines(evaluations[-1]["metrics"], most=6) if evaluations else []:
        found = along(evaluations, name)
        if len(found) < 2:
            continue
        m, metrics = Measure.of(name), found[-1]["metrics"]
        points = [(e["samples"], *_bounds(e["metrics"][name])) for e in found]
        by_chance = chance(m, metrics, classes)
        level = ("chance", by_chance) if by_chance is not None else None
        drawn = charts.lines({m.label: points}, "samples", m.label, share=m.share, zero=True, level=level)
        out.append({"name": m.title, "n": metrics[name].get("n"), "svg": svg(drawn)})
    return [each for each in out if each["svg"]]


def _bounds(e: Estimate) -> tuple[float, ...]:
    """Value and interval; without one the value alone stands for its bounds."""
    return tuple(e[key] if known(e.get(key)) else e["value"] for key in ("value", "low", "high"))


def _skipped(lines: Lines) -> dict[str, Any]:
    reasons = Counter(str(line["reason"]) for line in lines)
    return {
        "n": len(lines),
        "reasons": reasons.most_common(12),
        "kinds": len(reasons),
        "first": [(str(line["id"]), str(line["reason"])) for line in lines[:SKIPPED]],
    }
