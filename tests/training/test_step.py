"""Losses and gradients do not depend on how a batch is cut: ranks, micro-batches, shards, unequal rows."""

import inspect
import pkgutil

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from oculex import objectives
from oculex.contracts import Features
from oculex.data.order import mix
from oculex.training import ranks
from oculex.training.step import Trainee, backward
from tests.training import objectives as kinds
from tests.training.objectives import KINDS, ROWS, NextToken, Normed, Pair, make


def gradients(system, batch, accumulate, fabric):
    model = fabric.setup_module(Trainee(system))
    losses = backward(fabric, model, batch, accumulate=accumulate, seed=3, step=7)
    grads = {n: ranks.whole(p.grad) for n, p in system.named_parameters() if p.requires_grad}
    return {k: v.detach() for k, v in losses.items()}, grads


def one_process(kind, accumulate=1, dropout=0.0):
    system, batch = make(kind, dropout)
    return gradients(system, batch, accumulate, Fabric(accelerator="cpu", devices=1))


def on_rank(rank, kind, accumulate, dropout, cuts, strategy="ddp"):
    fabric = Fabric(
        accelerator="cpu", strategy=ranks.STRATEGIES[strategy](len(cuts) - 1), devices=len(cuts) - 1
    )
    fabric.launch()
    system, batch = make(kind, dropout)
    own = {key: value[cuts[rank] : cuts[rank + 1]] for key, value in batch.items()}
    return gradients(system, own, accumulate, fabric)


def even(ranks):
    return [ROWS // ranks * r for r in range(ranks + 1)]


def check(got, wanted):
    """Equal to the rounding of float32 at the size of the largest gradient."""
    size = max(1.0, *(float(value.abs().max()) for value in wanted[1].values()))
    for theirs, ours in zip(got, wanted, strict=True):
        assert theirs.keys() == ours.keys()
        for name in ours:
            torch.testing.assert_close(
                theirs[name], ours[name], atol=2e-6 * size, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_every_objective_is_here():
    used = inspect.getsource(kinds)
    for module in pkgutil.iter_modules(objectives.__path__):
        assert f"from oculex.objectives.{module.name} import" in used, (
            f"no kind tests objectives/{module.name}.py"
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_plain_loss(kind):
    system, batch = make(kind)
    terms = system.losses(Features(system.encode(batch)), batch)
    items = {"": ROWS, **system.items(batch)}
    total = sum(
        system.loss_weights().get(name, 1.0) * (term.sum() / items.get(name, ROWS) if term.ndim else term)
        for name, term in terms.items()
    )
    total.backward()
    losses, grads = one_process(kind)
    trained = {n: p.grad for n, p in system.named_parameters() if p.requires_grad}
    check(({"loss": total.detach()}, trained), ({"loss": losses["loss"]}, grads))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [2, 8])
def test_accumulation_is_exact(kind, accumulate):
    check(one_process(kind, accumulate), one_process(kind))


@pytest.mark.parametrize("accumulate", [3, 5, 16])
def test_unequal_micro_batches_are_exact(accumulate):
    check(one_process(Pair, accumulate), one_process(Pair))


PRECISIONS = {
    "bf16": lambda: MixedPrecision("bf16-mixed", "cpu"),
    "16": lambda: MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0)),
}


@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_accumulation_under_autocast(precision):
    """The cached gradients pass through the engine's own backward, and are scaled once where it scales."""

    def found(accumulate):
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[PRECISIONS[precision]()])
        losses, grads = gradients(*make(Pair), accumulate, fabric)
        return losses, {name: grad / ranks.loss_scale(fabric) for name, grad in grads.items()}

    (losses, grads), (wanted, whole) = found(4), found(1)
    assert float(losses["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-2)
    for name in whole:
        torch.testing.assert_close(grads[name], whole[name], atol=2e-3, rtol=0.05)


@pytest.mark.parametrize("fused", [True, False])
def test_the_norm_is_that_of_unscaled_gradients_and_clips_them(fused):
    """Also with a fused optimizer, whose gradients Fabric itself declines to unscale."""
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[PRECISIONS["16"]()])
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = fabric.setup_optimizers(torch.optim.SGD([weight], lr=1.0, fused=fused))
    fabric.backward((weight * torch.tensor([3.0, 4.0])).sum())
    norm = ranks.gradient_norm(fabric, optimizer)
    assert float(norm) == 5.0
    ranks.clip_gradients(optimizer, 1.0, norm)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.4, 0.2]), atol=1e-5, rtol=0)


def test_both_passes_draw_the_same_dropout():
    """The temperature's and the towers' gradients equal those of one graph over micro-batches with those masks."""
    system, batch = make(Pair, dropout=0.5)
    parts = []
    for index in range(4):
        torch.manual_seed(mix(3, 7, index))
        parts.append(system.encode({k: v[index * 4 : index * 4 + 4] for k, v in batch.items()}))
    own = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    terms = system.losses(Features(own), batch)
    total = terms["contrastive"].mean() + 0.5 * terms["spread"]
    total.backward()
    losses, grads = one_process(Pair, accumulate=4, dropout=0.5)
    check(
        ({"loss": total.detach()}, {n: p.grad for n, p in system.named_parameters()}),
        ({"loss": losses["loss"]}, grads),
    )
    assert not torch.allclose(losses["loss"], one_process(Pair, accumulate=4)[0]["loss"])


@pytest.mark.parametrize("strategy", list(ranks.STRATEGIES))
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_equal_one_process(pool, kind, accumulate, strategy):
    wanted = one_process(kind)
    for got in pool.run(on_rank, kind, accumulate, 0.0, even(pool.ranks), strategy):
        check(got, wanted)


@pytest.mark.parametrize("strategy", list(ranks.STRATEGIES))
@pytest.mark.parametrize("kind", [Pair, NextToken, kinds.Blocks])
def test_dropout_on_ranks_equals_dropout_on_micro_batches(pool, kind, strategy):
    wanted = one_process(kind, accumulate=pool.ranks, dropout=0.3)
    for got in pool.run(on_rank, kind, 1, 0.3, even(pool.ranks), strategy):
        check(got, wanted)


@pytest.mark.parametrize("strategy", list(ranks.STRATEGIES))
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", [Pair, NextToken])
def test_unreadable_samples_leave_ranks_unequal_and_exact(pool, kind, accumulate, strategy):
    """A rank with fewer rows than the others still gives the gradients of one process over all rows."""
    cuts = [0, *(ROWS // pool.ranks * r - 1 for r in range(1, pool.ranks)), ROWS]
    wanted = one_process(kind)
    for got in pool.run(on_rank, kind, accumulate, 0.0, cuts, strategy):
        check(got, wanted)


# ----------------------------------------------------------------------------------------------- BatchNorm


def normed(accumulate):
    system, batch = make(Normed)
    found = gradients(system, batch, accumulate, Fabric(accelerator="cpu", devices=1))
    return *found, dict(system.named_buffers())


def normed_on_rank(rank, accumulate, cuts):
    fabric = Fabric(accelerator="cpu", strategy=ranks.STRATEGIES["ddp"](len(cuts) - 1), devices=len(cuts) - 1)
    fabric.launch()
    system, batch = make(Normed)
    own = {key: value[cuts[rank] : cuts[rank + 1]] for key, value in batch.items()}
    return *gradients(system, own, accumulate, fabric), dict(system.named_buffers())


def test_an_update_moves_running_statistics_once_by_the_mean_over_its_micro_batches():
    system, batch = make(Normed)
    before = {name: buffer.clone() for name, buffer in system.named_buffers()}
    moves = []
    for index in range(4):
        fresh, _ = make(Normed)
        fresh.encode({k: v[index * 4 : index * 4 + 4] for k, v in batch.items()})
        moves.append({name: buffer - before[name] for name, buffer in fresh.named_buffers()})
    _, _, buffers = normed(accumulate=4)
    for name, was in before.items():
        move = sum(m[name] for m in moves) / 4
        torch.testing.assert_close(
            buffers[name], (was + move).to(was.dtype), msg=lambda m, n=name: f"{n}: {m}"
        )
        assert not torch.equal(buffers[name], was), name


def test_batch_norm_alone_is_torchs_to_the_bit():
    system, batch = make(Normed)
    system.encode(batch)
    for name, buffer in system.named_buffers():
        assert torch.equal(normed(accumulate=1)[2][name], buffer), name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_norm_does_not_mind_whether_micro_batches_lie_on_ranks(pool, accumulate):
    *wanted, buffers = normed(accumulate=pool.ranks * accumulate)
    for *got, own in pool.run(normed_on_rank, accumulate, even(pool.ranks)):
        check(got, wanted)
        torch.testing.assert_close(own, buffers)
