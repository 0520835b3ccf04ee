"""Tables with objects on them and what is to be done there: one pure function from (seed, index, configuration)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from oculex.contracts import UserError
from oculex.world.draws import Draws
from oculex.world.vocabulary import COLOUR, SHAPE

SCALE = 0.04
"""Metres per unit of ``oculex.world``'s shapes: things that a hand can take hold of."""
SOLIDS: tuple[str, ...] = (
    "cube", "sphere", "cylinder", "cone", "pyramid", "capsule", "prism", "wedge", "cross", "arch",
)  # fmt: skip
"""The world's shapes that ``oculex.simulation.model`` builds."""
SKILLS: dict[str, str] = {"push": "push the {}", "lift": "lift the {}"}
"""What a robot can be told, and how it is said."""
GRASPED: tuple[str, ...] = ("cube", "sphere", "cylinder", "capsule", "prism")
"""Solids that two fingers hold from above."""

DIMENSIONS: tuple[str, ...] = ("terminate", "x", "y", "z", "rx", "ry", "rz", "gripper")
"""Of an action (RT-2, section 3.2)."""
LOW: tuple[float, ...] = (0.0, -0.04, -0.04, -0.04, -0.35, -0.35, -0.35, 0.0)
"""Least action: metres and radians a step; 0 goes on, and shuts the gripper."""
HIGH: tuple[float, ...] = (1.0, 0.04, 0.04, 0.04, 0.35, 0.35, 0.35, 1.0)
REACH = 0.2
"""Metres from the middle of the table that the hand goes, to either side."""
HAND = 0.014
"""Radius of the closed fingers, in metres."""
_TRIES = 5000


@dataclass(frozen=True)
class TableConfig:
    """A distribution of tables and instructions."""

    split: str = "train"
    """Tables of different splits are drawn from different keys."""
    objects: int = 3
    shapes: tuple[str, ...] = ("sphere", "cylinder", "pyramid", "capsule", "cross")
    colours: tuple[str, ...] = ("red", "yellow", "brown", "purple", "cyan")
    skills: tuple[str, ...] = ("push",)
    novel: str = "pair"
    """What ``part`` withholds: pair (of a colour and a shape, each known from others) or colour (the last third)."""
    part: str = "seen"
    """seen: tables of concepts that are not withheld alone; unseen: the target is withheld, the others are any."""

    def __post_init__(self) -> None:
        for name, given, known in (
            ("shapes", self.shapes, SOLIDS),
            ("colours", self.colours, COLOUR),
            ("skills", self.skills, SKILLS),
            ("novel", (self.novel,), NOVEL),
            ("part", (self.part,), PARTS),
        ):
            unknown = [each for each in given if each not in known]
            if unknown or not given:
                raise UserError(f"table: {name} {unknown or '()'} unknown; choose from {', '.join(known)}")
        if "lift" in self.skills and not set(self.shapes) <= set(GRASPED):
            raise UserError(f"table: skill lift needs shapes that two fingers hold: {', '.join(GRASPED)}")
        fewest = min(len(self.concepts("seen")), len(self.concepts("seen")) + len(self.concepts("unseen")))
        if not 1 <= self.objects <= min(4, fewest) or not self.concepts(self.part):
            raise UserError(
                f"table: objects={self.objects} must be 1 to 4, and no more than the {fewest} concepts; give more "
                "shapes or colours"
            )

    @property
    def turns(self) -> int:
        """Episodes that begin at the same table, each told of another of its things: of tables that each have one
        instruction a learner remembers which it is, and need not listen."""
        return self.objects if self.split == "train" and self.part == "seen" else 1

    def concepts(self, part: str) -> list[tuple[str, str]]:
        """(colour, shape) of every concept of a part."""
        withheld = NOVEL[self.novel]
        numbered = product(enumerate(self.colours), enumerate(self.shapes))
        return [
            (colour, shape)
            for (i, colour), (j, shape) in numbered
            if withheld(i, j, len(self.colours), len(self.shapes)) == (part == "unseen")
        ]


NOVEL = {
    "pair": lambda i, j, colours, shapes: i % shapes == j,
    "colour": lambda i, j, colours, shapes: i >= colours - max(1, round(colours / 3)),
}
"""Whether colour i with shape j is withheld."""
PARTS = ("seen", "unseen")


@dataclass(frozen=True)
class Thing:
    """A solid on the table; metres from its middle, radians anticlockwise from above."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float

    @property
    def footprint(self) -> float:
        return SHAPE[self.shape].footprint * SCALE

    @property
    def height(self) -> float:
        return SHAPE[self.shape].height * SCALE

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Layout:
    """A table at the beginning of an episode, and what the robot is told."""

    seed: int
    index: int
    split: str
    things: tuple[Thing, ...]
    hand: tuple[float, float]
    """Where the hand begins, in metres."""
    skill: str
    target: int
    brightness: float
    """Of the table top, 0..1."""

    @property
    def instruction(self) -> str:
        return SKILLS[self.skill].format(self.things[self.target].name)


def make_layout(seed: int, index: int, config: TableConfig) -> Layout:
    """Layout ``index`` of ``seed``, the same on every machine.

    No two things are alike, and the hand's straight way to each of them is free, so where things lie does not tell
    which of them is meant: that is drawn last, or in training each of them in turn.
    """
    table, turn = divmod(index, config.turns)
    draws = Draws("table", config.split, config.part, seed, table)
    known, withheld = config.concepts("seen"), config.concepts("unseen")
    first = draws.pick(known if config.part == "seen" else withheld)
    others = [each for each in (known if config.part == "seen" else known + withheld) if each != first]
    chosen = [first]
    while len(chosen) < config.objects:
        chosen.append(others.pop(draws.below(len(others))))
    for _ in range(_TRIES):
        hand = (draws.uniform(-0.12, 0.12), -0.17)
        things = [
            Thing(colour, shape, draws.uniform(-0.18, 0.18), draws.uniform(-0.07, 0.18), draws.uniform(-math.pi, math.pi))
            for colour, shape in chosen
        ]  # fmt: skip
        if _free(things, hand):
            break
    else:
        raise UserError(f"table: {config.objects} objects find no room; take fewer")
    target = draws.below(len(things)) if config.part == "seen" else 0
    target = (target + turn) % len(things)
    skill = draws.pick(config.skills)
    # a withheld thing is drawn first, so things are laid in an order that does not tell it
    order = sorted(range(len(things)), key=lambda n: (things[n].shape, things[n].colour))
    return Layout(
        seed, index, config.split, tuple(things[n] for n in order), hand, skill, order.index(target),
        draws.uniform(0.55, 0.8),
    )  # fmt: skip


def _free(things: list[Thing], hand: tuple[float, float]) -> bool:
    for n, thing in enumerate(things):
        for other in things[n + 1 :]:
            if math.dist((thing.x, thing.y), (other.x, other.y)) < thing.footprint + other.footprint + 0.025:
                return False
        for other in things:
            if other is not thing and _beside(other, hand, thing) < other.footprint + HAND + 0.012:
                return False
    return True


def _beside(thing: Thing, start: tuple[float, float], end: Thing) -> float:
    """How far the middle of a thing is from the straight way between two points."""
    way = (end.x - start[0], end.y - start[1])
    along = ((thing.x - start[0]) * way[0] + (thing.y - start[1]) * way[1]) / (way[0] ** 2 + way[1] ** 2)
    along = min(1.0, max(0.0, along))
    return math.dist((thing.x, thing.y), (start[0] + along * way[0], start[1] + along * way[1]))
