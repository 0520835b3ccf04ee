"""Linear probe on image features (Radford et al., CLIP, 2021, appendix A.3).

Logistic regression by L-BFGS, at most 1,000 iterations, no augmentation. The L2 strength is chosen on a
validation split of the training part among 96 logarithmic steps between 1e-6 and 1e6 by a parametric search:
seven values two decades apart, then around the best one with half the spacing, until there are 8 steps a
decade. The probe is then fitted on the whole training part.

minimised: 1/2 |W|^2 + C sum_i cross entropy(x_i W^T + b, y_i); the intercept b is not penalised, as in
scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from oculex.contracts import RepresentsImages, Source
from oculex.evaluation import classification
from oculex.evaluation.measures import Statistic
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context, Task

NAME = "probe"
ITERATIONS = 1000
STEPS, PER_DECADE, LOWEST = 96, 8, -6
FIRST = 16
"""Spacing of the first values of the sweep, in steps: two decades."""
VALIDATION = 5
"""One in so many samples of each class validates."""


@dataclass(frozen=True)
class Linear:
    weight: Tensor
    """[classes, F]."""
    bias: Tensor
    """[classes]."""

    def __call__(self, features: Tensor) -> Tensor:
        return linear(features, self.weight, self.bias)


def fit(
    features: Tensor, labels: Tensor, classes: int, strength: float, start: Linear | None = None
) -> Linear:
    """The probe for features [n, F], labels [n] and C = ``strength``."""
    start = start or Linear(features.new_zeros(classes, features.shape[1]), features.new_zeros(classes))
    weight, bias = (tensor.clone().requires_grad_() for tensor in (start.weight, start.bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        max_eval=ITERATIONS * 5 // 4,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(linear(features, weight, bias), labels)
        loss = loss + weight.square().sum() / (2 * strength * len(features))
        loss.backward()
        return loss.item()

    with torch.inference_mode(False), torch.enable_grad():
        optimizer.step(objective)
    return Linear(weight.detach(), bias.detach())


def strength(step: int) -> float:
    """C at a step of the sweep, 0..96."""
    return 10.0 ** (LOWEST + step / PER_DECADE)


def search(accuracy: Callable[[int], float]) -> int:
    """The step with the best accuracy by the paper's search; of equal ones the stronger regularisation."""
    spacing = FIRST
    tried: dict[int, float] = {}
    asked = list(range(0, STEPS + 1, spacing))
    while True:
        tried |= {step: accuracy(step) for step in asked if step not in tried}
        peak = max(sorted(tried), key=tried.__getitem__)
        if spacing == 1:
            return peak
        spacing //= 2
        asked = [step for step in (peak - spacing, peak + spacing) if 0 <= step <= STEPS]


def split(labels: Tensor) -> Tensor:
    """True for the samples that validate: a fixed one in five of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    chosen = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for label in labels.unique():
        chosen[order[labels[order] == label][VALIDATION - 1 :: VALIDATION]] = True
    return chosen


def run(system: Any, source: Source, context: Context) -> Table:
    parts = classification.labelled(source, context)
    if parts is None:
        return Table.empty()
    test, train = parts
    classes, held = len(source.classes), split(train.labels)
    latest: Linear | None = None

    def accuracy(step: int) -> float:
        nonlocal latest
        latest = fit(train.features[~held], train.labels[~held], classes, strength(step), start=latest)
        return float((latest(train.features[held]).argmax(1) == train.labels[held]).double().mean())

    best = strength(search(accuracy))
    probe = fit(train.features, train.labels, classes, best, start=latest)
    scores = probe(test.features)
    return classification.answers(
        scores, test.items, test.labels, source.classes, context, NAME, extra={"C": best}
    )


def statistics(table: Table) -> dict[str, Statistic]:
    return classification.statistics(table, table.where(control=""))


TASK = Task(
    name=NAME,
    needs=(("image",), ("label",)),
    capabilities=((RepresentsImages,),),
    run=run,
    statistics=statistics,
    trains=True,
    classifies=True,
)
