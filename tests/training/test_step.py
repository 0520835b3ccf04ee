"""Losses and gradients do not depend on how a batch is cut: ranks, micro-batches, unequal rows."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from oculex.contracts import System
from oculex.data.collate import Ragged
from oculex.training.step import Trainee, backward

ROWS = 16


class Pair(System, nn.Module):
    """Two towers with dropout, a contrastive loss over the global batch, a whole-batch statistic, a temperature."""

    gathers = ("a", "b")

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 5))
        self.b = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 5))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(5, 5)

    def encode(self, batch):
        return {"a": F.normalize(self.a(batch["x"]), dim=-1), "b": F.normalize(self.b(batch["y"]), dim=-1)}

    def losses(self, features, batch):
        truth = torch.arange(features.start, features.start + len(features["a"]))
        rows = F.cross_entropy(
            self.scale.exp() * self.head(features["a"]) @ features.all("b").T, truth, reduction="none"
        ) + F.cross_entropy(
            self.scale.exp() * features["b"] @ self.head(features.all("a")).T, truth, reduction="none"
        )
        spread = features.all("a").var(dim=0).mean()
        return {"contrastive": rows, "spread": spread}

    def loss_weights(self):
        return {"spread": 0.5}


class Words(System, nn.Module):
    """A loss over a varying number of items per row."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(6, 11))

    def losses(self, features, batch):
        words = batch["words"]
        kept = torch.arange(words.values.shape[1]) < words.lengths[:, None]
        loss = F.cross_entropy(
            self.out(self.table(words.values)).transpose(1, 2), words.values, reduction="none"
        )
        return {"words": loss[kept]}

    def items(self, batch):
        return {"words": int(batch["words"].lengths.sum())}


def make(kind, dropout=0.0):
    torch.manual_seed(5)
    system = kind(dropout)
    generator = torch.Generator().manual_seed(1)
    batch = {
        "x": torch.randn(ROWS, 6, generator=generator),
        "y": torch.randn(ROWS, 6, generator=generator),
        "words": Ragged.of([[1 + (i + j) % 10 for j in range(1 + i * i % 7)] for i in range(ROWS)]),
    }
    return system, batch


def gradients(system, batch, accumulate, micro, fabric):
    model = fabric.setup(Trainee(system))
    losses = backward(fabric, model, batch, micro=micro, accumulate=accumulate, seed=3, step=7)
    return {k: v.detach() for k, v in losses.items()}, {n: p.grad for n, p in system.named_parameters()}


def one_process(kind, accumulate=1, dropout=0.0):
    system, batch = make(kind, dropout)
    return gradients(system, batch, accumulate, ROWS // accumulate, Fabric(accelerator="cpu", devices=1))


def on_rank(rank, kind, accumulate, dropout, cuts):
    fabric = Fabric(accelerator="cpu", strategy="ddp", devices=len(cuts) - 1)
    fabric.launch()
    system, batch = make(kind, dropout)
    own = {key: value[cuts[rank] : cuts[rank + 1]] for key, value in batch.items()}
    return gradients(system, own, accumulate, ROWS // (len(cuts) - 1) // accumulate, fabric)


def check(got, wanted):
    for theirs, ours in zip(got, wanted, strict=True):
        assert theirs.keys() == ours.keys()
        for name in ours:
            torch.testing.assert_close(
                theirs[name], ours[name], atol=2e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("kind", [Pair, Words])
def test_the_reference_is_the_plain_loss(kind):
    system, batch = make(kind)
    from oculex.contracts import Features

    terms = system.losses(Features(system.encode(batch)), batch)
    total = sum(system.loss_weights().get(name, 1.0) * term.mean() for name, term in terms.items())
    total.backward()
    losses, grads = one_process(kind)
    check(
        ({"loss": total.detach()}, {n: p.grad for n, p in system.named_parameters()}),
        ({"loss": losses["loss"]}, grads),
    )


@pytest.mark.parametrize("kind", [Pair, Words])
@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulation_is_exact(kind, accumulate):
    check(one_process(kind, accumulate), one_process(kind))


def test_both_passes_draw_the_same_dropout():
    """The temperature's and the towers' gradients equal those of one graph over micro-batches with those masks."""
    system, batch = make(Pair, dropout=0.5)
    from oculex.contracts import Features
    from oculex.data.order import mix

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


@pytest.mark.parametrize("kind", [Pair, Words])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_equal_one_process(pool, kind, accumulate):
    cuts = [ROWS // pool.ranks * r for r in range(pool.ranks + 1)]
    wanted = one_process(kind)
    for got in pool.run(on_rank, kind, accumulate, 0.0, cuts):
        check(got, wanted)


@pytest.mark.parametrize("kind", [Pair, Words])
def test_dropout_on_ranks_equals_dropout_on_micro_batches(pool, kind):
    cuts = [ROWS // pool.ranks * r for r in range(pool.ranks + 1)]
    wanted = one_process(kind, accumulate=pool.ranks, dropout=0.3)
    for got in pool.run(on_rank, kind, 1, 0.3, cuts):
        check(got, wanted)


@pytest.mark.parametrize("kind", [Pair, Words])
def test_unreadable_samples_leave_ranks_unequal_and_exact(pool, kind):
    """A rank with fewer rows than the others still gives the gradients of one process over all rows."""
    cuts = [0, *(ROWS // pool.ranks * r - 1 for r in range(1, pool.ranks)), ROWS]
    wanted = one_process(kind)
    for got in pool.run(on_rank, kind, 1, 0.0, cuts):
        check(got, wanted)
