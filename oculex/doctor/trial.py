"""A recipe tried on real samples: whether it can train on them, how fast, in how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from oculex import catalog
from oculex.contracts import BadSample, Recipe, Sample, UserError
from oculex.doctor import rates
from oculex.doctor.commands import ROOM, Commands
from oculex.doctor.findings import Finding, Rank
from oculex.doctor.look import Look
from oculex.doctor.rates import Rates, WatchedAssets, view_size
from oculex.training import memory, plan

SLOW = 0.15
"""Share of the time of training spent on making batches, above which it is worth a change."""
SLACK = 1.2
"""What activations of fewer rows may take above their share."""


class Trial:
    """The recipe tried on samples in memory: ``size`` of its view, ``rates``, ``memory``, and what stands in its way.

    ``unmeasured`` says why there are no figures; ``available`` are the bytes that were free on the device.
    """

    def __init__(
        self,
        recipe: Recipe,
        pool: plan.Pool,
        found: Look,
        assets: WatchedAssets,
        say: Commands,
        seconds: float,
    ) -> None:
        self.recipe, self.pool, self.found, self.assets, self.say = recipe, pool, found, assets, say
        self.findings: list[Finding] = []
        self.size: int | None = None
        self.unmeasured = ""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.available = memory.available(self.device)
        self.rates: Rates | None = None
        self.memory: memory.Estimate | None = None
        self._run(seconds)

    def _run(self, seconds: float) -> None:
        plugin = catalog.load(self.recipe.system)
        with torch.device("meta"):  # views need no weights
            viewer: Any = plugin.system.build(self.recipe.model, self.assets)
        views, samples = self._views(viewer)
        if not views:
            return
        self.size = view_size(views[0])
        self._estimate([*views, self._longest(viewer, samples[0])])
        try:
            system: Any = plugin.system.build(self.recipe.model, self.assets) if self._fits(1) else viewer
            self.rates = rates.measure(
                self.recipe,
                self.pool,
                samples,
                self.found.read_seconds,
                system,
                self.assets,
                self._fits,
                seconds,
            )
        except UserError as error:
            self._refused(str(error))
            return
        if "update" in self.rates.stages and self.rates.data_share() > SLOW:
            self.findings.append(self.say.slow(self.rates, self.found, self.size))

    def _views(self, system: Any) -> tuple[list[dict[str, Any]], list[Sample]]:
        """Views of the samples in memory that can stand in one batch; none, with a finding, where that is none."""
        views: list[dict[str, Any]] = []
        samples: list[Sample] = []
        why = "no sample could be read"
        for sample in self.found.kept:
            try:
                views += rates.views_of([sample], system)
                samples.append(sample)
            except BadSample as bad:
                why = f"{bad}, and so with every other sample"
            except UserError as error:
                self._refused(str(error))
                return [], []
        if not views:
            self._refused(why)
        kinds = [frozenset(view) for view in views]
        usual = max(kinds, key=kinds.count, default=frozenset())
        kept = [index for index, kind in enumerate(kinds) if kind == usual]
        return [views[i] for i in kept], [samples[i] for i in kept]

    def _refused(self, why: str) -> None:
        self.unmeasured = "the recipe cannot train on this data"
        self.findings.append(
            Finding("refused", Rank.STOPS, f"the recipe cannot train on this data: {why}", self.say.other)
        )

    def _longest(self, system: Any, sample: Sample) -> dict[str, Any]:
        """The view with the longest caption seen, which sets how long the longest batch is."""
        every = [text for seen in self.found.seen for text in seen.captions]
        longest = [max(every, key=len)] if every else []
        return next(iter(rates.views_of([{**sample, "captions": longest}], system)))

    def _estimate(self, views: Sequence[dict[str, Any]]) -> None:
        try:
            self.memory = memory.estimate(self.recipe, self.assets, views)
        except memory.DependsOnData as error:
            self.unmeasured = f"this system's shapes depend on values ({error})"
            return
        if self.memory.peak > self.available * ROOM:
            self.findings.append(self.say.memory(self.memory, self.available, views, self.assets))

    def _fits(self, rows: int) -> bool:
        """Whether the update of a micro-batch of ``rows`` fits: what does not grow with it, and what does."""
        if self.memory is None:
            return True
        micro = self.recipe.batch // self.recipe.accumulate
        fixed = 2 * self.memory.weights + self.memory.optimizer
        return fixed + SLACK * self.memory.activations * rows / micro < self.available * ROOM
