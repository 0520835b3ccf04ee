"""Whether a text is told from the same words put together wrongly: ARO, SugarCrepe, and orders of a caption's words.

``compositional`` asks what samples bring along as ``alternatives``: a true text, false ones, a kind, and a group of the
kind (ARO, Yuksekgonul et al. 2023, section 2.2: relations, pairs of attributes). ``order`` asks of each caption whether
it is told from other orders of its words (section 2.3; ``oculex.data.swaps``), which are the same for every model.

An image answers with the text that fits it best. A tie is no answer that is right, also where the authors' code lets the
first of the tied win, which for orders is the true one. An order that reads like the caption itself is never asked.

Records: ``item`` is the image's id and a number, ``cluster`` the picture (that a benchmark cuts several images from),
``prompt`` the kind; ``output`` the scores; ``parsed`` the text chosen, empty where the best are tied; ``truth`` the true
text, the number of texts and the group; ``score`` by how much the true text leads; ``status`` unparsed where a score is
not a number. ``control`` wrong_image: the same question about another image, what the answers are worth without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from oculex.contracts import EncodesImages, EncodesText, Sample, ScoresTexts, Source
from oculex.data import swaps
from oculex.data.order import keyed
from oculex.data.views import captions
from oculex.evaluation.measures import Statistic, group_mean, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image


@dataclass(frozen=True)
class Question:
    image: str
    """Id of the sample."""
    picture: str
    kind: str
    group: str
    texts: tuple[str, ...]
    """The true one first."""


Ask = Callable[[Sample], Iterable[Question]]
Scores = Callable[[Sequence[str]], list[np.ndarray | None]]
"""Id of the image that each question is asked about -> scores of its texts; None where the image cannot be read."""


def brought(sample: Sample) -> Iterator[Question]:
    for each in sample["alternatives"]:
        picture = each.get("picture", sample["id"])
        texts = (each["true"], *each["false"])
        yield Question(sample["id"], picture, each["kind"], each.get("group", ""), texts)


def _orders(sample: Sample) -> Iterator[Question]:
    for text in map(swaps.plain, captions(sample)):
        rng = keyed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
        others = swaps.orders(text, rng)
        if others:
            yield Question(sample["id"], sample["id"], "order", "", (text, *dict.fromkeys(others.values())))


def run(name: str, ask: Ask, system: Any, source: Source, context: Context) -> Table:
    samples = context.embedder.samples(source)
    asked = [question for sample in samples if "image" in sample for question in ask(sample)]
    dual = isinstance(system, EncodesImages) and isinstance(system, EncodesText)
    return answered(name, asked, _embedded if dual else paired, source, context)


def answered(
    name: str,
    asked: Sequence[Question],
    by: Callable[[Sequence[Question], Source, Context], Scores],
    source: Source,
    context: Context,
) -> Table:
    """The records of a task's questions, as ``by`` scores them, each also about another image."""
    if not asked:
        return Table.empty()
    scores = by(asked, source, context)
    images = list(dict.fromkeys(question.image for question in asked))
    shown = {"": {image: image for image in images}}
    if len(images) > 1:
        others = wrong_image(images)
        shown["wrong_image"] = {image: images[other] for image, other in zip(images, others, strict=True)}
    return concat(
        [
            _records(name, asked, scores([seen[question.image] for question in asked]), context, control)
            for control, seen in shown.items()
        ]
    )


def _embedded(asked: Sequence[Question], source: Source, context: Context) -> Scores:
    found = context.embedder.images(source)
    image = dict(zip(found.ids, found.values, strict=True))
    texts = list(dict.fromkeys(text for question in asked for text in question.texts))
    text = dict(zip(texts, context.embedder.texts(texts), strict=True))
    rows = [np.stack([text[each] for each in question.texts]) for question in asked]
    return lambda images: [
        own @ image[name] if name in image else None for own, name in zip(rows, images, strict=True)
    ]


def paired(
    asked: Sequence[Question], source: Source, context: Context, capability: str = "score_texts"
) -> Scores:
    """Each image is scored against the texts of the questions about it alone."""

    def scores(images: Sequence[str]) -> list[np.ndarray | None]:
        texts: dict[str, list[str]] = {}
        spans = []
        for question, image in zip(asked, images, strict=True):
            own = texts.setdefault(image, [])
            spans.append((image, len(own), len(own) + len(question.texts)))
            own += question.texts
        found = context.embedder.own_scores(source, texts, capability)
        row = dict(zip(found.ids, found.values, strict=True))
        return [row[image][start:stop] if image in row else None for image, start, stop in spans]

    return scores


def _records(
    name: str,
    asked: Sequence[Question],
    scores: Sequence[np.ndarray | None],
    context: Context,
    control: str,
) -> Table:
    answers = [_answer(own) for own in scores if own is not None]
    number: dict[str, int] = {}
    items = []
    for question in asked:
        number[question.image] = number.get(question.image, -1) + 1
        items.append(f"{question.image}#{number[question.image]}")
    seen = [n for n, own in enumerate(scores) if own is not None]
    questions = [asked[n] for n in seen]
    return Table.of(
        set=context.set,
        task=name,
        item=[items[n] for n in seen],
        cluster=[question.picture for question in questions],
        model=context.embedder.model,
        prompt=[question.kind for question in questions],
        control=control,
        output=[answer.output for answer in answers],
        parsed=[
            "" if answer.chosen is None else question.texts[answer.chosen]
            for question, answer in zip(questions, answers, strict=True)
        ],
        truth=[
            json.dumps({"text": q.texts[0], "of": len(q.texts), "group": q.group}, ensure_ascii=False)
            for q in questions
        ],
        score=[answer.lead for answer in answers],
        status=[answer.status for answer in answers],
    )


class _Answer(NamedTuple):
    output: str
    chosen: int | None
    lead: float
    status: str


def _answer(scores: np.ndarray) -> _Answer:
    """What is read off the scores of a question's texts, of which the first is the true one."""
    known = np.isfinite(scores)
    output = json.dumps([float(f"{x:.6g}") if k else None for x, k in zip(scores, known, strict=True)])
    if not known.all():
        return _Answer(output, None, 0.0, "unparsed")
    best = np.flatnonzero(scores == scores.max())
    lead = float(scores[0] - scores[1:].max())
    return _Answer(output, int(best[0]) if len(best) == 1 else None, lead, "right" if lead > 0 else "wrong")


def statistics(table: Table) -> dict[str, Statistic]:
    """For each kind the share answered right, the mean of its groups' shares where it has groups (ARO's headline), what
    chance would answer, and what the same texts earn beside another image."""
    out: dict[str, Statistic] = {}
    for kind in dict.fromkeys(table["prompt"]):
        rows = table.where(prompt=kind, control="")
        right = (table["status"][rows] == "right").astype(float)
        truths = [json.loads(truth) for truth in table["truth"][rows]]
        groups = np.array([truth["group"] for truth in truths], object)
        out[kind] = mean(right, rows)
        counted = groups != ""
        if counted.any():
            out[f"{kind}_macro"] = group_mean(right[counted], groups[counted], rows[counted])
        out[f"{kind}_chance"] = mean(np.array([1 / truth["of"] for truth in truths]), rows)
        blind = table.where(prompt=kind, control="wrong_image")
        if len(blind):
            out[f"{kind}_wrong_image"] = mean((table["status"][blind] == "right").astype(float), blind)
    asked = table.where(control="")
    out["unparsed"] = mean((table["status"][asked] == "unparsed").astype(float), asked)
    return out


_CAPABILITIES = ((EncodesImages, EncodesText), (ScoresTexts,))
TASK = Task(
    name="compositional",
    needs=(("image",), ("alternatives",)),
    capabilities=_CAPABILITIES,
    run=partial(run, "compositional", brought),
    statistics=statistics,
)
ORDER = Task(
    name="order",
    needs=(("image",), ("captions", "caption")),
    capabilities=_CAPABILITIES,
    run=partial(run, "order", _orders),
    statistics=statistics,
    package="HanTa",
)
