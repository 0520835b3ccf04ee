"""What a step takes, for a budget of time: measured on real updates with a learning rate of 0, which leave no trace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from oculex.data.loader import batches
from oculex.training import optimizers, plan, ranks
from oculex.training.logs import Bar

if TYPE_CHECKING:
    from oculex.training.loop import Training

LEAST, MOST = 8, 64
"""Updates that are measured."""
SHARE = 0.05
"""Of the budget that measuring may take, between these."""


def seconds_per_step(training: Training) -> float:
    """Of this rank, while batches are made as fast as they are used.

    The first half is not counted: it finds batches that were made ahead while nothing was trained.
    """
    budget, _ = plan.parse_budget(training.recipe.budget)
    training.steps = wanted = MOST
    kept = {name: value.clone() for name, value in training.system.state_dict().items()}
    average, training.average = training.average, None
    model, optimizer = training.wrap(training.spans()[0].stage)
    scaler = ranks.scaler(training.fabric)
    scaling = scaler.state_dict() if scaler is not None else None
    times, bar = [], Bar("measuring", 0, LEAST, training.quiet or not ranks.leads())
    for loaded in batches(training.batches(0), 0, MOST, training.recipe.data.workers):
        optimizers.set_rate(optimizer, 0.0)
        _, norm = training.gradients(model, optimizer, loaded)
        training.apply(optimizer, norm)
        training.step += 1
        times.append(time.perf_counter())
        if training.step == LEAST:
            affordable = int(SHARE * budget * (LEAST - 1) / (times[-1] - times[0]))
            wanted = max(ranks.everyone(min(max(affordable, LEAST), MOST)))
            bar.expect(wanted)
        bar.advance()
        if training.step == wanted:
            break
    bar.stop()
    training.step, training.average, training.trained = 0, average, training.system
    training.system.load_state_dict(kept)
    if scaler is not None:
        scaler.load_state_dict(scaling)
    settled = times[len(times) // 2 :]
    return (settled[-1] - settled[0]) / (len(settled) - 1)
