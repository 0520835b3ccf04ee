"""SGD-SaI: stochastic gradient descent whose step sizes are scaled once, by the first gradients.

No More Adam: Learning Rate Scaling at Initialization is All You Need. Minghao Xu et al. arXiv:2412.11768, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SGDSaI(Optimizer):
    """Momentum SGD with decoupled weight decay; each parameter's learning rate is multiplied by its gradient
    signal-to-noise ratio, taken from its first gradient and kept::

        s = |g_1| / (std(g_1) + eps)
        m_t = momentum * m_{t-1} + (1 - momentum) * g_t,    m_1 = g_1
        w_t = (1 - lr * weight_decay) * w_{t-1} - lr * s * m_t

    The state is one tensor per parameter where Adam keeps two, and one number.

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
                    chunk,
                    [p.grad for p in chunk],  # type: ignore[misc]
                    [self.state[p]["momentum_buffer"] for p in chunk],
                    [-group["lr"] * float(self.state[p]["scale"]) for p in chunk],
                    1 - group["lr"] * group["weight_decay"],
                    1 - group["momentum"],
                )
        return loss

    def _scaled(self, parameter: Tensor, eps: float) -> bool:
        """Whether the parameter's scale is known, measuring it on its first gradient that is not zero."""
        state = self.state[parameter]
        if state:
            return True
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        size = gradient.float().norm()
        if not size > 0:
            return False
        scale = size / (gradient.float().std() + eps) if gradient.numel() > 1 else torch.ones(())
        state["scale"] = scale.detach().cpu()  # a number for the host: read every step, written once
        state["momentum_buffer"] = gradient.clone()
        return True


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
