"""Images found by an image: the others of its class, by the cosine of the features that are also probed.

Every image of the set asks, all others are searched. Of a query with R others of its class, the average precision at R
is the mean over the first R places of the precision there, wrong places counting 0 (Musgrave, Belongie and Lim, A Metric
Learning Reality Check, ECCV 2020, section 3.2). Average precision over the whole order, and the inverse rank of the
first right one, are what Battle of the Backbones reports (its compute_map: areas of trapezoids, as the benchmarks of
revisited Oxford and Paris have it). A query whose class has no other image is left out. Images of equal similarity are
ordered against the model.

Records: ``item`` and ``cluster`` are the query; ``output`` {"top": the ten best, "ap", "rr": the two further scores,
"of": how many are searched, "right": R}; ``truth`` the class; ``score`` the average precision at R; ``status`` rated.
``control`` wrong_image: the same, the query's features replaced by those of another image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from oculex.contracts import RepresentsImages, Source
from oculex.evaluation import classification
from oculex.evaluation.measures import Statistic, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "image_retrieval"
TOP = 10
CELLS = 1 << 24
"""Similarities held at a time."""


def run(system: Any, source: Source, context: Context) -> Table:
    found = context.embedder.represent(source)
    if not found.items:
        return Table.empty()
    truth = classification.labels(found.items, source)
    features = normalize(torch.from_numpy(found.values).to(context.embedder.device), dim=1)
    others = np.bincount(truth.numpy(), minlength=len(source.classes))[truth.numpy()] - 1
    asked = np.flatnonzero(others > 0)
    shown = {"": np.arange(len(truth))}
    if len(truth) > 1:
        shown["wrong_image"] = wrong_image(found.ids)
    return concat(
        [
            _records(
                found.ids, truth, features[torch.from_numpy(which)], features, asked, source, context, control
            )
            for control, which in shown.items()
        ]
    )


def _records(
    ids: Sequence[str],
    truth: Tensor,
    queries: Tensor,
    searched: Tensor,
    asked: np.ndarray,
    source: Source,
    context: Context,
    control: str,
) -> Table:
    outputs, scores = list[str](), list[float]()
    step = max(1, CELLS // max(1, len(searched)))
    for start in range(0, len(asked), step):
        rows = asked[start : start + step]
        similar = (queries[torch.from_numpy(rows)] @ searched.T).float().cpu().numpy()
        for row, own in zip(rows, similar, strict=True):
            others = np.delete(np.arange(len(ids)), row)
            right = truth.numpy()[others] == int(truth[row])
            order = np.lexsort((right, -own[others]))  # of equal ones the wrong come first
            places = np.flatnonzero(right[order])
            at_r, ap, rr = scored(places)
            top = [ids[others[n]] for n in order[:TOP]]
            told = {
                "top": top,
                "ap": round(ap, 6),
                "rr": round(rr, 6),
                "of": len(others),
                "right": len(places),
            }
            outputs.append(json.dumps(told))
            scores.append(at_r)
    return Table.of(
        set=context.set,
        task=NAME,
        item=[ids[row] for row in asked],
        cluster=[ids[row] for row in asked],
        model=context.embedder.model,
        prompt="",
        control=control,
        output=outputs,
        parsed="",
        truth=[source.classes[int(truth[row])] for row in asked],
        score=scores,
        status="rated",
    )


def scored(places: np.ndarray) -> tuple[float, float, float]:
    """Average precision at R, average precision by trapezoids, and reciprocal rank, of the R right images' ``places``
    in the order, counted from 0 and rising."""
    found = np.arange(len(places))
    precision = (found + 1) / (places + 1)
    before = np.divide(found, places, out=np.ones(len(places)), where=places > 0)
    inside = places < len(places)
    return (
        float(precision[inside].sum() / len(places)),
        float((precision + before).mean() / 2),
        1 / (1 + places[0]),
    )


def statistics(table: Table) -> dict[str, Statistic]:
    """map_at_r, map and mrr; map_at_r of a query of which another image's features ask."""
    rows, blind = table.where(control=""), table.where(control="wrong_image")
    told = [json.loads(text) for text in table["output"][rows]]
    out: dict[str, Statistic] = {
        "map_at_r": mean(table["score"][rows], rows),
        "map": mean(np.array([each["ap"] for each in told]), rows),
        "mrr": mean(np.array([each["rr"] for each in told]), rows),
    }
    if len(blind):
        out["wrong_image_map_at_r"] = mean(table["score"][blind], blind)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("label",)),
    capabilities=((RepresentsImages,),),
    run=run,
    statistics=statistics,
    classifies=True,
)
