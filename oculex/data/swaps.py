"""English captions whose words changed places: hard negatives, and other orders of the same words.

A caption that is told from these cannot be read as a bag of words (Yuksekgonul et al., When and why vision-language
models behave like bags-of-words, and what to do about it?, ICLR 2023, sections 2 and 4). The kinds of words come from
HanTa, a trained tagger whose English model is part of its package (Wartena, The Hanover Tagger, 2023).

Words change places in the text as it stands, so spaces and punctuation stay where they were. The authors join tokens by
spaces, by which their altered captions can be recognised: "a tub , sink , mirror" beside "a tub, sink, mirror".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np

from oculex.contracts import UserError

MOST_WORDS = 30
"""Words of a caption that an order of words is made of; further ones are cut off, as the authors do."""
_DRAWS = 32
"""Other orders are drawn so often until one reads differently, which at least every second does if any can."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_KINDS = {
    "NN0": "noun", "NN1": "noun", "NN2": "noun", "NP0": "noun", "AJ0": "adjective", "AJC": "adjective",
    "AJS": "adjective", "AV0": "adverb", "VVB": "verb", "VVD": "verb", "VVG": "verb", "VVI": "verb", "VVN": "verb",
    "VVZ": "verb", "AT0": "determiner", "DT0": "determiner", "DPS": "determiner", "CRD": "determiner",
}  # fmt: skip
"""Of the tags of the British National Corpus (C5), those that are moved or begin a noun phrase."""


class Word(NamedTuple):
    start: int
    stop: int
    kind: str
    """noun, adjective, adverb, verb, determiner, or empty."""


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        from HanTa import HanoverTagger
    except ImportError as error:
        raise UserError("kinds of words need HanTa; pip install 'oculex[text]'") from error
    return HanoverTagger.HanoverTagger("morphmodel_en.pgz")


@lru_cache(maxsize=1 << 16)  # a caption is met once an epoch, and tagging takes half a millisecond
def tagged(text: str) -> tuple[Word, ...]:
    """The words and punctuation marks of an English text. Raises UserError where the tagger is not installed."""
    spans = [match.span() for match in _WORD.finditer(text)]
    tags = _tagger().tag_sent([text[start:stop] for start, stop in spans]) if spans else []
    return tuple(
        Word(start, stop, _KINDS.get(tag, "")) for (start, stop), (*_, tag) in zip(spans, tags, strict=True)
    )


# ------------------------------------------------------------------------------------------ hard negatives

Span = tuple[int, int]
"""First character and past the last."""


def negatives(text: str, rng: np.random.Generator) -> list[str]:
    """The text with two of its words exchanged, once for each kind that it has two different ones of: nouns,
    adjectives, adverbs, verbs, noun phrases (section 4). None twice; empty where nothing can be exchanged.
    """
    words = tagged(text)
    kinds: dict[str, list[Span]] = {kind: [] for kind in ("noun", "adjective", "adverb", "verb")}
    for word in words:
        if word.kind in kinds:
            kinds[word.kind].append((word.start, word.stop))
    found: dict[str, None] = {}
    for spans in (*kinds.values(), _noun_phrases(words)):
        pairs = [(a, b) for a, b in combinations(spans, 2) if _lower(text, a) != _lower(text, b)]
        if pairs:
            a, b = pairs[int(rng.integers(len(pairs)))]
            found[text[: a[0]] + text[slice(*b)] + text[a[1] : b[0]] + text[slice(*a)] + text[b[1] :]] = None
    return list(found)


def _lower(text: str, span: Span) -> str:
    return text[slice(*span)].lower()


def _noun_phrases(words: Sequence[Word]) -> list[Span]:
    """Determiners, then adjectives and nouns, the last of them a noun: "a little girl", "two cows"."""
    phrases, begun = [], None
    for n, word in enumerate(words):
        inside = word.kind in ("determiner", "adjective", "noun")
        after = words[n - 1].kind if begun is not None else ""
        if not inside:
            begun = None
        elif begun is None or (word.kind == "determiner" and after != "determiner"):
            begun = word.start
        follows = words[n + 1].kind if n + 1 < len(words) else ""
        if begun is not None and word.kind == "noun" and follows not in ("adjective", "noun"):
            phrases.append((begun, word.stop))
            begun = None
    return phrases


# ------------------------------------------------------------------------------------------- orders of words

Draw = Callable[[Sequence[Word], np.random.Generator], list[int]]
"""Words -> which word stands at each word's place."""


def orders(text: str, rng: np.random.Generator) -> dict[str, str]:
    """The text (``plain``) in each other order of ``ORDERS`` that its words can be brought into (section 2.3)."""
    words = [word for word in tagged(text) if text[word.start].isalnum()]
    found = {}
    for name, draw in ORDERS.items():
        drawn = (_placed(text, words, draw(words, rng)) for _ in range(_DRAWS))
        other = next((each for each in drawn if each != text), None)
        if other is not None:
            found[name] = other
    return found


def plain(text: str) -> str:
    """Lower case without the punctuation that the authors leave out, at most ``MOST_WORDS`` words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", text.lower()).split()[:MOST_WORDS])


def _placed(text: str, words: Sequence[Word], order: Sequence[int]) -> str:
    """``words[order[n]]`` at the place of the n-th word."""
    ends = [0, *(word.stop for word in words)]
    parts = [
        text[end : place.start] + text[words[which].start : words[which].stop]
        for end, place, which in zip(ends, words, order, strict=False)
    ]
    return "".join(parts) + text[ends[-1] :]


def _within(groups: Sequence[Sequence[int]], n: int, rng: np.random.Generator) -> list[int]:
    """0 .. n - 1, shuffled within each group of places."""
    order = np.arange(n)
    for group in groups:
        order[list(group)] = rng.permutation(group)
    return order.tolist()


def _of_kind(words: Sequence[Word], *kinds: str) -> list[int]:
    return [n for n, word in enumerate(words) if word.kind in kinds]


def _nouns_and_adjectives(words: Sequence[Word], rng: np.random.Generator) -> list[int]:
    return _within([_of_kind(words, "noun"), _of_kind(words, "adjective")], len(words), rng)


def _all_but_nouns_and_adjectives(words: Sequence[Word], rng: np.random.Generator) -> list[int]:
    kept = _of_kind(words, "noun", "adjective")
    return _within([[n for n in range(len(words)) if n not in kept]], len(words), rng)


def _trigrams(words: Sequence[Word]) -> list[range]:
    return [range(n, min(n + 3, len(words))) for n in range(0, len(words), 3)]


def _within_trigrams(words: Sequence[Word], rng: np.random.Generator) -> list[int]:
    return _within(_trigrams(words), len(words), rng)


def _order_of_trigrams(words: Sequence[Word], rng: np.random.Generator) -> list[int]:
    blocks = _trigrams(words)
    return list(chain.from_iterable(blocks[n] for n in rng.permutation(len(blocks))))


ORDERS: dict[str, Draw] = {
    "nouns and adjectives": _nouns_and_adjectives,
    "all but nouns and adjectives": _all_but_nouns_and_adjectives,
    "within trigrams": _within_trigrams,
    "trigrams": _order_of_trigrams,
}
"""What changes places: nouns among nouns and adjectives among adjectives; all other words; words within each three in a
row; whole threes."""
