"""Captioning: the model describes each image, and what it says is compared with what people said.

Records: ``item`` and ``cluster`` are the image; ``output`` the text; ``parsed`` its words; ``truth`` {"captions": the
references, "name": its class where that is known}; ``score`` its ROUGE-L; ``status`` rated, unparsed where the text has
no word. ``control`` wrong_image: the description of another image, for a model that says what fits any.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from oculex.contracts import Answers, Source
from oculex.evaluation.cache import Item
from oculex.evaluation.caption_scores import (
    Bleu,
    N,
    bleu_counts,
    breaks_off,
    cider_d,
    repeats,
    rouge_l,
    words,
)
from oculex.evaluation.measures import Statistic, contrast, mean
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
    truths = [json.dumps({"captions": list(item.captions)} | _name(item, source)) for item, _ in found]
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
                truth=truths,
                score=[rouge_l(each, refs) for each, refs in zip(said, references, strict=True)],
                status=["rated" if each else "unparsed" for each in said],
            )
        )
    return concat(tables)


def _name(item: Item, source: Source) -> dict[str, str]:
    return {} if item.label is None or not source.classes else {"name": source.classes[item.label]}


def statistics(table: Table) -> dict[str, Statistic]:
    """CIDEr-D, BLEU and ROUGE-L over all texts; one without a word counts as 0. CIDEr's weights of words are those of the
    whole set, whatever is resampled.

    ``gain_over_wrong_image`` is in CIDEr-D. ``named``: texts that hold every word of the image's class, where classes are
    known ("a small red rubber ball" names "red ball"). ``whole``: texts that neither break off nor repeat themselves,
    where people's captions are sentences with an end; ``whole_and_named``: those of them that name their image's class,
    for whole texts are also said by who sees nothing.
    """
    out: dict[str, Statistic] = {}
    for prefix, control in (("", ""), ("wrong_image_", "wrong_image")):
        rows = table.where(control=control)
        if not len(rows):
            continue
        said = [text.split() for text in table["parsed"][rows]]
        truths = [json.loads(text) for text in table["truth"][rows]]
        references = [[words(caption) for caption in truth["captions"]] for truth in truths]
        out[f"{prefix}cider"] = mean(cider_d(said, references), rows)
        counts = np.array([bleu_counts(*pair) for pair in zip(said, references, strict=True)], float)
        out |= {f"{prefix}bleu{n}": Bleu(rows, counts, n) for n in (1, N)}
        out[f"{prefix}rouge_l"] = mean(table["score"][rows], rows)
        known, right = _named(truths, said)
        if known.any():
            out[f"{prefix}named"] = mean(right[known], rows[known])
    if "wrong_image_cider" in out:
        out["gain_over_wrong_image"] = contrast(out["cider"], out["wrong_image_cider"])
    asked = table.where(control="")
    truths = [json.loads(text) for text in table["truth"][asked]]
    again = np.array([repeats(text) for text in table["output"][asked]])
    if _sentences(truths):
        broken = np.array([breaks_off(text) for text in table["output"][asked]])
        whole = ~(broken | again)
        out["whole"], out["broken_off"] = mean(whole, asked), mean(broken, asked)
        known, right = _named(truths, [text.split() for text in table["parsed"][asked]])
        if known.any():
            out["whole_and_named"] = mean((whole & right)[known], asked[known])
    out["repetitive"] = mean(again, asked)
    out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


def _sentences(truths: list[dict[str, Any]]) -> bool:
    """Whether most of people's captions have an end that a text could lack."""
    ends = [not breaks_off(caption) for truth in truths for caption in truth["captions"]]
    return bool(ends) and float(np.mean(ends)) >= 0.5


def _named(truths: list[dict[str, Any]], said: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """[n], [n]: whether an image's class is known, and whether the text has every word of it."""
    known = np.array(["name" in truth for truth in truths], bool)
    right = [set(words(t.get("name", ""))) <= set(text) for t, text in zip(truths, said, strict=True)]
    return known, np.array(right, bool)


TASK = Task(
    name=NAME,
    needs=(("image",), ("captions", "caption")),
    capabilities=((Answers,),),
    run=run,
    statistics=statistics,
)
