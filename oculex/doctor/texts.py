"""Problems of captions: missing, short, boilerplate, not language, cut off, foreign to the tokenizer."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from oculex.contracts import Tokenizer
from oculex.doctor.findings import RARE, Finding, Rank, some
from oculex.doctor.look import Look

SHORT, LONG = 3, 100
"""Words; each Chinese or Japanese character counts as one."""
BOILERPLATE = 5
"""Different images with one caption, from which on it says nothing of any of them."""
FOREIGN = 0.2
"""Share of a caption's tokens that are pieces of single characters, above which the tokenizer does not know it."""
MOST = 0.99
"""Of the captions should fit the context whole."""
WHOLE = 1 << 20

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_MARKUP = re.compile(r"</?[a-z][^<>]*>|&(?:[a-z]{2,8}|#\d+);", re.I)
_NOT_LANGUAGE = re.compile(
    r"https?://|www\.\w|\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b|\b(?:IMG|DSC[NF]?|PXL|SCREENSHOT)[_-]?\d{3,}",
    re.I,
)


def captions(look: Look, clean: str, bad_limit: float) -> list[Finding]:
    """What is wrong with captions for any recipe that learns from them."""
    with_image = look.images()
    bare = [seen.id for seen in with_image if not seen.captions]
    if not with_image or len(bare) == len(with_image):
        return []  # images alone: whether that is a problem is the recipe's business
    found = []
    if bare:
        share = look.share(len(bare), len(with_image))
        stops = f", over data.bad_limit={bad_limit}: the run would stop" if share.value > bad_limit else ""
        rank = Rank.STOPS if stops else Rank.COSTS
        says = f"images have no caption{stops}"
        found.append(Finding("no-caption", rank, says, clean, share, "images", some(bare), bare))
    pairs = [(seen.id, text) for seen in look.seen for text in seen.captions]
    words = [len(_WORD.findall(text)) for _, text in pairs]

    def finding(name: str, rank: Rank, says: str, hits: list[bool], remedy: str = clean) -> None:
        if any(hits):
            share = look.caption_share(hits, [image for image, _ in pairs])
            hit = [f"{image}: {text!r}" for (image, text), h in zip(pairs, hits, strict=True) if h]
            found.append(
                Finding(name, rank, says, remedy, share, "captions", some(hit), _all_hit(pairs, hits))
            )

    strange = [_strange(text) for _, text in pairs]
    finding(
        "not-language",
        Rank.SPOILS,
        "captions are file names, addresses, markup or numbers, not language",
        strange,
    )
    finding(
        "short",
        Rank.COSTS,
        f"captions have fewer than {SHORT} words",
        [n < SHORT and not odd for n, odd in zip(words, strange, strict=True)],
    )
    finding("long", Rank.NOTE, f"captions have more than {LONG} words", [n > LONG for n in words])
    shared = _images_by_caption(pairs)
    counts = [len(shared[_plain(text)]) for _, text in pairs]
    finding(
        "boilerplate",
        Rank.SPOILS,
        f"captions stand under {BOILERPLATE} or more different images, which a contrastive loss pushes apart",
        [n >= BOILERPLATE for n in counts],
    )
    finding(
        "shared-caption",
        Rank.NOTE,
        "captions stand under more than one image",
        [1 < n < BOILERPLATE for n in counts],
        "nothing at a few percent; a contrastive loss takes each pair for a mismatch",
    )
    return found


def tokens(look: Look, tokenizer: Tokenizer, context: int, train: str) -> list[Finding]:
    """What is wrong with captions for the recipe's tokenizer and context. ``train`` begins a remedy."""
    pairs = [(seen.id, text) for seen in look.seen for text in seen.captions]
    if not pairs:
        return []
    encoded = [tokenizer.encode(text, WHOLE) for _, text in pairs]
    lengths = np.array([len(ids) for ids in encoded])
    of = [image for image, _ in pairs]
    found = []
    cut = lengths > context
    if cut.any() and context < WHOLE:
        lost = (lengths - context)[cut]
        many = np.quantile(lengths, MOST) > context
        holding = MOST if many else 1.0
        longest = math.ceil(np.quantile(lengths, holding) / 8) * 8
        found.append(
            Finding(
                "truncated",
                Rank.SPOILS if many else Rank.NOTE,
                f"captions are cut to the recipe's {context} tokens; these lose {lost.mean():.0f} tokens on average, "
                f"{lost.sum() / lengths.sum():.1%} of all tokens",
                f"{train} --set context={longest}  (holds {holding:.0%} of the captions)",
                look.caption_share(list(cut), of),
                "captions",
                some([f"{pairs[i][0]}: {lengths[i]} tokens" for i in np.argsort(-lengths)[: cut.sum()]]),
            )
        )
    foreign = _foreign(tokenizer, encoded)
    strange = foreign > FOREIGN
    if strange.any():
        found.append(
            Finding(
                "foreign",
                _rank(strange, Rank.SPOILS),
                f"captions are in characters that the tokenizer spells byte by byte ({foreign.mean():.1%} of all "
                "tokens are pieces of a character): long, and hard to learn from",
                f"{train} --set tokenizer=corpus:8192 --set vocabulary=8192  (learns your languages' vocabulary)",
                look.caption_share(list(strange), of),
                "captions",
                some([f"{pairs[i][0]}: {pairs[i][1]!r}" for i in np.flatnonzero(strange)]),
            )
        )
    return found


def summary(look: Look, tokenizer: Tokenizer | None) -> dict[str, float]:
    """Captions per image, words and tokens per caption: medians."""
    texts = [text for seen in look.seen for text in seen.captions]
    if not texts:
        return {}
    shown = {
        "captions_per_image": float(np.mean([len(s.captions) for s in look.seen])),
        "words": float(np.median([len(_WORD.findall(text)) for text in texts])),
    }
    if tokenizer is not None:
        shown["tokens"] = float(np.median([len(tokenizer.encode(text, WHOLE)) for text in texts]))
    return shown


def _rank(hits: Sequence[bool] | np.ndarray, rank: Rank) -> Rank:
    return rank if np.mean(hits) > RARE else Rank.NOTE


def _strange(text: str) -> bool:
    """Markup, an address or a file name, or more digits and signs than letters."""
    kept = re.sub(r"\s", "", text)
    letters = sum(c.isalpha() for c in kept)
    return bool(_MARKUP.search(text) or _NOT_LANGUAGE.search(text)) or 2 * letters < len(kept)


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(text.lower()))


def _images_by_caption(pairs: Sequence[tuple[str, str]]) -> dict[str, set[str]]:
    images: dict[str, set[str]] = defaultdict(set)
    for image, text in pairs:
        images[_plain(text)].add(image)
    return images


def _all_hit(pairs: Sequence[tuple[str, str]], hits: Sequence[bool]) -> list[str]:
    """Images of which every caption is hit, which the data is better off without."""
    good = {image for (image, _), hit in zip(pairs, hits, strict=True) if not hit}
    return list(
        dict.fromkeys(image for (image, _), hit in zip(pairs, hits, strict=True) if hit and image not in good)
    )


def _foreign(tokenizer: Tokenizer, encoded: Sequence[Sequence[int]]) -> np.ndarray:
    """Share of each caption's tokens that alone are no text: pieces of a character's bytes, [captions]."""
    piece: dict[int, bool] = {}

    def is_piece(token: int) -> bool:
        if token not in piece:
            piece[token] = "\ufffd" in tokenizer.decode([token])
        return piece[token]

    return np.array([np.mean([is_piece(i) for i in ids[1:-1]]) if len(ids) > 2 else 0.0 for ids in encoded])
