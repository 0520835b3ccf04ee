"""How well a language model predicts held-out texts: cross-entropy per token.

Records: ``item`` is the text's id (sample id#n), ``cluster`` the sample; ``output`` {"nats": -log p of the text,
"tokens": how many were predicted}; ``truth`` the beginning of the text; ``score`` nats per token; ``status`` rated,
unparsed where the likelihood is not a number.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

import numpy as np

from oculex.contracts import ModelsText, Source
from oculex.evaluation.measures import Ratio, Statistic, mean
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context, Task

NAME = "language"
SHOWN = 80
"""Characters of a text on record."""


def run(system: Any, source: Source, context: Context) -> Table:
    asked = [
        (item.id, f"{item.id}#{n}", text)
        for item in context.embedder.items(source)
        for n, text in enumerate(item.captions)
    ]
    if not asked:
        return Table.empty()
    clusters, items, texts = zip(*asked, strict=True)
    found = [(-float(log_p), int(k)) for log_p, k in context.embedder.likelihoods(texts)]
    known = [isfinite(nats) and k > 0 for nats, k in found]
    return Table.of(
        set=context.set,
        task=NAME,
        item=items,
        cluster=clusters,
        model=context.embedder.model,
        prompt="",
        control="",
        output=[json.dumps({"nats": nats if isfinite(nats) else None, "tokens": k}) for nats, k in found],
        parsed="",
        truth=[text[:SHOWN] for text in texts],
        score=[nats / k if good else 0.0 for (nats, k), good in zip(found, known, strict=True)],
        status=["rated" if good else "unparsed" for good in known],
    )


def statistics(table: Table) -> dict[str, Statistic]:
    """Nats per token over all tokens, not the mean over texts."""
    rated = table.where(status="rated")
    outputs = [json.loads(output) for output in table["output"][rated]]
    nats, tokens = (np.array([each[key] for each in outputs], float) for key in ("nats", "tokens"))
    return {
        "nats_per_token": Ratio(rated, nats, tokens),
        "unparsed": mean((table["status"] == "unparsed").astype(float)),
    }


TASK = Task(
    name=NAME,
    needs=(("captions", "caption"),),
    capabilities=((ModelsText,),),
    run=run,
    statistics=statistics,
)
