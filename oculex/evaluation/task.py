"""What every task of the evaluation looks like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from oculex.contracts import Sample, Source
from oculex.evaluation.embed import Embedder
from oculex.evaluation.measures import Statistic
from oculex.evaluation.records import Table
from oculex.evaluation.statistics import Estimate, intervals


@dataclass(frozen=True)
class EvalSet:
    """A named benchmark: what is asked, and for probes what they are fitted on."""

    name: str
    test: Source
    train: Source | None = None
    prompts: str = "photo"
    """Prompt ensemble of the set: a name in ``oculex.evaluation.prompts``."""
    judges: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    """Who says what was drawn, opened where that is asked: "detector", "clip"."""


@dataclass
class Untrained:
    """The system before it took any weights of another run, built again, and what was tuned from it: a run that is
    evaluated on its way tunes that once."""

    begin: Callable[[], Any]
    _tuned: dict[str, Any] = field(default_factory=dict)

    def build(self, trained: Any) -> Any:
        """The fresh system. What the data alone tell, such as the bounds of a robot's actions, it has from the trained
        one: buffers that a module names in ``told``."""
        system = self.begin()
        for name, module in getattr(system, "named_modules", tuple)():
            for told in getattr(module, "told", ()):
                getattr(module, told).copy_(trained.get_submodule(name).get_buffer(told))
        return system

    def once(self, key: str, trained: Any, tune: Callable[[Any], Any]) -> Any:
        """What ``tune`` makes of a fresh system, remembered under ``key``."""
        if key not in self._tuned:
            self._tuned[key] = tune(self.build(trained))
        return self._tuned[key]


@dataclass(frozen=True)
class Context:
    """What a task is given beside the system and the source."""

    set: str
    embedder: Embedder
    prompts: tuple[str, ...]
    train: Source | None = None
    untrained: Untrained | None = None
    judges: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One kind of question. Which tasks a set gets follows from its samples and the system's capabilities."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    """Keys of a sample: one key of each tuple has to be there."""
    capabilities: tuple[tuple[type, ...], ...]
    """Protocols of ``oculex.contracts``: all those of one of the tuples are needed."""
    run: Callable[[Any, Source, Context], Table]
    statistics: Callable[[Table], dict[str, Statistic]]
    """Pure function of the records of one set and this task."""
    trains: bool = False
    """Needs a labelled training part."""
    classifies: bool = False
    """Needs the names of the classes."""
    package: str = ""
    """Needs this package, of the extra "text"."""
    judges: tuple[str, ...] = ()
    """Needs one of these judges."""
    named_only: bool = False
    """Trains the system instead of asking it, which may take long: run where it is named, left out of "everything"."""

    def refusal(self, system: Any, sample: Sample, evalset: EvalSet) -> str:
        """Why this task is not for this system and set; empty where it is."""
        for keys in self.needs:
            if not any(sample.get(key) is not None for key in keys):
                return f"samples have no {' or '.join(keys)}"
        if not any(all(isinstance(system, c) for c in needed) for needed in self.capabilities):
            ways = " or ".join(" and ".join(c.__name__ for c in needed) for needed in self.capabilities)
            return f"{type(system).__name__} is not {ways}"
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed; pip install 'oculex[text]'"
        if self.classifies and len(evalset.test.classes) < 2:
            return "the source names no classes"
        if self.judges and not set(self.judges) & set(evalset.judges):
            return "nobody judges it; name someone by --set " + " or ".join(
                f"evaluation.judges.{name}=NAME" for name in self.judges
            )
        if self.trains and evalset.train is None:
            return "the set has no training part"
        return ""

    def metrics(self, table: Table) -> dict[str, Estimate]:
        """The metrics of the records of one set and this task."""
        return intervals(self.statistics(table), table["cluster"])


def wrong_image(ids: Sequence[str]) -> np.ndarray:
    """For each image the index of another one: the next in an order drawn from the ids alone."""
    order = np.array(sorted(range(len(ids)), key=lambda n: hashlib.blake2b(ids[n].encode()).digest()), int)
    other = np.empty(len(ids), int)
    other[order] = np.roll(order, -1)
    return other
