"""Optimizers, parameter groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from oculex import contracts
from oculex.contracts import Stage, UserError
from oculex.nn.blocks import Block
from oculex.training.sgd_sai import SGDSaI

Build = Callable[[list[dict], contracts.Optimizer], torch.optim.Optimizer]


def _adamw(groups: list[dict], c: contracts.Optimizer) -> torch.optim.Optimizer:
    # fused: one pass over the weights instead of a pass per arithmetic operation, also on the CPU
    return torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps, fused=True)


def _sgd(groups: list[dict], c: contracts.Optimizer) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum, nesterov=c.momentum > 0, fused=True)


def _sgd_sai(groups: list[dict], c: contracts.Optimizer) -> torch.optim.Optimizer:
    return SGDSaI(groups, lr=c.lr, momentum=c.momentum, eps=c.eps)


OPTIMIZERS: dict[str, Build] = {"adamw": _adamw, "sgd": _sgd, "sgd_sai": _sgd_sai}


def build(system: nn.Module, config: contracts.Optimizer, stage: Stage) -> torch.optim.Optimizer:
    """The optimizer over a stage's trainable parameters; freezes the others.

    Every group carries ``scale``, its multiple of the scheduled learning rate. Raises UserError for an unknown
    optimizer and for patterns that match nothing.
    """
    if config.part not in OPTIMIZERS:
        raise UserError(f"optimizer.part={config.part!r} is unknown; known: {', '.join(OPTIMIZERS)}")
    freeze(system, stage)
    names = [name for name, _ in system.named_parameters()]
    for pattern in (*stage.trainable, *(pattern for pattern, _ in stage.lr_scale)):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                f"stage {stage.name!r}: no parameter matches {pattern!r}; names look like {names[0]!r}"
            )
    depth, spared = layer_scales(system, config.layer_decay), undecayed(system)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            scale = (
                next((s for pattern, s in stage.lr_scale if fnmatchcase(name, pattern)), 1.0) * depth[name]
            )
            decayed = parameter.ndim >= 2 and name not in spared
            groups[scale, config.weight_decay if decayed else 0.0].append(parameter)
    return OPTIMIZERS[config.part](
        [{"params": p, "scale": scale, "weight_decay": decay} for (scale, decay), p in groups.items()], config
    )


def undecayed(system: nn.Module) -> set[str]:
    """Parameters of two or more dimensions that modules want spared (``undecayed``: a table of biases, say)."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in system.named_modules()
        for name in getattr(module, "undecayed", ())
    }


def freeze(system: nn.Module, stage: Stage) -> None:
    """What the stage does not train takes no gradient."""
    for name, parameter in system.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in stage.trainable))


def train(system: nn.Module) -> None:
    """Training mode, but for batch norms whose weights are frozen: their means and variances are frozen with them, in
    training as in evaluation."""
    system.train()
    for module in system.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.train(any(weight.requires_grad for weight in module.parameters()))


def layer_scales(system: nn.Module, decay: float) -> dict[str, float]:
    """Multiple of the learning rate of each parameter under layer-wise decay (BEiT, appendix; Clark et al. 2020).

    In a tower with n blocks, block i has ``decay ** (n - i)``, what stands before the blocks ``decay ** (n + 1)``
    and what stands after them 1. Parameters outside any tower have 1. A tower that groups its modules itself
    (``by_depth``) gives group i of n ``decay ** (n - 1 - i)``.
    """
    scales = dict.fromkeys((name for name, _ in system.named_parameters()), 1.0)
    if decay == 1.0:
        return scales
    names = {parameter: name for name, parameter in system.named_parameters()}
    for prefix, tower in system.named_modules():
        groups = tower.by_depth() if hasattr(tower, "by_depth") else []  # type: ignore[operator]
        for n, group in enumerate(reversed(groups)):
            scales |= {names[parameter]: decay**n for module in group for parameter in module.parameters()}
        stacks = [
            (n, m)
            for n, m in tower.named_children()
            if isinstance(m, nn.ModuleList) and isinstance(m[0], Block)
        ]
        for stack, blocks in stacks:
            exponent, after = len(blocks) + 1, False  # type: ignore[arg-type]
            for name, _ in tower.named_parameters():
                first, _, rest = name.partition(".")
                if first == stack:
                    exponent, after = len(blocks) - int(rest.partition(".")[0]), True  # type: ignore[arg-type]
                elif after:
                    exponent = 0
                scales[f"{prefix}.{name}" if prefix else name] = decay**exponent
    return scales


SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
    "linear": lambda t: 1 - t,
    "constant": lambda t: 1.0,
}


def rate(schedule: contracts.Schedule, step: int, steps: int) -> float:
    """Multiple of the peak learning rate at ``step`` of a stage of ``steps``."""
    if schedule.shape not in SHAPES:
        raise UserError(f"schedule.shape={schedule.shape!r} is unknown; known: {', '.join(SHAPES)}")
    warmup = schedule.warmup * steps if schedule.warmup < 1 else schedule.warmup
    if step < warmup:
        return (step + 1) / (warmup + 1)
    t = min(1.0, (step - warmup) / max(1.0, steps - warmup))
    return schedule.floor + (1 - schedule.floor) * SHAPES[schedule.shape](t)


def decay(schedule: contracts.Schedule, start: float, step: int, steps: int) -> float:
    """Weight decay at ``step`` of a stage of ``steps``, from ``start`` to where the schedule leads it."""
    end = start if schedule.weight_decay is None else schedule.weight_decay
    return end + (start - end) * SHAPES["cosine"](step / steps)


def set_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Of the groups that are decayed at all."""
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
