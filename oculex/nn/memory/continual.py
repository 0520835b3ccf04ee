"""What methods keep of earlier tasks beside the model itself: all in buffers, so that a run resumes from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from oculex.contracts import Batch
from oculex.nn.memory.teacher import Teacher


class Queue(nn.Module):
    """The last ``size`` vectors that were pushed, unit-norm; random ones at first (MoCo, He et al. 2020, section 3.2)."""

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", nn.functional.normalize(torch.randn(size, width), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, vectors: Float[Tensor, "n d"]) -> None:
        size = len(self.rows)
        vectors = vectors[-size:]
        at = (self.place + torch.arange(len(vectors), device=vectors.device)) % size
        self.rows[at] = vectors.to(self.rows.dtype)
        self.place.add_(len(vectors)).remainder_(size)


class Importance(nn.Module):
    """The diagonal of the Fisher information of a network's weights (EWC, Kirkpatrick et al. 2017, section 2).

    As CTP's authors take it: the squared gradient of a batch's mean loss, averaged over the batches of a task, and over
    the tasks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.of = Teacher(network=network)
        for name, _ in network.named_parameters():
            self.of.get_buffer(f"network.{name}").zero_()

    def measure(
        self, network: nn.Module, batches: Iterable[Batch], loss: Callable[[Batch], Tensor], tasks: int
    ) -> None:
        """Takes a task in, after ``tasks`` earlier ones."""
        names, weights = zip(*network.named_parameters(), strict=True)
        with torch.enable_grad():
            for weight in weights:  # of a stage that trained some alone, all count
                weight.requires_grad_(True)
            sums = [torch.zeros_like(weight) for weight in weights]
            count = 0
            for batch in batches:
                found = torch.autograd.grad(loss(batch), weights, allow_unused=True, materialize_grads=True)
                torch._foreach_addcmul_(sums, list(found), list(found))
                count += 1
        with torch.no_grad():
            for name, total in zip(names, sums, strict=True):
                self.of.get_buffer(f"network.{name}").lerp_(total / count, 1 / (tasks + 1))

    def distance(self, network: nn.Module, old: Teacher) -> Float[Tensor, ""]:
        """Half the squared distance of the weights from the old ones, each by its importance (equation 3)."""
        terms = []
        for name, weight in network.named_parameters():
            now = weight.full_tensor() if isinstance(weight, DTensor) else weight
            away = now - old.get_buffer(f"network.{name}")
            terms.append((self.of.get_buffer(f"network.{name}") * away.square()).sum())
        return torch.stack(terms).sum() / 2
