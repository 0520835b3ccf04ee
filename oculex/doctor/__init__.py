"""The data doctor: what is wrong with data for a recipe, what limits its speed, and whether it fits into memory.

Everything is found from a bounded look at a fixed choice of samples; a share of a sample carries its interval.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oculex.contracts import Recipe
from oculex.doctor import pictures, texts
from oculex.doctor.commands import Commands
from oculex.doctor.findings import Finding, worst_first
from oculex.doctor.look import MOST, Look, look
from oculex.doctor.rates import WatchedAssets
from oculex.doctor.trial import Trial
from oculex.training import plan
from oculex.training.folder import write_text

SECONDS = 60.0
"""Of the whole examination, as far as one sample or one update does not take longer."""


@dataclass(frozen=True)
class Report:
    """All figures of an examination; ``findings`` begin with the worst."""

    looked: Look
    findings: list[Finding]
    captions: dict[str, float]
    trial: Trial
    clean: str
    """What to type to leave out what the findings say to leave out."""
    load: float
    """Processes that wanted a core when the examination began."""

    @property
    def recipe(self) -> Recipe:
        return self.trial.recipe

    def figures(self) -> dict[str, Any]:
        """As JSON holds it."""
        read, trial, recipe = self.looked, self.trial, self.recipe
        out: dict[str, Any] = {
            "recipe": {"system": recipe.system, "preset": recipe.preset, "batch": recipe.batch},
            "looked_at": {p: {"n": read.count(p), "of": total} for p, total in read.of.items()},
            "findings": [_finding(finding) for finding in self.findings],
            "captions": self.captions,
            "unmeasured": trial.unmeasured,
        }
        if trial.rates:
            stages = {name: _finite(asdict(rate)) for name, rate in trial.rates.stages.items()}
            out["samples_per_s"] = stages | {"one_worker": trial.rates.worker()}
            out |= {
                "data_share": trial.rates.data_share() if "update" in stages else None,
                "workers_needed": trial.rates.needed(),
                "update_rows": trial.rates.rows,
                "cores": trial.rates.cores,
                "load": self.load,
            }
        if trial.memory:
            out["memory"] = asdict(trial.memory) | {"available": trial.available}
        return out


def examine(
    recipe: Recipe, seconds: float = SECONDS, most: int = MOST, leave_out: Path | None = None
) -> Report:
    """Examines the recipe's data and, on it, the recipe. ``leave_out``: ids that the data is better off without are
    written there, one a line. Raises UserError for a recipe or a path that no run could use."""
    load = os.getloadavg()[0]
    pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    found = look(pool.train, pool.held_out, seconds * 0.4, most)
    say = Commands(recipe, leave_out)
    findings = pictures.unreadable(found, recipe.data.bad_limit, say.clean)
    with tempfile.TemporaryDirectory() as folder:
        heard = [text for seen in found.seen for text in seen.captions]
        assets = WatchedAssets(Path(folder), lambda: heard, pool.classes())
        trial = Trial(recipe, pool, found, assets, say, seconds * 0.5)
    findings += trial.findings
    if assets.watched is not None:  # the recipe reads text
        findings += texts.captions(found, say.clean, recipe.data.bad_limit)
        findings += texts.tokens(found, assets.watched.inner, assets.watched.context, say.train)
    findings += pictures.duplicates(found, say.clean)
    findings += pictures.pictures(found, trial.size, say.clean, say.smaller_view(found))
    findings = worst_first(findings)
    if leave_out is not None:
        ids = dict.fromkeys(name for finding in findings for name in finding.leave_out)
        write_text(leave_out, "".join(f"{name}\n" for name in ids))
    summary = texts.summary(found, assets.watched.inner if assets.watched else None)
    return Report(found, findings, summary, trial, say.clean, load)


def _finding(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"rank": finding.rank.name.lower()}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
