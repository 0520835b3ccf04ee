"""Runs: train, go on, load, evaluate, compare. The one place that joins training with evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from oculex import catalog
from oculex.contracts import Evaluation as Asked
from oculex.contracts import Recipe, Source, System, UserError
from oculex.data.assets import RunAssets
from oculex.data.sources import open_source
from oculex.evaluation import EvalSet, Evaluation, Untrained
from oculex.evaluation import compare as compare_tables
from oculex.evaluation import evaluate as evaluate_system
from oculex.evaluation import records as tables
from oculex.evaluation.drawn import drawn
from oculex.evaluation.filmed import filmed
from oculex.evaluation.gallery import gallery
from oculex.training import loop, plan, ranks, recipes, reopen
from oculex.training.folder import RunFolder, write_json
from oculex.training.foundations import foundation
from oculex.training.replay import repeat

# ------------------------------------------------------------------------------------------- training


def customised(
    recipe: Recipe,
    data: Sequence[str] = (),
    budget: str | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
) -> Recipe:
    """A preset's recipe with a user's choices. Raises UserError for data of which a stage would not hear."""
    deaf = [n for n, stage in enumerate(recipe.stages) if stage.sources] if data else []
    if deaf:
        raise UserError(
            f"stage {recipe.stages[deaf[0]].name!r} of {recipe.system} has data of its own, which --data would not "
            f"change; give it yours by --set 'stages.{deaf[0]}.sources=[\"PATH\"]', the common by --set data.sources=..."
        )
    named = {"data.sources": list(data) or None, "budget": budget, "seed": seed}
    recipe = recipes.change(recipe, {key: value for key, value in named.items() if value is not None})
    return recipes.change(recipe, changes) if changes else recipe


def train(
    system: str,
    preset: str = "tiny",
    data: Sequence[str] = (),
    out: Path | None = None,
    budget: str | None = None,
    seed: int | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    quiet: bool = False,
) -> RunFolder:
    """Trains a catalog system and evaluates it; the run's folder."""
    name = catalog.find(system).name
    recipe = customised(recipes.preset(catalog.load(name), name, preset), data, budget, seed, changes)
    out = out or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return start(recipe, out, quiet=quiet)


def start(recipe: Recipe, out: Path, quiet: bool = False) -> RunFolder:
    """Trains a recipe into a new run folder."""
    return loop.start(recipe, out, _Evaluator(recipe, RunFolder(out)), foundation, quiet)


def resume(run: Path, skip_batch: bool = False, quiet: bool = False) -> RunFolder:
    """Goes on with a run from its last checkpoint."""
    opened = RunFolder.open(run)
    loop.resume(
        opened, _Evaluator(reopen.load_recipe(opened), opened), foundation, quiet=quiet, skip_batch=skip_batch
    )
    return opened


def replay(file: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Does the step that a crash.json tells of again, alone; what of it is not finite."""
    return repeat(file, changes)


class _Evaluator:
    """What the loop calls: metrics of the system on the run's evaluation sets. Only those that count keep records."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        self.untrained = Untrained(partial(reopen.fresh, recipe, folder))

    def __call__(self, system: System, pool: plan.Pool, step: int, final: bool) -> dict[str, Any]:
        found = _sets(self.recipe.evaluation.on, pool, self.recipe.evaluation)
        if not found:
            return {}
        limit = None if final else self.recipe.evaluation.limit
        result = evaluate_system(
            system,
            found,
            device=next(system.parameters()).device,  # type: ignore[attr-defined]
            cache=None,
            limit=limit,
            tasks=self.recipe.evaluation.tasks,
            untrained=self.untrained,
            precision=self.recipe.precision,
        )
        if final and ranks.leads():
            _keep(self.folder, f"step-{step:09d}", result, found)
        return _json(result.metrics)


def _sets(on: Sequence[str], pool: plan.Pool, asked: Asked) -> dict[str, EvalSet]:
    """Named sources, or what the training data held out; probes are fitted on the training part."""
    judges = {name: partial(foundation, spec) for name, spec in asdict(asked.judges).items() if spec}
    if on:
        opened = [open_source(spec) for spec in on]
        return {
            name: EvalSet(name, source, None, asked.prompts, judges)
            for name, source in zip(_slugs(opened), opened, strict=True)
        }
    names = _slugs(pool.held_out)
    paired = dict(zip([source.name for source in pool.train], pool.train, strict=True))
    return {
        n: EvalSet(n, held, paired.get(held.name), asked.prompts, judges)
        for n, held in zip(names, pool.held_out, strict=True)
    }


def _slugs(sources: Sequence[Source]) -> list[str]:
    """Short unique names for metrics: the last part of a path."""
    names: list[str] = []
    for source in sources:
        base = (
            re.sub(r"[^\w.-]+", "-", source.name.split(":")[0].rstrip("/").rsplit("/", 1)[-1]).strip("-")
            or "data"
        )
        names.append(base if base not in names else f"{base}-{len(names)}")
    return names


def _keep(folder: RunFolder, name: str, result: Evaluation, sets: Mapping[str, EvalSet]) -> Path:
    """Records, their metrics, the gallery of what was retrieved, pictures with boxes that were found, films of robots."""
    path = folder.records / f"{name}.parquet"
    result.table.write(path)
    write_json(folder.records / f"{name}.json", {"metrics": _json(result.metrics), "records": str(path)})
    found = gallery(result.table, {each: evalset.test for each, evalset in sets.items()})
    if found:
        write_json(folder.path / "gallery.json", found)
    boxes = drawn(result.table, {each: evalset.test for each, evalset in sets.items()})
    if boxes:
        write_json(folder.path / "boxes.json", boxes)
    films = filmed(result.table, {each: evalset.test for each, evalset in sets.items()})
    if films:
        write_json(folder.path / "films.json", films)
    return path


def _json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


# -------------------------------------------------------------------------------------- finished runs


def folder(run: Path) -> RunFolder:
    """The run's folder; raises UserError where there is none."""
    return RunFolder.open(Path(run))


def load(run: Path | str, device: str = "cpu") -> System:
    """The system of a run with the weights of its last checkpoint (the averaged ones where it has them)."""
    system: Any = reopen.load(RunFolder.open(Path(run)))
    return system.to(torch.device(resolve(device))).eval()


def resolve(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def parameters(run: Path) -> int:
    return sum(p.numel() for p in load(run).parameters())  # type: ignore[attr-defined]


def evaluate(
    run: Path | str, on: Sequence[str] = (), limit: int | None = None, device: str = "auto"
) -> dict[str, Any]:
    """{"metrics": {name: {value, low, high, n}}, "records": path}. An interrupted evaluation is gone on with."""
    opened = RunFolder.open(Path(run))
    recipe = reopen.load_recipe(opened)
    system = load(run, device)
    pool = plan.Pool((), (), None) if on else plan.open_pool(recipe.data.sources, recipe.data.holdout)
    found = _sets(tuple(on) or recipe.evaluation.on, pool, recipe.evaluation)
    if not found:
        raise UserError(f"{run} held nothing out (data.holdout=0); name a source with --on PATH")
    result = evaluate_system(
        system,
        found,
        device=resolve(device),
        cache=opened.records / "cache",
        limit=limit,
        also=recipe.evaluation.tasks,
        untrained=Untrained(partial(reopen.fresh, recipe, opened)),
        precision=recipe.precision,
    )
    digest = hashlib.sha256(repr((sorted(on), limit)).encode()).hexdigest()[:8]
    records = _keep(opened, f"evaluate-{digest}", result, found)
    skipped = [{"set": name, "id": key, "reason": reason} for name, key, reason in result.skipped]
    return {"metrics": _json(result.metrics), "records": str(records), "skipped": skipped}


def last_records(opened: RunFolder) -> Path:
    """The newest record table of a run."""
    found = sorted(opened.records.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{opened.path} has no records; `oculex evaluate {opened.path}` makes them")
    return found[-1]


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """Paired differences of each run to the first, on the items that both answered."""
    first, *others = [tables.read(last_records(RunFolder.open(run))) for run in runs]
    differences = {
        str(run): _json(compare_tables(other, first)) for run, other in zip(runs[1:], others, strict=True)
    }
    return {"base": str(runs[0]), "differences": differences}


def describe(name: str) -> dict[str, Any]:
    """What `oculex show` prints: from the catalog, and from the system's file where there is one."""
    row = catalog.find(name)
    shown = dataclasses.asdict(row) | {
        "status": catalog.status(row),
        "about": row.claim,
        "presets": {},
        "claims": [],
    }
    if not catalog.has_code(row):
        return shown
    plugin = catalog.load(name)
    module = __import__(row.module, fromlist=["_"])
    shown["about"] = (module.__doc__ or "").strip()
    for preset in plugin.presets:
        recipe = recipes.preset(plugin, name, preset)
        with torch.device("meta"):
            system: Any = plugin.system.build(recipe.model, RunAssets(None, None))
        count = sum(p.numel() for p in system.parameters())
        shown["presets"][preset] = {"parameters": count, "budget": recipe.budget, "batch": recipe.batch}
    shown["claims"] = [dataclasses.asdict(claim) for claim in plugin.claims]
    return shown
