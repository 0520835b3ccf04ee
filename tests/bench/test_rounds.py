"""The benchmarks compare what they say they compare; how fast either side is, no test says."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from oculex import bench
from oculex.bench import clip_step, contrastive_memory, rounds
from oculex.bench.profile import milliseconds, operations
from oculex.contracts import UserError


def test_a_duel_takes_turns_and_divides_within_a_round(monkeypatch):
    """A clock that runs twice as slowly in the second round leaves the ratio at 3."""
    calls, now = [], [0.0]
    cost = {"ours": 1.0, "peer": 3.0}

    def side(name):
        def call():
            calls.append(name)
            slow = 2.0 if len(calls) > 4 else 1.0
            now[0] += cost[name] * slow

        return call

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    result = rounds.duel(side("ours"), side("peer"), 2, work=6, unit="items/s")
    assert calls == ["ours", "peer", "ours", "peer", "peer", "ours"]
    assert result["ratio"] == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert result["ours"] == pytest.approx(6 / 1.5)
    assert result["peer"] == pytest.approx(6 / 4.5)


def test_operations_are_counted_from_shapes():
    layer, x = torch.nn.Linear(6, 5), torch.rand(3, 6, requires_grad=True)
    assert operations(lambda: layer(x).sum().backward()) == 3 * 2 * 3 * 5 * 6


def test_the_parts_of_an_update_are_named_and_the_hooks_are_gone():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 5)
    optimizer = torch.optim.AdamW(layer.parameters())

    def update():
        optimizer.zero_grad()
        layer(torch.rand(3, 6)).sum().backward()
        optimizer.step()

    found = milliseconds(update, {"layer": layer})
    assert set(found["part"]) == {"layer", "backward", "optimizer"}
    assert all(value > 0 for value in found["part"].values())
    assert {"matrix products", "optimizer"} <= set(found["operators"])
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_the_captions_are_as_long_as_the_benchmark_says():
    pytest.importorskip("open_clip")
    batch = clip_step.captioned_batch(600)
    lengths = batch["tokens"].lengths.numpy()
    longest = [lengths[at : at + 128].max() for at in range(0, 473, 43)]
    assert batch["image"].dtype == torch.uint8
    assert abs(lengths.mean() - 14.0) < 0.5
    assert abs(np.mean(longest) - 28.9) < 2


def test_both_sides_of_clip_step_make_the_same_updates():
    """The losses agree at the start and after updates: weights, optimizers and batches are the same. In float32, since
    Adam's first steps turn the rounding of bfloat16 into the signs of whole steps."""
    pytest.importorskip("open_clip")
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    ours, theirs = clip_step.contestants(fabric, clip_step.captioned_batch(8))
    losses = [(ours.update(), theirs.update()) for _ in range(3)]
    assert abs(losses[2][0] - losses[0][0]) > 0.1
    for mine, peer in losses:
        assert mine == pytest.approx(peer, abs=clip_step.TOLERANCE)


def test_contrastive_memory_compares_equal_losses_and_less_memory():
    """A batch whose dense logits are four tiles."""
    result = contrastive_memory.run(rows=4096, timed=256, rounds=1)
    assert result["memory"]["peer_rows"] == 4096
    assert result["memory"]["ratio"] > 2
    assert all(error < 1e-4 for error in result["gradient_error"].values())
    assert result["float64_error"]["ours"] < 1e-5


def test_an_unknown_benchmark_is_named():
    with pytest.raises(UserError, match="no benchmark 'speed'; there are: clip-step, contrastive-memory"):
        bench.run("speed")
