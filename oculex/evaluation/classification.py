"""Records and metrics shared by all tasks that choose one of several classes.

Records: ``output`` {"top": [[class, score], ...] with the five best, "of": how many classes there are}; ``parsed``
the best class; ``truth`` the class name; ``score`` the rank of the truth, from 1, ties counted against it; ``status``
unparsed where no single class is best (a tie at the top, or scores that are not numbers).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from oculex.contracts import Source, UserError
from oculex.evaluation.cache import Item
from oculex.evaluation.measures import Statistic, codes, group_mean, mean
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context

TOP = 5


def labels(items: Sequence[Item], source: Source) -> Tensor:
    """Class indices [n]; raises ``UserError`` for a sample without one or with one out of range."""
    for item in items:
        if item.label is None or not 0 <= item.label < len(source.classes):
            raise UserError(
                f"{source.name}: sample {item.id} has label {item.label}, not 0..{len(source.classes) - 1}"
            )
    return torch.tensor([item.label for item in items], dtype=torch.long)


@dataclass(frozen=True)
class Labelled:
    """Features [n, F] with class indices [n], on the device."""

    items: tuple[Item, ...]
    features: Tensor
    labels: Tensor


def labelled(source: Source, context: Context) -> tuple[Labelled, Labelled] | None:
    """(test, training part) for a probe; None where one of them has no readable sample."""
    if context.train is None or context.train.classes != source.classes:
        raise UserError(f"{context.set}: the training part names other classes than the test part")
    parts = []
    for each in (source, context.train):
        found = context.embedder.represent(each)
        device = context.embedder.device
        truth = labels(found.items, each).to(device)
        parts.append(Labelled(found.items, torch.from_numpy(found.values).to(device), truth))
    return (parts[0], parts[1]) if all(part.items for part in parts) else None


def answers(
    scores: Tensor,
    items: Sequence[Item],
    truth: Tensor,
    classes: Sequence[str],
    context: Context,
    task: str,
    *,
    prompt: str = "",
    control: str = "",
    extra: Mapping[str, float] | None = None,
) -> Table:
    """Records from scores [n, classes] and class indices [n]; ``extra`` numbers go into the raw output."""
    unknown = scores.isnan()
    scores = scores.float().masked_fill(unknown, -torch.inf)
    ranks = (scores >= scores.gather(1, truth.to(scores.device)[:, None])).sum(1).cpu().numpy()
    best = scores.topk(min(TOP, scores.shape[1]), dim=1)
    silent = (((scores == best.values[:, :1]).sum(1) > 1) | unknown.all(1)).cpu().numpy()
    tops, values = best.indices.tolist(), best.values.tolist()
    output = [
        json.dumps(
            {
                "top": [[classes[c], float(f"{s:.6g}")] for c, s in zip(*row, strict=True)],
                "of": len(classes),
                **(extra or {}),
            }
        )
        for row in zip(tops, values, strict=True)
    ]
    ids = [item.id for item in items]
    return Table.of(
        set=context.set,
        task=task,
        item=ids,
        cluster=ids,
        model=context.embedder.model,
        prompt=prompt,
        control=control,
        output=output,
        parsed=["" if no else classes[top[0]] for no, top in zip(silent, tops, strict=True)],
        truth=[classes[c] for c in truth.tolist()],
        score=ranks.astype(float),
        status=list(np.where(silent, "unparsed", np.where(ranks == 1, "right", "wrong"))),
    )


def right(table: Table, rows: np.ndarray) -> np.ndarray:
    return (table["status"][rows] == "right").astype(float)


def statistics(table: Table, rows: np.ndarray) -> dict[str, Statistic]:
    """top1, top5, mean_per_class, the share without an answer, and top1 by chance, over some rows."""
    of = np.array([json.loads(output)["of"] for output in table["output"][rows]], float)
    return {
        "top1": mean(right(table, rows), rows),
        "top5": mean((table["score"][rows] <= TOP).astype(float), rows),
        "mean_per_class": group_mean(right(table, rows), table["truth"][rows], rows),
        "unparsed": mean((table["status"][rows] == "unparsed").astype(float), rows),
        "chance_top1": mean(1 / of, rows),
    }


def confusion(table: Table) -> tuple[list[str], np.ndarray]:
    """(classes, counts [truth, answer]) of one task and prompt; items without an answer count under ""."""
    n = len(table)
    both, m = codes(np.concatenate([table["truth"], table["parsed"]]))
    names = sorted({*table["truth"], *table["parsed"]})
    return names, np.bincount(both[:n] * m + both[n:], minlength=m * m).reshape(m, m)
