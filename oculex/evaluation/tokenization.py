"""Image tokenizers: how many words an image takes, and how much of its features they give back.

The measure is a tokenizer's of meaning, not of pixels: the mean cosine of the features of all patches and those that the
system decodes from the words alone (LaVIT, Jin et al. 2024, section 3.1, where it is what the tokenizer learns by). What
the mean image has in common with every other one counts, too: the control tells how much that is.

Records: ``item`` and ``cluster`` are the image; ``output`` its words; ``parsed`` how many; ``truth`` empty; ``score`` the
cosine; ``status`` rated. ``control`` wrong_image: the cosine with what another image's words give.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from oculex.contracts import Source, TokenizesImages
from oculex.evaluation.measures import Statistic, contrast, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task

NAME = "tokenization"


def run(system: Any, source: Source, context: Context) -> Table:
    found = context.embedder.tokenized(source)
    if not found.ids:
        return Table.empty()
    words = [row[2:][row[2:] >= 0].astype(int).tolist() for row in found.values]
    tables = []
    for column, control in enumerate(("", "wrong_image")):
        scores = found.values[:, column].astype(float)
        known = np.flatnonzero(np.isfinite(scores))  # an image alone has no other
        tables.append(
            Table.of(
                set=context.set,
                task=NAME,
                item=[found.ids[n] for n in known],
                cluster=[found.ids[n] for n in known],
                model=context.embedder.model,
                prompt="",
                control=control,
                output=[json.dumps(words[n]) for n in known],
                parsed=[str(len(words[n])) for n in known],
                truth="",
                score=scores[known],
                status="rated",
            )
        )
    return concat(tables)


def statistics(table: Table) -> dict[str, Statistic]:
    """``similarity`` of the features and those given back, of which 1 is perfect; ``words`` of an image."""
    own, other = table.where(control=""), table.where(control="wrong_image")
    out: dict[str, Statistic] = {"similarity": mean(table["score"][own], own)}
    if len(other):
        out["wrong_image_similarity"] = mean(table["score"][other], other)
        out["gain_over_wrong_image"] = contrast(out["similarity"], out["wrong_image_similarity"])
    out["words"] = mean(table["parsed"][own].astype(float), own)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",),),
    capabilities=((TokenizesImages,),),
    run=run,
    statistics=statistics,
)
