"""What the tests of self-supervised systems share: batches of a system's own training views, cut as the loop cuts."""

from __future__ import annotations

import math

import numpy as np
import torch
from lightning_fabric import Fabric

from oculex.data.collate import collate, rows
from oculex.data.order import generator
from oculex.training.step import Trainee, backward


def samples(count, size=40):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [{"id": str(i), "image": pixels[i], "label": i % 3} for i in range(count)]


def training_batch(system, count=8):
    return collate([system.view(sample, generator(0, i)) for i, sample in enumerate(samples(count))])


def evaluation_batch(system, count=8):
    return collate([system.view(sample, None) for sample in samples(count)])


def fixed_weights(system):
    """Weights that depend on nothing but names and shapes, so that another implementation can be given the same."""
    weights = {}
    for name, value in sorted(system.state_dict().items()):
        phase = sum(ord(letter) * (i + 1) for i, letter in enumerate(name)) % 1000
        wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 1.7 + phase)
        spread = 0.3 if value.ndim < 2 else 1.5 / math.sqrt(value.shape[-1])
        gain = value.ndim == 1 and name.endswith("weight")
        weights[name] = (wave * spread + gain).float().view(value.shape)
    return weights


def errors(golden, got):
    """Largest absolute difference of each output from the golden one of its name; none exceeds 1e-5."""
    found = {}
    for name, value in got.items():
        wanted = torch.as_tensor(golden[name])
        assert value.shape == wanted.shape, name
        found[name] = float((value.detach() - wanted).abs().max())
    assert max(found.values()) < 1e-5, found
    return found


def update(system, batch, accumulate=1, fabric=None, step=3, steps=10):
    """One update's losses and gradients, with the system's own calls around it, as the loop makes them."""
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    model = fabric.setup(Trainee(system))
    system.before_step(step, steps)
    losses = backward(fabric, model, batch, accumulate=accumulate, seed=1, step=step)
    gradients = {name: p.grad for name, p in system.named_parameters() if p.grad is not None}
    system.after_backward(step, steps)
    system.after_step(step, steps)
    buffers = {name: value.clone() for name, value in system.state_dict().items()}
    return {name: value.detach() for name, value in losses.items()}, gradients, buffers


def update_on_rank(rank, make, ranks, count):
    fabric = Fabric(accelerator="cpu", strategy="ddp", devices=ranks)
    fabric.launch()
    system = make()
    own = count // ranks
    batch = rows(training_batch(system, count), rank * own, (rank + 1) * own)
    return update(system, batch, 1, fabric)


def same(got, wanted):
    for theirs, ours in zip(got, wanted, strict=True):
        assert theirs.keys() == ours.keys()
        for name in ours:
            torch.testing.assert_close(
                theirs[name], ours[name], atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
