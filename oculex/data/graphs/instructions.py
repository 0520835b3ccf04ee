"""Pictures become questions that are read off their scene graphs: which are asked, and how often (ProVision's engine)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from oculex.contracts import BadSample, Pipeline, Sample, Source, UserError
from oculex.data.graphs.facts import Generator, Known, asked, pick
from oculex.data.graphs.generators import chosen
from oculex.data.graphs.schema import Graph, graph_of
from oculex.data.graphs.words import attribute_type

_TRIES = 8
"""Groups of pictures that a sample is put into before nothing is asked of it."""
_PAIR = "\t"
"""Joins the labels of a pair where they name it; no label has one."""


@dataclass(frozen=True)
class Instructions(Pipeline):
    """Pictures with questions that are read off their scene graphs."""

    generators: str = "all"
    """Names and categories, joined by +: object, attribute, relation, depth, segmentation, object_depth, scene_graph; of
    several pictures select, aggregate, compare."""
    images: int = 1
    """Pictures that are asked about together."""
    each: int = 1
    """Most questions of each generator about a picture."""
    most: int = 0
    """Most questions about a picture, drawn from those of all generators; 0: all."""
    choices: float = 0.5
    """Share of the questions that offer answers to choose from."""
    balance: float = 3.0
    """What is asked about is drawn by 1 / count ** balance of how often it occurs; the authors' 3. 0: evenly."""

    surveys: ClassVar[bool] = True
    written_in: ClassVar[tuple[str, ...]] = ("oculex.data.graphs",)

    def __post_init__(self) -> None:
        if self.images < 1 or self.each < 1 or self.most < 0 or not 0 <= self.choices <= 1:
            raise UserError(
                "images and each are at least 1, most is a count (0: all), choices a share from 0 to 1"
            )
        chosen(self.generators, self.images > 1)

    @property
    def chosen(self) -> tuple[Generator, ...]:
        return chosen(self.generators, self.images > 1)

    def note(self, sample: Sample, source: Source) -> Any:
        """What occurs in a graph: labels and attributes with their counts, relations, pairs of labels that have one."""
        graph = graph_of(sample, source.classes)
        links = [(graph.things[i].label, word, graph.things[j].label) for i, word, j in graph.links]
        return {
            "objects": graph.counts,
            "attributes": Counter(word for thing in graph.things for word in thing.attributes),
            "relations": Counter(word for _, word, _ in links),
            "pairs": sorted({first + _PAIR + second for first, _, second in links}),
        }

    def gather(self, notes: Sequence[Any]) -> Any:
        counts, attributes = Counter[str](), dict[str, set[str]]()
        places: dict[str, dict[str, list[int]]] = {"label": {}, "pair": {}}
        for index, note in enumerate(notes):
            if note is None:
                continue
            for kind, of in (("object", "objects"), ("attribute", "attributes"), ("relation", "relations")):
                counts.update({f"{kind} {word}": many for word, many in note[of].items()})
            counts.update(f"count {many}" for many in note["objects"].values())
            for word in note["attributes"]:
                attributes.setdefault(attribute_type(word), set()).add(word)
            if self.images > 1:
                for shares, names in (("label", note["objects"]), ("pair", note["pairs"])):
                    for name in names:
                        places[shares].setdefault(name, []).append(index)
        relations = sorted(key.removeprefix("relation ") for key in counts if key.startswith("relation "))
        by_type = {kind: sorted(words) for kind, words in sorted(attributes.items())}
        return {"attributes": by_type, "relations": relations, "counts": counts, "places": places}

    def make(self, source: Source, index: int, known: Any, rng: np.random.Generator) -> list[Sample]:
        """The sample's picture with questions; or the group of pictures that it begins. Nothing where none is to ask."""
        sample = source[index]
        graph = graph_of(sample, source.classes)
        facts = Known(
            {kind: tuple(words) for kind, words in known["attributes"].items()},
            tuple(known["relations"]),
            known["counts"],
        )
        if self.images == 1:
            questions = self._asked(self.chosen, [graph], facts, rng)
            shown = {key: sample[key] for key in ("id", "image") if key in sample}
            return [{**shown, "questions": questions}] if questions else []
        return self._together(source, index, graph, known["places"], facts, rng)

    def _asked(
        self, generators: Sequence[Generator], graphs: Sequence[Graph], known: Known, rng: np.random.Generator
    ) -> list[dict[str, str]]:
        """Of generators in random order, until there are enough."""
        questions: list[dict[str, str]] = []
        for n in rng.permutation(len(generators)):
            facts = generators[n].find(graphs, rng, known)
            for fact in pick(facts, self.each, self.balance, known, rng):
                questions.append(asked(generators[n], fact, rng.random() < self.choices, rng))
            if self.most and len(questions) >= self.most:
                return questions[: self.most]
        return questions

    def _together(
        self,
        source: Source,
        index: int,
        graph: Graph,
        places: Mapping[str, Mapping[str, list[int]]],
        known: Known,
        rng: np.random.Generator,
    ) -> list[Sample]:
        """Pictures that share what one of the generators asks for, in random order, with the questions of all of them."""
        for _ in range(_TRIES):
            wanted = self.chosen[int(rng.integers(len(self.chosen)))]
            others = self._others(
                index, graph, places.get(wanted.shares, {}), wanted.shares, len(source), rng
            )
            if len(others) < self.images - 1:
                continue
            group = [(index, *others)[n] for n in rng.permutation(self.images)]
            try:
                samples = [source[n] for n in group]
                graphs = [graph_of(each, source.classes) for each in samples]
            except BadSample:
                continue  # which is refused where its own turn comes
            if not wanted.find(graphs, rng, known):
                continue
            rest = [each for each in self.chosen if each is not wanted]
            questions = self._asked([wanted, *rest], graphs, known, rng)
            name = " ".join(
                [str(samples[group.index(index)]["id"]), "and", *(str(other) for other in others)]
            )
            return [{"id": name, "images": [each["image"] for each in samples], "questions": questions}]
        return []

    def _others(
        self,
        index: int,
        graph: Graph,
        places: Mapping[str, list[int]],
        shares: str,
        total: int,
        rng: np.random.Generator,
    ) -> list[int]:
        """Other pictures, with one of this one's labels, or of its related pairs, in common if that is asked for."""
        if shares == "label":
            names = list(graph.counts)
        elif shares == "pair":
            names = [graph.things[i].label + _PAIR + graph.things[j].label for i, _, j in graph.links]
        else:
            drawn = rng.choice(total, min(self.images, total), replace=False)
            return [int(n) for n in drawn if n != index][: self.images - 1]
        able = [name for name in dict.fromkeys(names) if len(places.get(name, ())) >= self.images]
        if not able:
            return []
        fit = [n for n in places[able[int(rng.integers(len(able)))]] if n != index]
        return [fit[n] for n in rng.choice(len(fit), self.images - 1, replace=False)]
