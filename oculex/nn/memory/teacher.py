"""Teachers: copies of networks that follow them, and the statistics by which their targets are centred."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def fix(module: nn.Module, *names: str) -> nn.Module:
    """Turns parameters (all below, or the named direct ones) into buffers: kept, saved, moved, but never trained.

    No optimizer pattern reaches a buffer, no engine waits for its gradient, and it does not count as a parameter.
    """
    for name in names or list(module._parameters):
        value = module._parameters.pop(name)
        module.register_buffer(name, None if value is None else value.detach().clone())
    if not names:
        for child in module.children():
            fix(child)
    return module


class Teacher(nn.Module):
    """Copies of networks whose weights are exponential moving averages of theirs.

    ``Teacher(image=tower, head=head)`` has ``.image`` and ``.head``; they stay in evaluation mode and are never
    trained.
    """

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self._followed = networks  # in a plain dict, so that they are not the teacher's own
        for name, network in networks.items():
            self.add_module(name, fix(deepcopy(network)))
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    def release(self) -> None:
        """Makes parameters again of the weights that its networks' originals train, for whoever trains the teacher itself
        from here on."""
        for name, followed in self._followed.items():
            for path, _ in followed.named_parameters():
                owner, _, leaf = f"{name}.{path}".rpartition(".")
                module = self.get_submodule(owner)
                module.register_parameter(leaf, nn.Parameter(module._buffers.pop(leaf)))  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        """One network after the other; of the first, ``x`` is whatever it takes."""
        for network in self.children():
            x = network(x)
        return x

    @torch.no_grad()
    def follow(self, momentum: float, beside: Teacher | None = None) -> None:
        """teacher = momentum * teacher + (1 - momentum) * network, for every weight that is trained and every running
        statistic.

        ``beside``: another teacher of the same networks; what is followed is then the mean of its weights and theirs.
        """
        named = {
            f"{name}.{key}": weight.full_tensor() if isinstance(weight, DTensor) else weight
            for name, network in self._followed.items()
            for key, weight in chain(network.named_parameters(), network.named_buffers())
            if weight.is_floating_point()
        }
        weights = list(named.values())
        if beside is not None:
            others = [beside.get_buffer(name) for name in named]
            weights = list(torch._foreach_mul(torch._foreach_add(weights, others), 0.5))
        averages = [self.get_buffer(name) for name in named]
        get_ema_multi_avg_fn(momentum)(averages, weights, None)  # type: ignore[arg-type]


def rising(start: float, step: int, steps: int) -> float:
    """From ``start`` to 1 along half a cosine: the momentum of BYOL's and DINO's teachers."""
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * step / steps))


def warmed(first: float, last: float, warmup: float, step: int, steps: int) -> float:
    """From ``first`` to ``last`` in a straight line over ``warmup`` of the steps: a share, or from 1 on a number."""
    over = warmup * steps if warmup < 1 else warmup
    return last if step >= over else first + (last - first) * step / over


class Centre(nn.Module):
    """Running mean of a teacher's outputs (DINO, Caron et al. 2021, equation 4).

    ``collect`` sees every row of an update once, in micro-batches and on ranks as they come; ``update`` then moves
    the mean by that of the global batch, so neither their number nor their order matters.
    """

    mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.begin()

    def begin(self) -> None:
        """Forgets what an update that was skipped has left."""
        self._collected: Tensor | None = None

    @torch.no_grad()
    def collect(self, outputs: Float[Tensor, "*rows k"]) -> None:
        rows = outputs.flatten(0, -2).float()
        total = torch.cat([rows.sum(dim=0), rows.new_full((1,), len(rows))])
        self._collected = total if self._collected is None else self._collected + total

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Raises RuntimeError where nothing was collected since the last update."""
        total = self._collected
        if total is None:
            raise RuntimeError("nothing was collected in this update")
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        self.mean.lerp_(total[:-1] / total[-1], 1 - momentum)
        self.begin()
