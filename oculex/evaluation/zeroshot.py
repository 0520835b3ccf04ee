"""Zero-shot classification with prompt ensembles (Radford et al., CLIP, 2021, section 3.1.4).

A class is the normalised mean of the unit-norm embeddings of its prompts; a system that scores pairs instead
of embedding them takes the mean of its scores over the prompts. Beside the ensemble the records hold the same
items answered by up to ``PARAPHRASES`` single prompts ("#3 a photo of ..."), and by the ensemble looking at
another image (``control`` wrong_image), which is what the answers are worth without the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from oculex.contracts import EncodesImages, EncodesText, ScoresTexts, Source
from oculex.evaluation import classification
from oculex.evaluation.cache import Item
from oculex.evaluation.measures import Statistic, contrast, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "zeroshot"
ENSEMBLE = "ensemble"
PARAPHRASES = 12
"""Single prompts on record, spread evenly over the ensemble."""
ROWS = 4096
"""Images scored at a time."""


def run(system: Any, source: Source, context: Context) -> Table:
    dual = isinstance(system, EncodesImages) and isinstance(system, EncodesText)
    items, score = (_embedded if dual else _paired)(source, context)
    if not items:
        return Table.empty()
    prompts = context.prompts
    singles = np.unique(np.linspace(0, len(prompts) - 1, min(PARAPHRASES, len(prompts))).round().astype(int))
    right = np.arange(len(items))
    asked: list[tuple[str, str, list[int], np.ndarray]] = [(ENSEMBLE, "", list(range(len(prompts))), right)]
    asked += [(f"#{t} {prompts[t]}", "", [int(t)], right) for t in singles]
    if len(items) > 1:
        other = wrong_image([item.id for item in items])
        asked.append((ENSEMBLE, "wrong_image", list(range(len(prompts))), other))
    truth = classification.labels(items, source)
    tables = []
    for prompt, control, which, image in asked:
        for start in range(0, len(items), ROWS):
            rows = slice(start, start + ROWS)
            scores = score(image[rows], which)
            tables.append(
                classification.answers(
                    scores,
                    items[rows],
                    truth[rows],
                    source.classes,
                    context,
                    NAME,
                    prompt=prompt,
                    control=control,
                )
            )
    return concat(tables)


Score = Callable[[np.ndarray, list[int]], Tensor]
"""(image indices [n], prompt indices) -> scores [n, classes]."""


def texts(classes: tuple[str, ...], prompts: tuple[str, ...]) -> list[str]:
    """Every class in every prompt, class by class."""
    return [prompt.format(name) for name in classes for prompt in prompts]


def class_weights(embeddings: Tensor) -> Tensor:
    """Prompt embeddings [classes, prompts, D] -> unit-norm class weights [classes, D]."""
    return normalize(normalize(embeddings, dim=-1).mean(1), dim=-1)


def _embedded(source: Source, context: Context) -> tuple[tuple[Item, ...], Score]:
    embedder = context.embedder
    images = embedder.images(source)
    named = embedder.texts(texts(source.classes, context.prompts))
    prompts = torch.from_numpy(named).view(len(source.classes), len(context.prompts), -1).to(embedder.device)
    features = torch.from_numpy(images.values)

    def score(rows: np.ndarray, which: list[int]) -> Tensor:
        return normalize(features[rows].to(embedder.device), dim=-1) @ class_weights(prompts[:, which]).T

    return images.items, score


def _paired(source: Source, context: Context) -> tuple[tuple[Item, ...], Score]:
    found = context.embedder.scores(source, texts(source.classes, context.prompts))
    scores = torch.from_numpy(found.values).view(len(found.items), len(source.classes), len(context.prompts))
    return found.items, lambda rows, which: scores[rows][:, :, which].mean(2)


def statistics(table: Table) -> dict[str, Statistic]:
    """The best and the worst prompt are chosen on all items; their intervals do not include that choice."""
    ensemble = table.where(prompt=ENSEMBLE, control="")
    out: dict[str, Statistic] = dict(classification.statistics(table, ensemble))
    names = sorted(set(table["prompt"]) - {ENSEMBLE}, key=lambda name: int(name[1:].split(" ")[0]))
    by_prompt = [table.where(prompt=name, control="") for name in names]
    singles = [mean(classification.right(table, rows), rows) for rows in by_prompt]
    if singles:
        worst, best = (pick(singles, key=lambda s: s.numerators.mean()) for pick in (min, max))
        out |= {
            "single_prompt_top1": singles[0],
            "ensemble_gain": contrast(out["top1"], singles[0]),
            "worst_prompt_top1": worst,
            "best_prompt_top1": best,
            "prompt_spread": contrast(best, worst),
        }
    blind = table.where(control="wrong_image")
    if len(blind):
        out["wrong_image_top1"] = mean(classification.right(table, blind), blind)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("label",)),
    capabilities=((EncodesImages, EncodesText), (ScoresTexts,)),
    run=run,
    statistics=statistics,
    classifies=True,
)
