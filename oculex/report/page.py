"""A run's page: one file, nothing loaded from elsewhere, everything from outside escaped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from oculex import catalog
from oculex.report import charts
from oculex.training.folder import RunFolder, read_json, read_lines, write_text

_ENV = Environment(loader=PackageLoader("oculex.report"), autoescape=True, trim_blocks=True)
_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "samples_per_s": "samples per second",
    "data_wait": "share of time waiting for data",
}


def render(template: str, **values: Any) -> str:
    return _ENV.get_template(template).render(**values)


def write_report(run: Path) -> Path:
    """Writes RUN/report.html from the run's files; returns its path."""
    folder = RunFolder.open(run)
    recipe, lines = read_json(folder.recipe), list(read_lines(folder.metrics))
    evaluations = list(read_lines(folder.evaluations))
    last = evaluations[-1]["metrics"] if evaluations else {}
    row = catalog.find(recipe["system"])
    page = render(
        "run.html.j2",
        title=f"{row.name} on {', '.join(recipe['data']['sources'])}",
        sentence=_sentence(row, recipe, lines),
        numbers=_headlines(last),
        curves=_curves(lines),
        learning=_learning(evaluations),
        metrics=[_metric(name, estimate) for name, estimate in last.items()],
        gallery=_gallery(folder),
        confusion=_confusion(folder),
        skipped=list(read_lines(folder.skipped)),
        commands=f"oculex train {row.name} --preset {recipe['preset']} --seed {recipe['seed']}\n"
        f"oculex evaluate {run}\noculex index {run} --images PATH -o my.index\noculex export {run} OUT --to open_clip",
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
        machine=json.dumps(read_json(folder.path / "machine.json"), indent=2),
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _sentence(row: catalog.Row, recipe: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    seen = (
        f"{lines[-1]['samples']:,} samples in {lines[-1]['seconds']:,.0f} s" if lines else "not trained yet"
    )
    return f"{row.title}. Preset {recipe['preset']}, seed {recipe['seed']}; {seen}."


def _headlines(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first metric of each task, with chance where the evaluation gives it."""
    seen, out = set(), []
    for name, estimate in metrics.items():
        task = name.rsplit("/", 1)[0]
        if task not in seen and "chance" not in name:
            seen.add(task)
            chance = next(
                (m["value"] for n, m in metrics.items() if n.startswith(task) and "chance" in n), None
            )
            out.append(
                _metric(name, estimate) | {"chance": None if chance is None else charts.number(chance)}
            )
    return out[:4]


def _metric(name: str, estimate: Mapping[str, Any]) -> dict[str, Any]:
    bar = (
        charts.interval(estimate["value"], estimate["low"], estimate["high"]) if estimate["high"] <= 1 else ""
    )
    texts = {key: charts.number(estimate[key]) for key in ("low", "high")}
    return {
        "name": name,
        "text": charts.number(estimate["value"]),
        "n": f"{estimate['n']:,}",
        "bar": Markup(bar),
        **texts,
    }


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": about,
            "svg": Markup(charts.lines({key: [(line["step"], line[key]) for line in lines]}, "step", about)),
        }
        for key, about in _CURVES.items()
        if lines and key in lines[0]
    ]


def _learning(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if len(evaluations) < 2:
        return []
    out = []
    for name in evaluations[-1]["metrics"]:
        points = [
            (e["samples"], *(e["metrics"][name][key] for key in ("value", "low", "high")))
            for e in evaluations
            if name in e["metrics"]
        ]
        if "chance" not in name and len(points) > 1:
            out.append({"name": name, "svg": Markup(charts.lines({name: points}, "samples", name))})
    return out[:6]


def _gallery(folder: RunFolder) -> list[dict[str, Any]]:
    path = folder.path / "gallery.json"
    return read_json(path) if path.exists() else []


def _confusion(folder: RunFolder) -> dict[str, Any] | None:
    from oculex.evaluation.records import read

    found = sorted(folder.records.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    table = read(found[-1]).select(task="zeroshot")
    prompts, controls = table["prompt"], table["control"]
    pairs = [
        (str(truth), str(answer))
        for truth, answer, prompt, control in zip(
            table["truth"], table["parsed"], prompts, controls, strict=True
        )
        if str(prompt) == str(prompts[0]) and str(control) == str(controls[0])
    ]
    if not pairs:
        return None
    names = sorted({truth for truth, _ in pairs} | {answer for _, answer in pairs})
    place, totals, counts = {n: i for i, n in enumerate(names)}, Counter(t for t, _ in pairs), Counter(pairs)
    matrix = [[0.0] * len(names) for _ in names]
    for (truth, answer), count in counts.items():
        matrix[place[truth]][place[answer]] = count / totals[truth]
    wrong = [(truth, answer, count) for (truth, answer), count in counts.most_common() if truth != answer][
        :15
    ]
    return {"classes": len(names), "svg": Markup(charts.heat(matrix, "confusion matrix")), "pairs": wrong}
