"""One update's gradients: micro-batches, gathering and reduction, exact for every objective by its declaration.

Whatever the number of ranks R and of micro-batches A, the gradients equal those of one process that holds the whole
batch at once. Randomness is seeded by (seed, step, index of the micro-batch in the global batch), so a
micro-batch draws the same dropout whether it is encoded once or twice, on one rank or on many.

BatchNorm is the one exception that no bookkeeping removes: it normalises by the micro-batch it sees, so there the
gradients depend on the size of a micro-batch, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from oculex.contracts import Batch, Features
from oculex.data import collate
from oculex.data.order import mix
from oculex.training import ranks
from oculex.training.statistics import Statistics

_LOSSES = 1 << 40


class Trainee(nn.Module):
    """What the engine wraps: any method of the system can be called through the engine's forward hooks."""

    def __init__(self, system: nn.Module) -> None:
        super().__init__()
        self.system = system

    def forward(self, call: Callable[[Any], Any]) -> Any:
        return call(self.system)


def backward(
    fabric: Fabric, model: Any, batch: Batch, *, accumulate: int, seed: int, step: int
) -> dict[str, Tensor]:
    """Adds the gradients of one update to the parameters; returns each loss and their total, over the global batch.

    ``batch`` is this rank's; it is cut into ``accumulate`` micro-batches, unequal ones where unreadable samples have
    left rows that do not divide.
    """
    system = model.module.system
    rows = collate.size(batch)
    cuts = (
        [rows * i // accumulate for i in range(accumulate + 1)]
        if rows >= accumulate
        else list(range(rows + 1))
    )
    spans = [slice(start, stop) for start, stop in pairwise(cuts)]
    slices = [collate.rows(batch, span.start, span.stop) for span in spans]
    first = fabric.global_rank * accumulate
    counts = _rows_by_rank(fabric, rows)

    statistics = Statistics(system, alone=fabric.world_size == 1 and len(slices) == 1)

    def encode(index: int) -> dict[str, Tensor]:
        torch.manual_seed(mix(seed, step, first + index))
        return model(lambda s: s.encode(slices[index]))

    def whole_losses(own: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(mix(seed, step, _LOSSES + fabric.global_rank))
        return total.add(model(lambda s: s.losses(_gathered(own, s.gathers, counts, fabric), batch)), 1.0)

    total = _Total(fabric, system, _items(fabric, system, batch, rows))
    if not system.gathers:
        for index, part in enumerate(slices):
            with fabric.no_backward_sync(model, enabled=index + 1 < len(slices)), statistics.counted():
                own = encode(index)
                terms = model(lambda s, own=own, part=part: s.losses(Features(own), part))
                fabric.backward(total.add(terms, collate.size(part) / rows))
    elif len(slices) == 1:
        with statistics.counted():
            fabric.backward(whole_losses(encode(0)))
    else:
        encoded = []
        for index in range(len(slices)):
            with torch.no_grad(), statistics.counted():
                encoded.append(encode(index))
        own = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}
        for value in own.values():
            value.requires_grad_(value.is_floating_point())
        with fabric.no_backward_sync(model), statistics.counted():
            fabric.backward(whole_losses(own))
        scale = ranks.loss_scale(fabric)  # which the cached gradients already have
        heads = [p for p in system.parameters() if p.grad is not None]
        for index in range(len(slices)):
            last = index + 1 == len(slices)
            with fabric.no_backward_sync(model, enabled=not last), statistics.kept():
                again = encode(index)
                pulled: Any = sum(
                    (again[name] * value.grad[spans[index]]).sum()
                    for name, value in own.items()
                    if value.grad is not None
                )
                if last:  # the engine reduces a gradient when the parameter takes part
                    pulled = pulled + sum((p * 0).sum() for p in heads)
                if isinstance(pulled, Tensor) and pulled.requires_grad:
                    fabric.backward(pulled / scale)
    statistics.settle()
    ranks.reduce_whole(fabric, system)
    return total.values()


class _Total:
    """The weighted sum of the losses as this rank must differentiate it, and the sums that are reported.

    The engine averages gradients over ranks, hence the factor R before a sum over own items.
    """

    def __init__(self, fabric: Fabric, system: Any, items: dict[str, int]) -> None:
        self.fabric, self.items, self.weights = fabric, items, system.loss_weights()
        self.sums: dict[str, Tensor] = {}

    def add(self, terms: dict[str, Tensor], share: float) -> Tensor:
        ranks = self.fabric.world_size
        total: Tensor | float = 0.0
        for name, term in terms.items():
            if term.ndim == 1:
                value = term.float().sum() / self.items.get(name, self.items[""])
                total = total + self.weights.get(name, 1.0) * ranks * value
            elif term.ndim == 0:
                value = term.float() * share / ranks
                total = total + self.weights.get(name, 1.0) * ranks * value
            else:
                raise ValueError(
                    f"loss {name!r} has shape {tuple(term.shape)}; give one value per item, or one value"
                )
            self.sums[name] = self.sums.get(name, 0.0) + value.detach()
        return total  # type: ignore[return-value]

    def values(self) -> dict[str, Tensor]:
        """Each loss over the global batch, and "loss", their weighted sum."""
        names = sorted(self.sums)
        stacked = torch.stack([self.sums[name] for name in names])
        if self.fabric.world_size > 1:
            dist.all_reduce(stacked)
        losses = dict(zip(names, stacked.unbind(), strict=True))
        total = sum(self.weights.get(name, 1.0) * value for name, value in losses.items())
        return {"loss": total, **{f"loss/{name}": value for name, value in losses.items()}}  # type: ignore[dict-item]


def _items(fabric: Fabric, system: Any, batch: Batch, rows: int) -> dict[str, int]:
    """Items of each loss over the global batch; "" is the number of rows."""
    own = {"": rows, **system.items(batch)}
    if fabric.world_size == 1:
        return own
    counts = torch.tensor([own[name] for name in sorted(own)], dtype=torch.float64, device=fabric.device)
    dist.all_reduce(counts)
    return dict(zip(sorted(own), (int(c) for c in counts), strict=True))


def _rows_by_rank(fabric: Fabric, rows: int) -> list[int]:
    if fabric.world_size == 1:
        return [rows]
    counts = torch.empty(fabric.world_size, dtype=torch.long, device=fabric.device)
    dist.all_gather_into_tensor(counts, torch.tensor([rows], device=fabric.device))
    return counts.tolist()


def _gathered(own: dict[str, Tensor], names: tuple[str, ...], counts: list[int], fabric: Fabric) -> Features:
    if len(counts) == 1:
        return Features(own)
    everyone = {name: _Gather.apply(own[name], counts, fabric.global_rank) for name in names}
    return Features(own, everyone, start=sum(counts[: fabric.global_rank]))


class _Gather(torch.autograd.Function):
    """Rows of all ranks, in rank order; the gradient of a row is summed over the ranks that saw it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.span = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.span], None, None
