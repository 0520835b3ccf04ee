"""Words hidden from a text, to be predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def hide_words(
    tokens: Sequence[int], rng: np.random.Generator, share: float, mask: int, vocabulary: int
) -> tuple[list[int], list[int]]:
    """(tokens with some of them hidden, 1 where they are): each but the first with probability ``share``.

    Of the hidden ones 80 % become ``mask``, 10 % any word, 10 % stay (BERT, Devlin et al. 2019, section 3.1). The end
    counts as a word, as in ALBEF's code.
    """
    ids, kind = np.array(tokens), rng.random(len(tokens))
    hidden = rng.random(len(tokens)) < share
    hidden[0] = False
    words = rng.integers(vocabulary, size=len(tokens))
    masked = np.where(hidden & (kind < 0.8), mask, np.where(hidden & (kind >= 0.9), words, ids))
    return masked.tolist(), hidden.astype(int).tolist()
