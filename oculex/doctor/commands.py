"""Remedies as commands that can be typed."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import Assets, Recipe
from oculex.doctor.findings import Finding, Rank, gigabytes
from oculex.doctor.look import Look
from oculex.doctor.rates import Rates
from oculex.training import memory, plan

ROOM = 0.8
"""Share of the free memory that a run should need at most."""


class Commands:
    """Remedies for one recipe and its data."""

    def __init__(self, recipe: Recipe, leave_out: Path | None) -> None:
        self.recipe = recipe
        paths = [spec for spec in recipe.data.sources if not spec.startswith("world")]
        self.path = shlex.quote(plan.parse_weight(paths[0])[0]) if paths else "PATH"
        data = " ".join(map(shlex.quote, paths))
        named = recipe.system + (f" --preset {recipe.preset}" if recipe.preset != "tiny" else "")
        self.train = f"oculex train {named}" + (f" --data {data}" if data else "")
        self.other = "oculex list  (names systems; `oculex show NAME` says what each learns from)"
        again = f"oculex data doctor {data or 'world'} --recipe {named}"
        self.clean = (
            f"oculex data convert {self.path} -o clean --leave-out {shlex.quote(str(leave_out))}"
            if leave_out is not None
            else f"{again} --leave-out out.txt && oculex data convert {self.path} -o clean --leave-out out.txt"
        )

    def smaller_view(self, found: Look) -> str:
        sides = [min(seen.size) for seen in found.images()]
        model = self.recipe.model
        patch, size = getattr(model, "patch", 32), getattr(model, "image_size", None)
        if not sides or size is None:
            return "use a recipe for smaller images"
        fitting = int(np.median(sides)) // patch * patch
        return (
            f"{self.train} --set image_size={max(patch, fitting)}"
            if fitting < size
            else "nothing for most of the data"
        )

    def slow(self, measured: Rates, found: Look, size: int | None) -> Finding:
        """Making batches binds: which stage, and what hides it."""
        needed, share, slowest = measured.needed() or 1, measured.data_share(), measured.slowest()
        names = {
            "read": "reading",
            "decode": "decoding",
            "augment": "augmentation",
            "tokenise": "tokenising",
            "collate": "collating",
        }
        sides = [min(seen.size) for seen in found.images()]
        large = size is not None and bool(sides) and float(np.median(sides)) >= 1.5 * 2 * size
        if measured.gpu and measured.workers < needed <= measured.cores:
            remedy = f"{self.train} --set data.workers={needed}"
        elif slowest == "read":
            remedy = f"oculex data convert {self.path} -o tars  (long reads instead of many small ones; train on tars)"
        elif slowest in ("decode", "augment") and large:
            remedy = f"oculex data convert {self.path} -o small --side {2 * (size or 1)}  (train on small)"
        elif measured.gpu:
            remedy = f"a machine with {needed} cores; this one has {measured.cores}"
        else:
            remedy = "nothing on this machine: workers and update share its cores; a GPU would free them"
        where = "waits for batches" if measured.gpu else "goes to making batches"
        return Finding(
            "slow-data",
            Rank.COSTS,
            f"{share:.0%} of the time of training {where}, most of it to {names[slowest]}",
            remedy,
        )

    def memory(
        self,
        estimate: memory.Estimate,
        available: int,
        views: Sequence[dict[str, Any]],
        assets: Assets,
    ) -> Finding:
        """The update does not fit: the fewest micro-batches with which it would, estimated again."""
        recipe = self.recipe
        says = f"an update needs {gigabytes(estimate.peak)} and {gigabytes(available)} are free"
        fixed = 2 * estimate.weights + estimate.optimizer + estimate.batch
        room = available * ROOM - fixed
        if room <= 0:
            return Finding(
                "memory",
                Rank.STOPS,
                f"{says}; weights, optimizer and batch alone need {gigabytes(fixed)}",
                f"{self.train} --set batch={max(1, recipe.batch // 16)}, a smaller preset, or a larger machine",
            )
        pieces = min(
            recipe.batch, 1 << math.ceil(math.log2(max(1.0, recipe.accumulate * estimate.activations / room)))
        )
        while recipe.batch % pieces:
            pieces += 1
        again = memory.estimate(replace(recipe, accumulate=pieces), assets, views)
        return Finding(
            "memory",
            Rank.STOPS,
            says,
            f"{self.train} --set accumulate={pieces}  (exact; needs {gigabytes(again.peak)})",
        )
