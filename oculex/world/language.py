"""Captions: what a person, a camera-club pedant, or the web would write under a picture.

All styles speak only of what ``survey`` finds visible. ``wrong`` alone says what is not so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from oculex.contracts import UserError
from oculex.world import chinese, english, german
from oculex.world.content import Content, falsify, observe
from oculex.world.scene import Scene
from oculex.world.words import LANGUAGES

STYLES: tuple[str, ...] = ("alt", "detailed", "noisy", "wrong", "synonyms", "placed")
ENGLISH_ONLY = ("noisy", "synonyms", "placed")


def caption(scene: Scene, rng: np.random.Generator, style: str = "alt", language: str = "en") -> str:
    """One caption of a scene.

    ``alt`` is short as in alternative texts; ``detailed`` has several sentences; ``noisy`` is as found on the
    web; ``wrong`` is fluent and false; ``synonyms`` is ``alt`` in other words; ``placed`` tells how two objects
    stand from either of them. German and Chinese have alt, detailed and wrong.
    """
    writes(style, language)
    content = observe(scene, rng)
    if style == "wrong":
        content, style = falsify(scene, content, rng), "alt"
    return _WRITERS[language, style](content, rng)


def writes(style: str, language: str) -> None:
    """Raises UserError where there are no captions of this style in this language."""
    if language not in LANGUAGES or style not in STYLES:
        raise UserError(
            f"world: no captions {style!r} in {language!r}; styles are {', '.join(STYLES)}, languages "
            f"{', '.join(LANGUAGES)}"
        )
    if language != "en" and style in ENGLISH_ONLY:
        raise UserError(f"world: {style!r} captions are in English only; set language=en")


_WRITERS: dict[tuple[str, str], Callable[[Content, np.random.Generator], str]] = {
    ("en", "alt"): english.alt,
    ("en", "detailed"): english.detailed,
    ("en", "noisy"): english.noisy,
    ("en", "synonyms"): english.synonyms,
    ("en", "placed"): english.placed,
    ("de", "alt"): german.alt,
    ("de", "detailed"): german.detailed,
    ("zh", "alt"): chinese.alt,
    ("zh", "detailed"): chinese.detailed,
}
