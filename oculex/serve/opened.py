"""A run as the page asks it: its system, one question at a time, and samples that it was never trained on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from oculex import runs
from oculex.contracts import BadSample, Batch, Recipe, Sample, Source, UserError
from oculex.data import decode
from oculex.data.assets import RunAssets
from oculex.data.collate import collate, to
from oculex.data.sources import open_source
from oculex.evaluation.embed import Embedder
from oculex.training import plan, reopen
from oculex.training.folder import RunFolder

EXAMPLES = 6


@dataclass
class Opened:
    folder: RunFolder
    recipe: Recipe
    system: Any
    held_out: Source | None
    """What the run is judged on; None where its data are out of reach."""
    classes: tuple[str, ...]
    """Of the data that it was trained on, in the order of its labels."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, run: Path, device: str = "auto") -> Opened:
        folder = runs.folder(run)
        recipe = reopen.load_recipe(folder)
        system: Any = runs.load(run, device)
        held_out = _held_out(recipe)
        classes = RunAssets(folder.assets, None).classes() or (held_out.classes if held_out else ())
        return cls(folder, recipe, system, held_out, tuple(classes))

    @property
    def name(self) -> str:
        """Of its system."""
        return self.recipe.system

    @property
    def title(self) -> str:
        return self.folder.path.resolve().name

    @property
    def device(self) -> torch.device:
        return next(self.system.parameters()).device

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The model answers one question at a time, without gradients."""
        with self.lock, torch.inference_mode():
            yield

    def batch(self, *samples: Sample) -> Batch:
        """The samples' evaluation views on the system's device; UserError for one that cannot be used."""
        try:
            return self.collated([self.system.view(sample, None) for sample in samples])
        except BadSample as bad:
            raise UserError(f"{bad.key}: {bad.reason}") from None

    def collated(self, views: list[dict[str, Any]]) -> Batch:
        return to(collate(views), self.device)

    def embedder(self, limit: int | None = None) -> Embedder:
        return Embedder(self.system, device=self.device, limit=limit)

    @cached_property
    def _samples(self) -> list[Sample]:
        """Readable held-out samples, spread over the source; more than are shown, for some may lack what is asked for."""
        found: list[Sample] = []
        total = len(self.held_out) if self.held_out is not None else 0
        for index in range(0, total, max(1, total // (4 * EXAMPLES))):
            with contextlib.suppress(BadSample):
                sample: Sample = self.held_out[index]  # type: ignore[index]
                if "image" in sample:
                    pixels(sample)
                found.append(sample)
        return found

    def examples(self, *keys: str) -> list[Sample]:
        """Up to ``EXAMPLES`` held-out samples that have all these keys."""
        have = [sample for sample in self._samples if all(sample.get(key) is not None for key in keys)]
        return have[:EXAMPLES]


def pixels(sample: Sample) -> Image.Image:
    """A sample's whole picture."""
    return decode.opened(sample["image"], str(sample["id"]))


def _held_out(recipe: Recipe) -> Source | None:
    """The first source that the run is evaluated on: one of its own, or what its data held out."""
    try:
        if recipe.evaluation.on:
            return open_source(recipe.evaluation.on[0])
        pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    except UserError:
        return None  # moved or deleted since: the page goes without examples
    return next(iter(pool.held_out), None)
