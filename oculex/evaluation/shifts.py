"""Classification out of the distribution that was trained on: other domains of the same scenes, and corrupted images.

A source that knows its own shifts (``shifted``: the embedded world's domains, where it is dusk, or all is drawn) is asked
in each of them. Every image is also corrupted in six ways: five are of the kinds of Hendrycks and Dietterich's
(Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019), at a strength that is stated
here in shares of the picture's side and of full scale, so that it means the same for pictures of any size; the sixth
takes the colours away.

Records: as for every classification, ``prompt`` is the shift.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageFilter

from oculex.contracts import Sample, Source
from oculex.data.decode import opened
from oculex.data.order import generator
from oculex.evaluation import classification, labels
from oculex.evaluation.measures import Statistic, average, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context

NAME = "shifts"
_DRAWN = 0xC0


@runtime_checkable
class HasShifts(Protocol):
    """A source that can be looked at under other circumstances."""

    def shifted(self) -> Mapping[str, Source]: ...


Corruption = Callable[[Image.Image, np.random.Generator], Image.Image]


def _noise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    drawn = rng.normal(0, 0.15 * 255, pixels.shape)
    return Image.fromarray(np.clip(pixels + drawn, 0, 255).astype(np.uint8))


def _blur(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(0.03 * max(picture.size)))


def _contrast(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float32)
    middle = pixels.mean((0, 1), keepdims=True)
    return Image.fromarray(np.round(middle + 0.3 * (pixels - middle)).astype(np.uint8))


def _pixelated(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    coarse = [max(1, round(0.3 * side)) for side in picture.size]
    return picture.resize(coarse, Image.Resampling.BOX).resize(picture.size, Image.Resampling.NEAREST)  # type: ignore[arg-type]


def _jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=10)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _grey(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.convert("L").convert("RGB")


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "pixelated": _pixelated,
    "jpeg": _jpeg,
    "grey": _grey,
}


class Corrupted:
    """A source whose images are corrupted, each in its own way, the same each time."""

    def __init__(self, source: Source, how: str) -> None:
        self.source, self.how, self.name, self.classes = source, how, source.name, source.classes

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.how}"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Sample:
        sample = dict(self.source[index])
        if "image" in sample:
            picture = opened(sample["image"], sample["id"]).convert("RGB")
            drawn = generator(_DRAWN, list(CORRUPTIONS).index(self.how), index)
            sample["image"] = np.asarray(CORRUPTIONS[self.how](picture, drawn))
        return sample


def shifts(source: Source) -> dict[str, Source]:
    """All that a source is looked at under, by name."""
    domains = dict(source.shifted()) if isinstance(source, HasShifts) else {}
    return {**domains, **{how: Corrupted(source, how) for how in CORRUPTIONS}}


def run(system: Any, source: Source, context: Context) -> Table:
    tables = []
    for name, shifted in shifts(source).items():
        found = context.embedder.logits(shifted)
        if found.items:
            truth = classification.labels(found.items, source)
            scores = torch.from_numpy(found.values)
            tables.append(
                classification.answers(scores, found.items, truth, source.classes, context, NAME, prompt=name)
            )
    return concat(tables)


def statistics(table: Table) -> dict[str, Statistic]:
    """top1 over all shifts, which count alike, then of each; and by chance."""
    each = {
        name: classification.statistics(table, table.where(prompt=name))
        for name in dict.fromkeys(table["prompt"])
    }
    parts: dict[str, Statistic] = {f"{name}_top1": found["top1"] for name, found in each.items()}
    unparsed = (table["status"] == "unparsed").astype(float)
    chance = average([found["chance_top1"] for found in each.values()])
    return {
        "top1": average(list(parts.values())),
        "chance_top1": chance,
        **parts,
        "unparsed": mean(unparsed),
    }


TASK = labels.own_classifier(NAME, run, statistics)
