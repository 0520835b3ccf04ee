"""A battle: backbones side by side on many tasks, each with the same heads, budget and search, ranked by z-scores.

The grid is backbones x ways x seeds. A way says what is trained: the heads alone on a frozen backbone, all tasks in one
run, for they do not touch one another; or the whole backbone, a run for each task. A cell is an ordinary run, kept under
the digest of its recipe as a claim's runs are, so a battle that was stopped goes on, one that grows by a backbone runs
the new cells alone, and battles and claims share equal runs.

Before it is judged each backbone gets, in each way, the same search: every learning rate once, judged by that which the
way's headline metric says on validation data. Seeds draw heads, order and, from scratch, the backbone; a pretrained
backbone is the same for all of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from oculex import catalog, runs
from oculex.claims.experiment import kept_run
from oculex.contracts import BadSample, Recipe, Sample, Source, UserError
from oculex.data.assets import RunAssets
from oculex.data.sources import open_source
from oculex.data.split import HasHeldOut
from oculex.evaluation import as_json
from oculex.evaluation.measures import LESS_IS_BETTER
from oculex.evaluation.ranking import KINDS, Setting, rank
from oculex.evaluation.records import Table, read
from oculex.training import plan, recipes
from oculex.training.backbones import begins_from
from oculex.training.folder import RunFolder, machine, read_lines, write_json

SYSTEM = "battle_of_backbones"
RATES = (1e-3, 4e-3)
"""Learning rates that every backbone is tried with, in every way."""
TRIAL = 100
"""Seed of the search, none of those that judge."""
HEADLINES = {
    "classify": "top1",
    "shifts": "top1",
    "image_retrieval": "map_at_r",
    "segmentation": "miou",
    "detection": "ap",
}
"""Of each question the metric that backbones are ranked by."""
QUESTIONS = {
    "classification": ("classify", "shifts", "image_retrieval"),
    "segmentation": ("segmentation",),
    "detection": ("detection",),
}
"""What a head, or the features that it learnt on, are asked."""
NAMES = {
    "classify": "classification",
    "shifts": "shifts",
    "image_retrieval": "image retrieval",
    "segmentation": "segmentation",
    "detection": "detection",
}
"""What a person calls them."""
_NEEDS = {"classification": "label", "segmentation": "semantic", "detection": "box_labels"}
_TIMED = 5


@dataclass(frozen=True)
class Way:
    """A protocol of training, and what it is asked."""

    name: str
    tasks: tuple[str, ...]
    trainable: tuple[str, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(question for task in self.tasks for question in QUESTIONS[task])


def ways(tasks: Sequence[str], whole: bool) -> list[Way]:
    """The heads alone, and, where ``whole`` is asked for, all of the backbone for each task."""
    alone = [Way("frozen", tuple(tasks), ("heads.*",))]
    return alone + [Way(f"whole, {task}", (task,), ("*",)) for task in tasks if whole]


def battle(
    backbones: Sequence[str],
    data: Sequence[str] = (),
    budget: str | None = None,
    out: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    whole: bool = False,
    rates: Sequence[float] = RATES,
    changes: Mapping[str, Any] | Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[dict[str, Any], Path]:
    """Runs what is missing of the grid and writes battle.json; (result, folder).

    ``backbones``: the folder of a run, NAME:PRESET, timm:MODEL, or scratch:SPEC, the same network from fresh weights.
    ``data``: sources with labels, masks or boxes, whatever their samples have; empty: the embedded world. ``rates``: one
    alone is taken without a search. Raises UserError for fewer than two backbones, a backbone named twice, and data of
    which no head can learn.
    """
    if len(set(backbones)) < max(2, len(backbones)):
        raise UserError("a battle needs two different backbones or more; name each once")
    out = out or Path("runs") / f"battle-{time.strftime('%Y%m%d-%H%M%S')}"
    if budget is not None and plan.parse_budget(budget)[1] == "seconds":
        raise UserError(
            f"budget {budget} is time, in which a small backbone sees more; give samples, such as 16e3samples"
        )
    base = runs.customised(recipes.preset(catalog.load(SYSTEM), SYSTEM, "tiny"), data, budget, None, changes)
    grid = ways(_tasks(base), whole)
    sized = {name: begins_from(name) for name in backbones}
    cells: dict[str, dict[str, list[RunFolder]]] = {}
    chosen: dict[str, dict[str, float]] = {}
    for number, (name, own) in enumerate(sized.items(), 1):
        say(f"{name} ({number} of {len(sized)})")
        cells[name], chosen[name] = {}, {}
        for way in grid:
            recipe = _recipe(base, way, own)
            rate = _best_rate(recipe, way, rates, f"{name}, {way.name}", out)
            chosen[name][way.name] = rate
            tuned = recipes.change(recipe, {"optimizer.lr": rate})
            cells[name][way.name] = [
                kept_run(dataclasses.replace(tuned, seed=seed), f"{name}, {way.name}", out) for seed in seeds
            ]
    result = _result(cells, chosen, grid)
    result |= {
        "backbones": {
            name: _cost(_recipe(base, grid[0], own)) | {"runs": _paths(cells[name])}
            for name, own in sized.items()
        },
        "asked": {"backbones": list(backbones), "data": list(data), "set": _pairs(changes), "whole": whole},
        "data": list(base.data.sources),
        "budget": base.budget,
        "seeds": list(seeds),
        "rates": list(rates),
        "machine": machine(),
    }
    result["recommended"] = recommended(result)
    write_json(out / "battle.json", result)
    return result, out


def _pairs(changes: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Changes as ``--set`` takes them."""
    if not isinstance(changes, Mapping):
        return list(changes)
    return [f"{name}={json.dumps(value)}" for name, value in changes.items()]


def _tasks(base: Recipe) -> list[str]:
    """What heads can learn of the first readable sample of the data."""
    sample = _readable(open_source(base.data.sources[0]))
    found = [task for task in base.model.tasks if sample.get(_NEEDS[task]) is not None]
    if not found:
        raise UserError(
            f"{base.data.sources[0]} has none of {', '.join(_NEEDS.values())}, of which a head could learn; give folders "
            "per class, boxes in COCO's files, or leave --data out"
        )
    return found


def _readable(source: Source) -> Sample:
    """The first sample that can be read, which tells what samples have; empty where there is none."""
    for index in range(len(source)):
        try:
            return source[index]
        except BadSample:
            continue
    return {}


def _recipe(base: Recipe, way: Way, own: Mapping[str, Any]) -> Recipe:
    changed = {
        **own,
        "tasks": list(way.tasks),
        "stages.0.trainable": list(way.trainable),
        "evaluation.tasks": list(way.asked),
    }
    return recipes.change(base, changed)


def _best_rate(recipe: Recipe, way: Way, rates: Sequence[float], about: str, out: Path) -> float:
    """By the mean over the way's tasks of what each rate reaches relative to the best rate there."""
    if len(rates) == 1:
        return rates[0]
    on = [validation(source) for source in recipe.data.sources]
    reached: dict[float, dict[str, float]] = {}
    for value in rates:
        trial = recipes.change(recipe, {"optimizer.lr": value, **({"evaluation.on": on} if all(on) else {})})
        folder = kept_run(dataclasses.replace(trial, seed=TRIAL), f"{about}, lr {value:g}", out)
        *_, last = read_lines(folder.evaluations)
        reached[value] = {
            name: last["metrics"][name]["value"] for name in last["metrics"] if _is_headline(name)
        }
    names = reached[rates[0]]
    top = {name: max(abs(each[name]) for each in reached.values()) or 1.0 for name in names}
    return max(rates, key=lambda value: sum(reached[value][name] / top[name] for name in names))


def validation(spec: str) -> str:
    """Where the search is judged: scenes of the world that judge nothing else; of other data what it holds out."""
    source = open_source(spec)
    if not isinstance(source, HasHeldOut) or not spec.startswith("world"):
        return ""
    joined = spec if ":" in spec else f"{spec}:"
    kept = [
        part
        for part in joined.partition(":")[2].split(",")
        if part and part.split("=")[0] not in ("split", "seed")
    ]
    return "world:" + ",".join([*kept, "split=test", "seed=1"])


def _is_headline(name: str) -> bool:
    _, task, metric = name.rsplit("/", 2)
    return HEADLINES.get(task) == metric


# ---------------------------------------------------------------------------------------------- results


def _result(
    cells: Mapping[str, Mapping[str, Sequence[RunFolder]]],
    chosen: Mapping[str, Mapping[str, float]],
    grid: Sequence[Way],
) -> dict[str, Any]:
    tables: dict[str, dict[str, list[Table]]] = {
        name: {way: [read(runs.last_records(folder)) for folder in folders] for way, folders in each.items()}
        for name, each in cells.items()
    }
    first = next(iter(tables.values()))
    settings = [
        Setting(_named(way, group, task), way.name, group, task, HEADLINES[task])
        for way in grid
        for group in dict.fromkeys(first[way.name][0]["set"])
        for task in way.asked
        if len(first[way.name][0].where(set=group, task=task))
    ]
    ranking = rank(tables, settings)
    return {
        "settings": [dataclasses.asdict(setting) | {"full": setting.full} for setting in settings],
        "values": {name: as_json(each) for name, each in ranking.values.items()},
        "z": ranking.z,
        "score": as_json(ranking.score),
        "place": as_json(ranking.place),
        "best": ranking.best,
        "agreement": {
            kind: [[as_json({"": cell})[""] for cell in row] for row in ranking.agreement[kind]]
            for kind in KINDS
        },
        "mean_agreement": as_json(ranking.mean_agreement),
        "chosen": {name: dict(each) for name, each in chosen.items()},
        "less_is_better": [s.name for s in settings if s.full.endswith(LESS_IS_BETTER)],
    }


def _named(way: Way, group: str, task: str) -> str:
    where = "" if group.startswith("world") else f"{group} "
    how = "frozen" if way.name == "frozen" else "whole"
    return f"{where}{NAMES[task]}, {how}"


def _paths(cells: Mapping[str, Sequence[RunFolder]]) -> dict[str, list[str]]:
    return {way: [str(folder.path) for folder in folders] for way, folders in cells.items()}


def _cost(recipe: Recipe) -> dict[str, float]:
    """Parameters, multiply-adds of one image, and images a second on this machine, of the backbone alone."""
    model = dataclasses.replace(recipe.model, tasks=("classification",))
    system: Any = catalog.load(SYSTEM).system.build(model, RunAssets(None, None))
    system.eval()
    pixels = torch.zeros(1, 3, model.image_size, model.image_size)
    with torch.inference_mode():
        counter = FlopCounterMode(display=False)
        with counter:
            system.pooled(pixels)
        many = pixels.expand(32, -1, -1, -1).contiguous()
        system.pooled(many)
        times = []
        for _ in range(_TIMED):
            begun = time.perf_counter()
            system.pooled(many)
            times.append(time.perf_counter() - begun)
    return {
        "parameters": sum(p.numel() for p in system.image.parameters()),
        "multiply_adds": counter.get_total_flops() / 2,
        "images_per_s": len(many) / min(times),
        "image_size": model.image_size,
    }


def recommended(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best backbone for each budget: walking up in parameters, each one that has a higher score than all smaller.

    ``sure``: whether it is also better than the best smaller one beyond the interval, in score.
    """
    order = sorted(result["backbones"], key=lambda name: result["backbones"][name]["parameters"])
    found: list[dict[str, Any]] = []
    for name in order:
        score = result["score"][name]
        if found and score["value"] <= result["score"][found[-1]["name"]]["value"]:
            continue
        before = result["score"][found[-1]["name"]]["high"] if found else None
        sure = before is not None and score["low"] is not None and score["low"] > before
        found.append({"name": name, "from": result["backbones"][name]["parameters"], "sure": sure})
    return found
