"""Questions about images: visual question answering, and whether objects are there that are not (POPE).

An answer is right where, as VQA compares them, it equals the right one: lower case, no punctuation, no articles, number
words as digits. Where several people answered, it is right by the share of three of them who gave it, on average over
leaving out each of them (VQA's evaluation). A question whose right answer is yes or no has to be answered by a text that
begins with one of them, else it is unparsed; of any other question only an answer without a word is unparsed.

Records: ``item`` is the question (image id#n), ``cluster`` the image; ``prompt`` the question's kind; ``output`` the
text; ``parsed`` the answer; ``truth`` the right one, of several people's the most frequent; ``score`` how far it is
right; ``status`` right where it equals ``truth``. ``control`` wrong_image: asked about another image; no_image: asked
about none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from oculex.contracts import Answers, Sample, Source
from oculex.evaluation.measures import Ratio, Statistic, contrast, mean
from oculex.evaluation.reader import Whole, digest_of
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image

MOST = 16
"""Tokens of an answer."""
EXISTENCE = ("exist", "random", "popular", "adversarial")
"""Kinds of questions after one object: the world's, and POPE's three ways to choose what is not there."""
NUMBERS = {word: str(n) for n, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
)}  # fmt: skip
NUMBERS["none"] = "0"
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Asked:
    """One question: ``index`` is its image's in the source."""

    item: str
    image: str
    index: int
    question: str
    answer: str
    kind: str
    people: tuple[str, ...] = ()
    """Answers of several people."""

    def score(self, parsed: str) -> float:
        if not parsed or not self.people:
            return float(bool(parsed) and parsed == normal(self.answer))
        given = [normal(each) for each in self.people]
        return float(np.mean([min(1.0, (given.count(parsed) - (each == parsed)) / 3) for each in given]))


class Questions(Whole):
    """A source's questions as samples: an image and a ``question``; ``shown`` are the images' indices."""

    classes: tuple[str, ...] = ()

    def __init__(self, source: Source, asked: Sequence[Asked], shown: Sequence[int]) -> None:
        self.name, self.source, self.asked, self.shown = source.name, source, asked, shown

    def fingerprint(self) -> str:
        return digest_of([self.source.fingerprint(), [vars(each) for each in self.asked], list(self.shown)])

    def __len__(self) -> int:
        return len(self.asked)

    def __getitem__(self, index: int, /) -> Sample:
        asked = self.asked[index]
        image = self.source[self.shown[index]]["image"]
        return {"id": asked.item, "image": image, "question": asked.question}


def normal(text: str) -> str:
    """An answer as it is compared."""
    found = re.findall(r"[^\W_]+", text.lower())
    return " ".join(NUMBERS.get(word, word) for word in found if word not in ("a", "an", "the"))


def parse(text: str, truth: str) -> str:
    """The answer read off a text; empty where there is none."""
    answer = normal(text)
    if truth in YES_NO:
        first = answer.partition(" ")[0]
        return first if first in YES_NO else ""
    return answer


def run(wanted: Callable[[str], bool], name: str, system: Any, source: Source, context: Context) -> Table:
    embedder = context.embedder
    asked = [
        Asked(
            item=f"{sample['id']}#{n}",
            image=str(sample["id"]),
            index=index,
            question=each["question"],
            answer=each["answer"],
            kind=each["kind"],
            people=tuple(each.get("answers", ())),
        )
        for index, sample in embedder.readable(source)
        if sample.get("image") is not None
        for n, each in enumerate(sample.get("questions") or ())
        if wanted(each["kind"])
    ]
    if not asked:
        return Table.empty()
    images = {each.image: each.index for each in asked}
    controls = {"": images}
    if len(images) > 1:
        order, at = wrong_image(list(images)), list(images.values())
        controls["wrong_image"] = {name: at[order[n]] for n, name in enumerate(images)}
    texts = {
        control: dict(_texts(Questions(source, asked, [which[a.image] for a in asked]), embedder, True))
        for control, which in controls.items()
    }
    plain = Questions(source, asked, [a.index for a in asked])
    texts["no_image"] = dict(_texts(plain, embedder, False))
    return concat([_records(asked, said, control, name, context) for control, said in texts.items()])


def _texts(questions: Questions, embedder: Any, image: bool) -> list[tuple[str, str]]:
    keys = ("image", "question") if image else ("question",)
    return [(item.id, text) for item, text in embedder.answers(questions, keys, MOST)]


def _records(
    asked: Sequence[Asked], said: dict[str, str], control: str, name: str, context: Context
) -> Table:
    rows = [each for each in asked if each.item in said]
    truths = [normal(each.answer) for each in rows]
    parsed = [parse(said[each.item], truth) for each, truth in zip(rows, truths, strict=True)]
    status = [
        "unparsed" if not answer else "right" if answer == truth else "wrong"
        for answer, truth in zip(parsed, truths, strict=True)
    ]
    return Table.of(
        set=context.set,
        task=name,
        item=[each.item for each in rows],
        cluster=[each.image for each in rows],
        model=context.embedder.model,
        prompt=[each.kind for each in rows],
        control=control,
        output=[said[each.item] for each in rows],
        parsed=parsed,
        truth=truths,
        score=[each.score(answer) for each, answer in zip(rows, parsed, strict=True)],
        status=status,
    )


def _accuracy(table: Table, rows: np.ndarray) -> Ratio:
    """Mean score of all answers; one that cannot be parsed has none."""
    return mean(table["score"][rows], rows)


def statistics(table: Table) -> dict[str, Statistic]:
    """Accuracy, what it loses without the right image, and accuracy by kind."""
    asked = table.where(control="")
    out: dict[str, Statistic] = {"accuracy": _accuracy(table, asked)}
    for control in ("wrong_image", "no_image"):
        rows = table.where(control=control)
        if len(rows):
            out[f"{control}_accuracy"] = _accuracy(table, rows)
            out[f"gain_over_{control}"] = contrast(out["accuracy"], out[f"{control}_accuracy"])
    for kind in sorted(set(table["prompt"])):
        out[f"{kind}_accuracy"] = _accuracy(table, table.where(control="", prompt=kind))
    out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


def existence_statistics(table: Table) -> dict[str, Statistic]:
    """As ``statistics``, with POPE's precision, recall, F1 and share of yes (Li et al. 2023, section 5.1), "yes" being
    the positive answer; an answer that cannot be parsed is neither."""
    out = statistics(table)
    rows = table.where(control="")
    said, there = table["parsed"][rows] == "yes", table["truth"][rows] == "yes"
    both = (said & there).astype(float)
    out["precision"] = Ratio(rows, both, said.astype(float))
    out["recall"] = Ratio(rows, both, there.astype(float))
    out["f1"] = Ratio(rows, 2 * both, said.astype(float) + there)
    out["yes"] = mean(said, rows)
    return out


VQA = Task(
    name="vqa",
    needs=(("image",), ("questions",)),
    capabilities=((Answers,),),
    run=partial(run, lambda kind: kind not in EXISTENCE, "vqa"),
    statistics=statistics,
)
POPE = Task(
    name="pope",
    needs=(("image",), ("questions",)),
    capabilities=((Answers,),),
    run=partial(run, lambda kind: kind in EXISTENCE, "pope"),
    statistics=existence_statistics,
)
