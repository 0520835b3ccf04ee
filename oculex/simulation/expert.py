"""A scripted expert that knows where everything is: what it does is a demonstration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from oculex.simulation import model
from oculex.simulation.layout import HAND, HIGH, LOW, TableConfig, make_layout
from oculex.simulation.table import LIFTED, PUSHED, STEPS, TableTop
from oculex.world.draws import Draws

SAFE = 0.15
"""Height at which the hand passes over everything."""
_ALIGNED = 0.006
_SQUARE = ("cube", "pyramid", "cross")


def expert(table: TableTop, target: int | None = None) -> np.ndarray:
    """[8]: what leads on to the goal, as a function of the state alone, so that it is right after any deviation.

    ``target``: number of the thing that it is done with; None: the one that is meant.
    """
    target = table.layout.target if target is None else target
    action = {"push": _push, "lift": _lift}[table.layout.skill](table, target)
    return np.clip(action, LOW, HIGH).astype(np.float32)


def _push(table: TableTop, target: int) -> np.ndarray:
    """Straight towards the target and on."""
    at, first = table.places()[target], table.first[target]
    if np.linalg.norm((at - first)[:2]) >= PUSHED:
        return np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    way = at[:2] - table.wanted[:2]
    far = max(float(np.linalg.norm(way)), 1e-6)
    beyond = far + table.layout.things[target].footprint + HAND
    return np.array([0.0, *(way / far * min(HIGH[1], beyond)), 0, 0, 0, 0, 0])


def _lift(table: TableTop, target: int) -> np.ndarray:
    """Over the target, down around it, shut, up."""
    at, first, thing = table.places()[target], table.first[target], table.layout.things[target]
    x, y, z, *_, turn = table.wanted
    if at[2] - first[2] >= LIFTED:
        return np.array([1.0, 0, 0, 0, 0, 0, 0, 0])
    shut = table.gripper < 0.5
    beside = math.hypot(at[0] - x, at[1] - y)
    low = z <= model.LOWEST + 0.004
    if shut and beside < 2 * _ALIGNED and (low or at[2] - first[2] > 0.006):
        return np.array([0.0, 0, 0, HIGH[3], 0, 0, 0, 0])
    wide = _turn(thing.yaw if thing.shape in _SQUARE else 0.0, turn)
    if beside > _ALIGNED or abs(wide) > 0.05:
        up = SAFE - z
        across = np.zeros(2) if up > 0.02 else at[:2] - (x, y)
        return np.array([0.0, *across, up, 0, 0, wide, 1.0])
    if not low:
        return np.array([0.0, at[0] - x, at[1] - y, model.LOWEST - z, 0, 0, wide, 1.0])
    return np.array([0.0, 0, 0, 0, 0, 0, 0, 0.0])


def _turn(yaw: float, turn: float) -> float:
    """The shortest turn that puts the fingers along a square's sides."""
    quarter = math.pi / 2
    wanted = (yaw + quarter / 2) % quarter - quarter / 2
    return wanted - turn


@dataclass(frozen=True)
class Step:
    """What was seen and told, and what the expert would do."""

    image: np.ndarray
    instruction: str
    action: np.ndarray
    place: int
    """Within its episode, from 0."""


def demonstrate(
    seed: int, index: int, config: TableConfig, size: int, noise: float = 0.3, draw: bool = True
) -> tuple[list[Step], bool]:
    """Episode ``index`` by the expert, and whether it succeeded.

    What is done deviates from what the expert says by ``noise`` of the largest displacement, a normal deviate on x and y,
    so that states are shown from which a learner that errs can learn to return (Laskey et al. 2017, DART); each step's
    ``action`` is the expert's own.
    """
    table = TableTop(config, size)
    table.lay(make_layout(seed, index, config))
    draws = Draws("deviation", config.split, config.part, seed, index)
    steps, success = list[Step](), False
    for place in range(STEPS):
        action = expert(table)
        image = table.render() if draw else np.zeros((size, size, 3), np.uint8)
        steps.append(Step(image, table.layout.instruction, action, place))
        done = action.copy()
        if table.layout.skill == "push":
            done[1:3] += [noise * float(HIGH[1]) * draws.normal() for _ in range(2)]
        ends = table.act(done)
        success = success or table.success()
        if ends:
            break
    return steps, success
