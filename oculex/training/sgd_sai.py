"""SGD-SaI: stochastic gradient descent whose step sizes are scaled once, by the first gradients.

No More Adam: Learning Rate Scaling at Initialization is All You Need. Minghao Xu et al. arXiv:2412.11768, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from oculex.training import ranks


class SGDSaI(Optimizer):
    """Momentum SGD with decoupled weight decay; each parameter's learning rate is multiplied by its gradient
    signal-to-noise ratio, taken from its first gradient and kept::

        s = |g_1| / (std(g_1) + eps)
        m_t = momentum * m_{t-1} + (1 - momentum) * g_t,    m_1 = g_1
        w_t = (1 - lr * weight_decay) * w_{t-1} - lr * s * m_t

    The state is one tensor per parameter where Adam keeps two, and one number. Of a sharded parameter (DTensor) s is
    that of the whole tensor, so ranks change nothing; every rank must step.

    Algorithm 1 also divides every s by the largest of them. The authors' code, followed here, does not: its lr is
    smaller by that factor, and its weight decay larger.

    Two departures from the authors' code, which steps by |g| / eps for a parameter of one element (its deviation is
    not defined) and never moves one whose first gradient is zero (as all are below a zero-initialised layer): here a
    parameter of one element has s = 1, and s is taken from the first gradient that is not zero.

    ``foreach`` handles all parameters of a group in few calls, at the price of scratch memory for one chunk of
    ``CHUNK`` elements; by default where all are on an accelerator.
    """

    CHUNK = 1 << 24

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        foreach: bool | None = None,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lr={lr}, eps={eps}, weight_decay={weight_decay} must be >= 0, momentum={momentum} in [0, 1)"
            )
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "eps": eps, "weight_decay": weight_decay, "foreach": foreach},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None and self._scaled(p, group["eps"])]
            if not moving:
                continue
            foreach = group["foreach"]
            if foreach is None:
                foreach = all(p.is_cuda for p in moving)
            update = _many if foreach else _each
            for chunk in _chunks(moving, self.CHUNK):
                update(
                    [_own(p) for p in chunk],
                    [_own(p.grad) for p in chunk],
                    [_own(self.state[p]["momentum_buffer"]) for p in chunk],
                    [-group["lr"] * float(self.state[p]["scale"]) for p in chunk],
                    1 - group["lr"] * group["weight_decay"],
                    1 - group["momentum"],
                )
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for entry in filter(None, self.state.values()):  # loading takes numbers to where the parameters are
            entry["scale"] = entry["scale"].cpu()

    def _scaled(self, parameter: Tensor, eps: float) -> bool:
        """Whether the parameter's scale is known, measuring it on its first gradient that is not zero."""
        state = self.state[parameter]
        if state:
            return True
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        whole = ranks.whole(gradient).float()
        one = whole.numel() == 1
        size, deviation = torch.stack([whole.norm(), whole.new_zeros(()) if one else whole.std()]).tolist()
        if not size > 0:
            return False
        # a number for the host: read every step, written once
        state["scale"] = torch.tensor(1.0 if one else size / (deviation + eps))
        state["momentum_buffer"] = gradient.clone()
        return True


def _own(tensor: Any) -> Tensor:
    """What this rank holds of a tensor: an update goes element by element."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _each(
    parameters: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    steps: list[float],
    kept: float,
    new: float,
) -> None:
    for parameter, gradient, buffer, step in zip(parameters, gradients, buffers, steps, strict=True):
        buffer.lerp_(gradient, new)
        parameter.mul_(kept).add_(buffer, alpha=step)


def _many(
    parameters: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    steps: list[float],
    kept: float,
    new: float,
) -> None:
    torch._foreach_lerp_(buffers, gradients, new)
    torch._foreach_mul_(parameters, kept)
    torch._foreach_add_(parameters, torch._foreach_mul(buffers, steps))


def _chunks(parameters: list[Tensor], most: int) -> Iterable[list[Tensor]]:
    """Runs of parameters of at most ``most`` elements together, or of a single one."""
    chunk: list[Tensor] = []
    for parameter in parameters:
        if chunk and sum(p.numel() for p in chunk) + parameter.numel() > most:
            yield chunk
            chunk = []
        chunk.append(parameter)
    yield chunk
