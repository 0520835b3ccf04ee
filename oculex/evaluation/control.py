"""Robots: what a system that acts achieves in the simulator, and how well it knows what a demonstrator did.

``control`` closes the loop: the system sees, acts, sees what came of it, until the episode is over; an episode counts
where its goal was reached. Records: ``item`` and ``cluster`` are the episode; ``prompt`` is the skill; ``output`` has the
actions, as JSON, from which physics makes the same episode again; ``parsed`` how many; ``truth`` is the instruction;
``score`` 1 for a success. ``control`` no_image: a black picture; wrong_instruction: told to do the same to another thing
of the table, judged by the first; untrained: the same system with fresh weights; random: every valid action equally
likely, but it never ends an episode; any_thing: the demonstrator, sent to one thing of the table at random, which is all
that a robot can reach that does not listen; expert: the demonstrator, who knows where everything is.

``imitation`` asks about single steps of demonstrations, which any robot's data has. Records: ``item`` is the step,
``cluster`` its episode; ``output`` the action; ``truth`` the demonstrator's; ``score`` the mean error over dimensions, in
shares of their extents; ``status`` rated. ``control`` no_image: a black picture; constant: the action that is best for
all steps that are asked about, their median, which knows nothing of any of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from oculex.contracts import Acts, BadSample, Sample, Source
from oculex.data.actions import ActionSpace, HasActions
from oculex.data.boxes import picture_size
from oculex.data.collate import collate
from oculex.data.order import generator
from oculex.evaluation.measures import Statistic, contrast, mean
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task
from oculex.simulation import Layout, TableConfig
from oculex.simulation.remote import Simulator

TOGETHER = 32
"""Episodes that go on side by side."""
CONTROLS = ("no_image", "wrong_instruction", "untrained", "random", "any_thing", "expert")
_SEED = 0xAC7


@runtime_checkable
class Simulates(Protocol):
    """A source whose episodes can be played."""

    actions: ActionSpace
    episodes: int
    size: int
    """Pixels a side of what is seen."""

    def layout(self, number: int) -> Layout: ...

    def config(self) -> TableConfig: ...


Policy = Callable[[Mapping[int, Any], Mapping[int, str]], Mapping[int, np.ndarray]]
"""(what each table's robot sees, what it is told) -> what it does."""


def play(
    simulator: Simulator,
    source: Simulates,
    layouts: Mapping[int, Layout],
    told: Mapping[int, str],
    act: Policy,
    sees: bool,
) -> dict[int, tuple[bool, list[list[float]]]]:
    """(success, actions) of each episode; they all go on at once until the last is over."""
    seen: dict[int, Any] = simulator.call("begin", source.config(), source.size, layouts, sees)
    done: dict[int, list[list[float]]] = {number: [] for number in layouts}
    won = dict.fromkeys(layouts, False)
    going = list(layouts)
    while going:
        actions = act({n: seen[n] for n in going if n in seen}, {n: told[n] for n in going})
        for n in going:
            done[n].append([round(float(value), 6) for value in actions[n]])
        # what is recorded is what is done, so that it can be played again
        found = simulator.call("step", {n: np.array(done[n][-1]) for n in going}, sees)
        for n, (image, success, over) in found.items():
            won[n] = success
            if image is not None:
                seen[n] = image
            if over:
                going.remove(n)
    return {n: (won[n], done[n]) for n in layouts}


def _policies(
    system: Any,
    source: Simulates,
    layouts: Mapping[int, Layout],
    simulator: Simulator,
    context: Context,
) -> dict[str, tuple[Policy, bool]]:
    """By name of the control: who acts, and whether it has to be drawn."""
    black = np.zeros((source.size, source.size, 3), np.uint8)
    space, rng = source.actions, generator(_SEED)

    def by(actor: Any) -> Policy:
        def act(images: Mapping[int, Any], told: Mapping[int, str]) -> Mapping[int, np.ndarray]:
            views = [
                actor.view({"id": str(n), "image": images.get(n, black), "instruction": text}, None)
                for n, text in told.items()
            ]
            actions = context.embedder.computing.run(actor.act, collate(views), actor)
            return dict(zip(told, actions, strict=True))

        return act

    def random(_: Mapping[int, Any], told: Mapping[int, str]) -> Mapping[int, np.ndarray]:
        share = rng.random((len(told), len(space)))
        low, high, values = np.array(space.low), np.array(space.high), np.array(space.values)
        drawn = np.where(values > 0, np.floor(share * values), low + share * (high - low))
        if space.ends:
            ends = space.names.index(space.ends)
            drawn[:, ends] = low[ends]
        return dict(zip(told, drawn, strict=True))

    def knowing(targets: Mapping[int, int]) -> Policy:
        def act(_: Mapping[int, Any], told: Mapping[int, str]) -> Mapping[int, np.ndarray]:
            return simulator.call("advise", {n: targets[n] for n in told})

        return act

    own = by(system)
    fresh = (
        {"untrained": (by(context.untrained.build(system)), True)} if context.untrained is not None else {}
    )
    return {
        "": (own, True),
        "no_image": (own, False),
        "wrong_instruction": (own, True),
        **fresh,
        "random": (random, False),
        "any_thing": (
            knowing({n: int(rng.integers(len(each.things))) for n, each in layouts.items()}),
            False,
        ),
        "expert": (knowing({n: each.target for n, each in layouts.items()}), False),
    }


def run(system: Any, source: Source, context: Context) -> Table:
    """Empty where the source's episodes cannot be played."""
    if not isinstance(source, Simulates):
        return Table.empty()
    count = source.episodes
    limit = context.embedder.computing.limit
    numbers = range(count if limit is None else min(limit, count))
    layouts = {n: source.layout(n) for n in numbers}
    tables = []
    with Simulator() as simulator:
        for control, (act, sees) in _policies(system, source, layouts, simulator, context).items():
            told = {
                n: (_another(layout) if control == "wrong_instruction" else layout).instruction
                for n, layout in layouts.items()
                if control != "wrong_instruction" or len(layout.things) > 1
            }
            played: dict[int, tuple[bool, list[list[float]]]] = {}
            for some in _chunks(list(told)):
                played |= play(simulator, source, {n: layouts[n] for n in some}, told, act, sees)
            tables.append(_records(played, layouts, told, control, source, context))
    return concat(tables)


def _another(layout: Layout) -> Layout:
    """The next thing of the table is meant instead."""
    return replace(layout, target=(layout.target + 1) % len(layout.things))


def _chunks(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[start : start + TOGETHER] for start in range(0, len(numbers), TOGETHER))


def episode(layout: Layout) -> str:
    return f"{layout.split}-{layout.index}"


def _records(
    played: Mapping[int, tuple[bool, list[list[float]]]],
    layouts: Mapping[int, Layout],
    told: Mapping[int, str],
    control: str,
    source: Any,
    context: Context,
) -> Table:
    names = [episode(layouts[n]) for n in played]
    won = [success for success, _ in played.values()]
    return Table.of(
        set=context.set,
        task=CONTROL.name,
        item=names,
        cluster=names,
        model=context.embedder.model,
        prompt=[layouts[n].skill for n in played],
        control=control,
        output=[json.dumps({"told": told[n], "actions": actions}) for n, (_, actions) in played.items()],
        parsed=[str(len(actions)) for _, actions in played.values()],
        truth=[layouts[n].instruction for n in played],
        score=[float(success) for success in won],
        status=["right" if success else "wrong" for success in won],
    )


def statistics(table: Table) -> dict[str, Statistic]:
    """The share of episodes whose goal was reached; the same of the controls; what is gained over them; steps of an
    episode that succeeded; and success by skill, where there are several."""
    rows = table.where(control="")
    out: dict[str, Statistic] = {"success": mean(table["score"][rows], rows)}
    for control in CONTROLS:
        where = table.where(control=control)
        if len(where):
            out[f"{control}_success"] = mean(table["score"][where], where)
            if control in ("no_image", "wrong_instruction", "any_thing"):
                out[f"gain_over_{control}"] = contrast(out["success"], out[f"{control}_success"])
    won = rows[table["score"][rows] == 1]
    if len(won):
        out["steps"] = mean(table["parsed"][won].astype(float), won)
    skills = sorted(set(table["prompt"][rows]))
    for skill in skills if len(skills) > 1 else ():
        where = table.where(control="", prompt=skill)
        out[f"{skill}_success"] = mean(table["score"][where], where)
    return out


# -------------------------------------------------------------------------------------------- imitation

_MOST = 1000
"""Steps that are asked about, where an evaluation has no limit."""


def imitate(system: Any, source: Source, context: Context) -> Table:
    if not isinstance(source, HasActions):
        return Table.empty()
    embedder, space = context.embedder, source.actions
    limit = embedder.computing.limit or _MOST
    chosen = sorted(np.random.default_rng(0).permutation(len(source))[:limit].tolist())
    samples = list(_told(source, chosen))
    if not samples:
        return Table.empty()
    truth = np.array([sample["action"] for sample in samples])
    extent = np.array(space.high) - np.array(space.low)
    said = {
        "": _acted(system, samples, embedder),
        "constant": np.repeat(np.median(truth, 0, keepdims=True), len(truth), 0),
    }
    if "image" in samples[0]:
        said["no_image"] = _acted(
            system, [{**sample, "image": _black(sample)} for sample in samples], embedder
        )
    tables = []
    for control, actions in said.items():
        error = (np.abs(actions - truth) / extent).mean(1)
        tables.append(
            Table.of(
                set=context.set,
                task=IMITATION.name,
                item=[str(sample["id"]) for sample in samples],
                cluster=[str(sample["id"]).rpartition(".")[0] or str(sample["id"]) for sample in samples],
                model=embedder.model,
                prompt=[sample["instruction"] for sample in samples],
                control=control,
                output=[json.dumps([round(float(v), 6) for v in row]) for row in actions],
                parsed="",
                truth=[json.dumps([round(float(v), 6) for v in row]) for row in truth],
                score=error,
                status="rated",
            )
        )
    return concat(tables)


def _told(source: Source, chosen: Sequence[int]) -> Iterator[Sample]:
    """Those steps that can be read and that tell the robot what to do."""
    for n in chosen:
        with suppress(BadSample):
            sample = source[n]
            if "instruction" in sample:
                yield sample


def _black(sample: Sample) -> np.ndarray:
    """A picture of its size that shows nothing."""
    width, height = picture_size(sample)
    return np.zeros((height, width, 3), np.uint8)


def _acted(system: Any, samples: Sequence[Mapping[str, Any]], embedder: Any) -> np.ndarray:
    keys = ("id", "image", "instruction", "state")
    views = [system.view({key: s[key] for key in keys if key in s}, None) for s in samples]
    parts = [
        embedder.computing.run(system.act, collate(views[start : start + 2 * TOGETHER]))
        for start in range(0, len(views), 2 * TOGETHER)
    ]
    return np.concatenate(parts)


def imitation_statistics(table: Table) -> dict[str, Statistic]:
    """The mean error, that of the controls, and what is gained over each."""
    rows = table.where(control="")
    out: dict[str, Statistic] = {"error": mean(table["score"][rows], rows)}
    for control in ("no_image", "constant"):
        where = table.where(control=control)
        if len(where):
            out[f"{control}_error"] = mean(table["score"][where], where)
            out[f"gain_over_{control}"] = contrast(out[f"{control}_error"], out["error"])
    return out


CONTROL = Task(
    name="control",
    needs=(("instruction",),),
    capabilities=((Acts,),),
    run=run,
    statistics=statistics,
)
IMITATION = Task(
    name="imitation",
    needs=(("instruction",), ("action",)),
    capabilities=((Acts,),),
    run=imitate,
    statistics=imitation_statistics,
)
