"""What a generator finds in scene graphs, and how it is put into words: a short answer or a choice of several.

A generator is a pure function of graphs. It gives ``Fact``s: the words that fill its phrasings, all right answers,
and wrong ones to choose from. Which facts are asked, and how, is drawn afterwards, so that what is asked of rare
things is not drowned by what is asked of common ones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oculex.data.graphs.schema import Graph
from oculex.data.graphs.words import listed

CHOICES = 4
"""Of a question to choose from, as far as there are wrong answers."""


@dataclass(frozen=True)
class Fact:
    words: Mapping[str, Sequence[str]]
    """Fill the phrasings: a text, or several whose order does not matter."""
    answer: tuple[str, ...]
    """All that is right, in short."""
    right: str
    """The one of them that is offered among wrong ones."""
    wrong: tuple[str, ...]
    about: tuple[str, ...]
    """What it is about, as ``Known.counts`` counts it: "object cube", "attribute red", "relation on", "count 3"."""


@dataclass(frozen=True)
class Known:
    """What occurs in all graphs of a source: where wrong answers come from, and what is rare."""

    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By type."""
    relations: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often each thing that a fact is ``about`` occurs."""

    @property
    def all_attributes(self) -> list[str]:
        return [each for words in self.attributes.values() for each in words]


Find = Callable[[Sequence[Graph], np.random.Generator, Known], list[Fact]]
"""Facts of one picture ([graph]), or of several in the order in which they are shown."""


@dataclass(frozen=True)
class Generator:
    name: str
    category: str
    find: Find
    phrasings: tuple[str, ...]
    shares: str = ""
    """What pictures asked about together have in common: a "label", a "pair" of labels that are related, or nothing."""

    @property
    def several(self) -> bool:
        return self.category in SEVERAL


SEVERAL = ("select", "aggregate", "compare")
"""Categories of questions about several pictures."""
GENERATORS: dict[str, Generator] = {}


def generator(name: str, category: str, *patterns: str, shares: str = "") -> Callable[[Any], Any]:
    """Registers a function; one of a single picture takes its graph, one of several the list of theirs."""

    def register(find: Callable[..., list[Fact]]) -> Callable[..., list[Fact]]:
        alone = category not in SEVERAL
        wrapped: Find = (lambda graphs, rng, known: find(graphs[0], rng, known)) if alone else find
        GENERATORS[name] = Generator(name, category, wrapped, phrasings(*patterns), shares)
        return find

    return register


def phrasings(*patterns: str) -> tuple[str, ...]:
    """Every way to read patterns in which [a|b] is either; "[|a]" may be left out."""
    out = []
    for pattern in patterns:
        parts = re.split(r"\[([^\]]*)\]", pattern)
        options = [part.split("|") if n % 2 else [part] for n, part in enumerate(parts)]
        out += [" ".join("".join(words).split()) for words in itertools.product(*options)]
    return tuple(dict.fromkeys(out))


def pick(
    facts: Sequence[Fact], many: int, balance: float, known: Known, rng: np.random.Generator
) -> list[Fact]:
    """Up to ``many`` facts, drawn by one over the mean of their counts to the power ``balance``: rather what is rare."""
    if len(facts) <= many:
        return list(facts)
    times = [[float(known.counts.get(each, 1)) for each in fact.about] or [1.0] for fact in facts]
    weights = np.array([1 / np.mean(np.power(np.maximum(each, 1.0), balance)) for each in times])
    places = rng.choice(len(facts), many, replace=False, p=weights / weights.sum())
    return [facts[place] for place in sorted(places)]


_LEADS = ("", "Choices: ", "Options: ", "Choose from: ", "Pick one: ")
_BREAKS = ("\n", " ")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def asked(made_by: Generator, fact: Fact, choose: bool, rng: np.random.Generator) -> dict[str, str]:
    """{"question", "answer", "kind"}. With ``choose``, and where there is a wrong answer, a choice of lettered ones."""
    phrasing = made_by.phrasings[int(rng.integers(len(made_by.phrasings)))]
    words = {k: v if isinstance(v, str) else listed(v, rng) for k, v in fact.words.items()}
    question = phrasing.format(**words)
    question = question[:1].upper() + question[1:]
    answer = listed(fact.answer, rng)
    if choose and fact.wrong:
        offered = [fact.right, *fact.wrong]
        order = [int(n) for n in rng.permutation(len(offered))]
        mark = "{}. {}" if rng.random() < 0.5 else "({}) {}"
        options = [mark.format(_LETTERS[place], offered[n]) for place, n in enumerate(order)]
        lead = _BREAKS[int(rng.integers(2))] + _LEADS[int(rng.integers(len(_LEADS)))]
        question, answer = question + lead + ", ".join(options), options[order.index(0)]
    return {"question": question, "answer": answer, "kind": made_by.name}


def some(
    words: Sequence[str], rng: np.random.Generator, most: int = CHOICES - 1, but: Sequence[str] = ()
) -> tuple[str, ...]:
    """Up to ``most`` of the words, each once, none of ``but``."""
    left = [word for word in dict.fromkeys(words) if word not in but]
    if len(left) <= most:
        return tuple(left)
    return tuple(left[n] for n in rng.choice(len(left), most, replace=False))


def one_of(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]
