"""Captioning: the model describes each image, and what it says is compared with what people said.

Records: ``item`` and ``cluster`` are the image; ``output`` the text; ``parsed`` its words; ``truth`` {"captions": the
references}; ``score`` its ROUGE-L; ``status`` rated, unparsed where the text has no word. ``control`` wrong_image: the
description of another image, for a model that says what fits any.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from oculex.contracts import Answers, Source
from oculex.evaluation.caption_scores import Bleu, N, bleu_counts, cider_d, rouge_l, words
from oculex.evaluation.measures import Statistic, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "captioning"
MOST = 64
"""Tokens of a description."""


def run(system: Any, source: Source, context: Context) -> Table:
    found = [
        (item, text) for item, text in context.embedder.answers(source, ("image",), MOST) if item.captions
    ]
    if not found:
        return Table.empty()
    ids = [item.id for item, _ in found]
    shown = {"": np.arange(len(ids))}
    if len(ids) > 1:
        shown["wrong_image"] = wrong_image(ids)
    references = [[words(caption) for caption in item.captions] for item, _ in found]
    tables = []
    for control, which in shown.items():
        texts = [found[n][1] for n in which]
        said = [words(text) for text in texts]
        tables.append(
            Table.of(
                set=context.set,
                task=NAME,
                item=ids,
                cluster=ids,
                model=context.embedder.model,
                prompt="",
                control=control,
                output=texts,
                parsed=[" ".join(each) for each in said],
                truth=[json.dumps({"captions": list(item.captions)}) for item, _ in found],
                score=[rouge_l(each, refs) for each, refs in zip(said, references, strict=True)],
                status=["rated" if each else "unparsed" for each in said],
            )
        )
    return concat(tables)


def statistics(table: Table) -> dict[str, Statistic]:
    """CIDEr-D, BLEU and ROUGE-L over all texts; one without a word counts as 0. CIDEr's weights of words are those of the
    whole set, whatever is resampled."""
    out: dict[str, Statistic] = {}
    for prefix, control in (("", ""), ("wrong_image_", "wrong_image")):
        rows = table.where(control=control)
        if not len(rows):
            continue
        said = [text.split() for text in table["parsed"][rows]]
        references = [[words(c) for c in json.loads(text)["captions"]] for text in table["truth"][rows]]
        out[f"{prefix}cider"] = mean(cider_d(said, references), rows)
        counts = np.array([bleu_counts(*pair) for pair in zip(said, references, strict=True)], float)
        out |= {f"{prefix}bleu{n}": Bleu(rows, counts, n) for n in (1, N)}
        out[f"{prefix}rouge_l"] = mean(table["score"][rows], rows)
    asked = table.where(control="")
    out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("captions", "caption")),
    capabilities=((Answers,),),
    run=run,
    statistics=statistics,
)
