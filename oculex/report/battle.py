"""A battle of backbones as a page: who is best, at what cost, in which task, and whether tasks agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from oculex.report import charts
from oculex.report.html import render, svg
from oculex.report.measures import Estimate, known, number, span
from oculex.training.folder import write_text

Battle = Mapping[str, Any]

SHOWN = {
    "classify": "classification",
    "shifts": "classification under shifts",
    "image_retrieval": "image retrieval",
    "segmentation": "segmentation",
    "detection": "detection",
}
METRICS = {"top1": "top-1", "map_at_r": "mAP@R", "miou": "mIoU", "ap": "AP"}
_COLD, _WARM = "unseen", "own"


def write_battle(battle: Battle, out: Path) -> None:
    """One self-contained page."""
    names = ranked(battle)
    page = render(
        "battle.html.j2",
        title=f"{len(names)} backbones on {len(battle['settings'])} tasks",
        said=conclusion(battle),
        terms=_terms(battle),
        ranking=[_ranked(battle, name) for name in names],
        cells={
            "heads": [_heading(setting) for setting in battle["settings"]],
            "rows": [_cells(battle, name) for name in names],
        },
        budgets=_budgets(battle),
        by_parameters=svg(_cost_chart(battle, "parameters", "parameters of the backbone")),
        by_operations=svg(_cost_chart(battle, "multiply_adds", "multiply-adds for an image")),
        agreement=_agreement(battle),
        chosen=[(name, _rates(battle, name)) for name in names],
        command=_command(battle),
        machine=_machine(battle),
    )
    write_text(out, page)


def ranked(battle: Battle) -> list[str]:
    """The backbones, the best first."""
    return sorted(battle["score"], key=lambda name: -_or(battle["score"][name]["value"], -9.0))


def conclusion(battle: Battle) -> str:
    """Who is best, how sure that is, and whether one ranking speaks for all tasks."""
    first, *others = ranked(battle)
    e = battle["score"][first]
    said = f"{first} is best over all tasks: its mean z-score is {_z(e['value'])} ({_zs(e)}), "
    said += (
        f"and it is first in {100 * battle['best'][first]:.0f}\u202f% of the draws of other items and seeds."
    )
    close = [name for name in others if _or(battle["score"][name]["high"], 9.0) >= _or(e["low"], -9.0)]
    if close:
        said += f" {_listed(close)} cannot be told from it by these intervals."
    wins = {name: _won(battle, name) for name in ranked(battle)}
    elsewhere = [f"{name} in {_listed(won)}" for name, won in wins.items() if name != first and won]
    if elsewhere:
        said += f" It is not best in everything: {_listed(elsewhere)}."
    return f"{said} {_agreed(battle)}"


def table(battle: Battle) -> str:
    """For a terminal: place, score with its interval, cost."""
    width = max(map(len, battle["score"]))
    lines = [
        f"  {'':>2}  {'backbone':<{width}}  {'mean z':>7}  {'95 % interval':<16}  {'parameters':>10}  {'images/s':>8}"
    ]
    for place, name in enumerate(ranked(battle), 1):
        e, cost = battle["score"][name], battle["backbones"][name]
        lines.append(
            f"  {place:>2}  {name:<{width}}  {_z(e['value']):>7}  {_zs(e):<16}  "
            f"{charts.number_of(cost['parameters']):>10}  {number(cost['images_per_s']):>8}"
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ pieces


def _won(battle: Battle, name: str) -> list[str]:
    """Settings in which a backbone is best; ties are nobody's."""
    won = []
    for setting in battle["settings"]:
        z = {each: battle["z"][each][setting["name"]] for each in battle["z"]}
        others = [value for each, value in z.items() if each != name and value is not None]
        if z[name] is not None and others and z[name] > max(others):
            won.append(setting["name"])
    return won


def _agreed(battle: Battle) -> str:
    e = battle["mean_agreement"]["spearman"]
    if not known(e["value"]):
        return "Too few backbones to tell whether tasks agree."
    said = f"Tasks order these backbones alike with a mean rank correlation of {number(e['value'])} "
    return f"{said}({span(e['low'], e['high'])})."


def _terms(battle: Battle) -> str:
    seeds = battle["seeds"]
    search = (
        f"each after a search of {len(battle['rates'])} learning rates"
        if len(battle["rates"]) > 1
        else "one learning rate"
    )
    data = ", ".join(battle["data"])
    return f"{data}; {battle['budget']} for each run, {search}, {len(seeds)} seed{'' if len(seeds) == 1 else 's'}"


def _scale(battle: Battle) -> tuple[float, float]:
    ends = [
        float(e[key]) for e in battle["score"].values() for key in ("value", "low", "high") if known(e[key])
    ]
    return min(ends) - 0.1, max(ends) + 0.1


def _ranked(battle: Battle, name: str) -> dict[str, Any]:
    e, place, cost = battle["score"][name], battle["place"][name], battle["backbones"][name]
    low, high = (_or(e[key], e["value"]) for key in ("low", "high"))
    bar = charts.interval(
        e["value"], low, high, scale=_scale(battle), level=0.0, colour=_colour(battle, name)
    )
    return {
        "name": name,
        "place": number(place["value"]),
        "places": span(place["low"], place["high"]),
        "score": _z(e["value"]),
        "span": _zs(e),
        "bar": svg(bar),
        "parameters": charts.number_of(cost["parameters"]),
        "operations": charts.number_of(cost["multiply_adds"]),
        "rate": number(cost["images_per_s"]),
        "size": int(cost["image_size"]),
    }


def _heading(setting: Mapping[str, Any]) -> dict[str, str]:
    task = SHOWN.get(setting["task"], setting["task"])
    how = "frozen" if setting["name"].endswith("frozen") else "whole"
    return {"task": task, "how": how, "metric": METRICS.get(setting["metric"], setting["metric"])}


def _cells(battle: Battle, name: str) -> dict[str, Any]:
    cells = []
    for setting in battle["settings"]:
        e, z = battle["values"][name][setting["name"]], battle["z"][name][setting["name"]]
        best = name in _leaders(battle, setting["name"])
        cells.append(
            {
                "value": f"{100 * e['value']:.1f}" if known(e["value"]) else "–",
                "span": _points(e),
                "shade": 0 if z is None else max(0, min(4, round(2 * z))),
                "kind": _WARM if best else _COLD,
            }
        )
    return {"name": name, "cells": cells}


def _leaders(battle: Battle, setting: str) -> list[str]:
    z = {name: each[setting] for name, each in battle["z"].items() if each[setting] is not None}
    return [name for name, value in z.items() if value == max(z.values())]


def _points(e: Estimate) -> str:
    if not (known(e["low"]) and known(e["high"])):
        return "no interval"
    return f"{100 * e['low']:.1f} to {100 * e['high']:.1f}"


def _budgets(battle: Battle) -> list[dict[str, str]]:
    """The recommendation in words, from the smallest budget to none."""
    steps = battle["recommended"]
    out = []
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        least = charts.number_of(step["from"])
        room = (
            f"{least} parameters or more"
            if after is None
            else f"{least} to {charts.number_of(after['from'])}"
        )
        first = step is steps[0]
        sure = (
            "the smallest here"
            if first
            else "clearly better than the smaller ones"
            if step["sure"]
            else "by a margin within the intervals"
        )
        out.append(
            {
                "room": room,
                "name": step["name"],
                "sure": sure,
                "score": _z(battle["score"][step["name"]]["value"]),
            }
        )
    return out


def _cost_chart(battle: Battle, cost: str, label: str) -> str:
    points = {}
    for name, e in battle["score"].items():
        low, high = (_or(e[key], e["value"]) for key in ("low", "high"))
        points[name] = (battle["backbones"][name][cost], e["value"], low, high)
    wide = charts.scatter(points, label, "mean z-score", size=charts.WIDE, level=0.0)
    narrow = charts.scatter(points, label, "mean z-score", size=charts.NARROW, level=0.0)
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>' if wide else ""


def _agreement(battle: Battle) -> dict[str, Any]:
    names = [setting["name"] for setting in battle["settings"]]
    rows = []
    for i, name in enumerate(names):
        cells: list[dict[str, Any] | None] = []
        for j in range(len(names)):
            kind = "spearman" if j > i else "kendall"
            e = battle["agreement"][kind][i][j]
            cells.append(None if i == j else _correlation(e))
        rows.append((name, cells))
    both = {kind: battle["mean_agreement"][kind] for kind in ("spearman", "kendall")}
    return {
        "names": names,
        "rows": rows,
        "n": len(battle["score"]),
        "mean": {kind: f"{number(e['value'])} ({span(e['low'], e['high'])})" for kind, e in both.items()},
    }


def _correlation(e: Estimate) -> dict[str, Any]:
    value = e["value"]
    return {
        "value": number(value),
        "span": span(e["low"], e["high"]),
        "kind": "",
        "shade": 0 if not known(value) else max(0, min(4, round(4 * value))),  # type: ignore[operator]
    }


def _rates(battle: Battle, name: str) -> str:
    return ", ".join(f"{way}: {rate:g}" for way, rate in battle["chosen"][name].items())


def _command(battle: Battle) -> str:
    asked = battle["asked"]
    options = {"--backbones": asked["backbones"], "--data": asked["data"], "--set": asked["set"]}
    words = [part for option, values in options.items() if values for part in (option, *map(quote, values))]
    words += [
        "--budget",
        battle["budget"],
        "--seed",
        str(battle["seeds"][0]),
        "--seeds",
        str(len(battle["seeds"])),
    ]
    return " ".join(["oculex race battle_of_backbones", *words, *(["--whole"] if asked["whole"] else [])])


def _machine(battle: Battle) -> str:
    machine = battle.get("machine") or {}
    gpu = machine.get("gpu")
    return str(gpu) if gpu else f"{machine.get('cores', '?')} CPU cores"


def _colour(battle: Battle, name: str) -> int:
    return list(battle["score"]).index(name)


def _z(value: float | None) -> str:
    """Two decimals, a true minus sign."""
    return f"{value:.2f}".replace("-", "\u2212") if value is not None and known(value) else "–"


def _zs(e: Estimate) -> str:
    return f"{_z(e['low'])} to {_z(e['high'])}" if known(e["low"]) and known(e["high"]) else "no interval"


def _or(value: float | None, otherwise: float) -> float:
    return float(value) if known(value) and value is not None else otherwise


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))
