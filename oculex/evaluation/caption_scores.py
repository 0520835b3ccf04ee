"""How well a text agrees with several reference captions: BLEU, ROUGE-L and CIDEr-D, as COCO's evaluation has them; and
whether it breaks off or repeats itself.

Texts are lists of words: lower case, without punctuation. COCO's own tokenizer (a Java program) differs in rare cases,
such as clitics ("it's" is two words there). Published figures use it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oculex.evaluation.measures import Bound

Words = Sequence[str]
N = 4
"""Longest n-grams."""


def words(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def breaks_off(text: str) -> bool:
    """Whether a text ends within a sentence: without a full stop, a question mark or an exclamation mark, or in dots."""
    end = text.rstrip().rstrip("\"'”’)]")
    return not end.endswith((".", "!", "?", "。")) or end.endswith("..")


def repeats(text: str) -> bool:
    """Whether a text has a sentence twice, or the same words three times in a row."""
    sentences = [" ".join(words(sentence)) for sentence in re.split(r"[.!?。]+", text)]
    sentences = [sentence for sentence in sentences if sentence]
    said = words(text)
    return len(set(sentences)) < len(sentences) or any(
        said[at : at + n] == said[at + n : at + 2 * n] == said[at + 2 * n : at + 3 * n]
        for n in range(1, len(said) // 3 + 1)
        for at in range(len(said) - 3 * n + 1)
    )


def _grams(text: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text[at : at + n]) for at in range(len(text) - n + 1))


def rouge_l(text: Words, references: Sequence[Words], beta: float = 1.2) -> float:
    """F measure of the longest common subsequence, from the best precision and the best recall among the references
    (Lin 2004, section 2; beta as COCO's evaluation)."""
    if not text:
        return 0.0
    common = [_common(text, reference) for reference in references]
    precision = max(common) / len(text)
    recall = max(c / max(1, len(reference)) for c, reference in zip(common, references, strict=True))
    if precision == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _common(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for n, other in enumerate(b, 1):
            here = row[n]
            row[n] = before + 1 if word == other else max(row[n], row[n - 1])
            before = here
    return row[-1]


def cider_d(texts: Sequence[Words], references: Sequence[Sequence[Words]], sigma: float = 6.0) -> np.ndarray:
    """[n]: CIDEr-D of each text (Vedantam et al. 2015, section 3 and equation 5), 0 to 10.

    n-grams weigh by how rare they are among the references of all n texts, so a score depends on the set it is in.
    """
    documents: Counter[tuple[str, ...]] = Counter()
    for each in references:
        documents.update({gram for text in each for n in range(1, N + 1) for gram in _grams(text, n)})
    total = np.log(max(1, len(references)))

    def vectors(text: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {
                gram: count * (total - np.log(max(1, documents[gram])))
                for gram, count in _grams(text, n).items()
            }
            for n in range(1, N + 1)
        ]

    def similarity(ours: Words, theirs: Words) -> float:
        # lengths are counted in pairs of words, as COCO's evaluation counts them
        penalty = np.exp(-((max(0, len(ours) - 1) - max(0, len(theirs) - 1)) ** 2) / (2 * sigma**2))
        cosines = []
        for a, b in zip(vectors(ours), vectors(theirs), strict=True):
            norm = np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
            dot = sum(min(value, b.get(gram, 0.0)) * b.get(gram, 0.0) for gram, value in a.items())
            cosines.append(dot / norm if norm else 0.0)
        return penalty * float(np.mean(cosines))

    return np.array(
        [
            10 * float(np.mean([similarity(text, reference) for reference in each]))
            for text, each in zip(texts, references, strict=True)
        ]
    )


@dataclass(frozen=True)
class Bleu:
    """BLEU (Papineni et al. 2002) of order ``order`` over a set, as a statistic of its texts.

    ``counts`` [n, 2 N + 2]: of each text the n-grams of each order that its references have, all of its n-grams, its
    length and that of the closest reference.
    """

    rows: np.ndarray
    counts: np.ndarray
    order: int
    proportion: bool = False

    def bind(self, clusters: np.ndarray, m: int) -> Bound:
        code = clusters[self.rows]
        sums = np.stack([np.bincount(code, column, m) for column in self.counts.T])

        def value(weights: np.ndarray) -> np.ndarray:
            found = weights @ sums.T
            right, of = found[:, : self.order], found[:, N : N + self.order]
            with np.errstate(divide="ignore", invalid="ignore"):
                precision = np.exp(np.mean(np.log(right / of), axis=1))
                brevity = np.exp(np.minimum(0, 1 - found[:, -1] / found[:, -2]))
            return np.nan_to_num(precision * brevity)

        return value


def bleu_counts(text: Words, references: Sequence[Words]) -> list[int]:
    """A row of ``Bleu.counts``."""
    right = []
    for n in range(1, N + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= _grams(reference, n)
        right.append((_grams(text, n) & most).total())
    closest = min((abs(len(r) - len(text)), len(r)) for r in references)[1]
    return [*right, *(max(0, len(text) - n) for n in range(N)), len(text), closest]
