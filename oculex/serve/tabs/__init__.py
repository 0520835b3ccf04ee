"""The tabs of a page: one for each thing that a run can be asked, by its capabilities and never by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from oculex.contracts import (
    Answers,
    Classifies,
    ContinuesText,
    Draws,
    EncodesImages,
    EncodesText,
    GroundsPhrases,
    RepresentsImages,
    RepresentsPatches,
    ScoresTexts,
)
from oculex.serve.opened import Opened
from oculex.serve.shelf import Shelf
from oculex.serve.tabs import ask, classify, continue_text, draw, features, find, search


@dataclass(frozen=True)
class Tab:
    title: str
    capabilities: tuple[tuple[type, ...], ...]
    """Protocols of ``oculex.contracts``: all those of one of the tuples are needed."""
    panel: Callable[[Opened, Shelf | None], None]
    """Lays the tab out, inside Gradio's."""

    def fits(self, system: Any) -> bool:
        return any(all(isinstance(system, each) for each in needed) for needed in self.capabilities)


TABS = (
    Tab("Search", ((EncodesImages,), (RepresentsImages,)), search.panel),
    Tab("Classify", ((Classifies,), (EncodesImages, EncodesText), (ScoresTexts,)), classify.panel),
    Tab("Ask", ((Answers,),), ask.panel),
    Tab("Continue", ((ContinuesText,),), continue_text.panel),
    Tab("Draw", ((Draws,),), draw.panel),
    Tab("Find", ((GroundsPhrases,),), find.panel),
    Tab("Features", ((RepresentsPatches,),), features.panel),
)


def of(system: Any) -> list[Tab]:
    return [tab for tab in TABS if tab.fits(system)]
