"""Ranks: one process, or those that torchrun started, and how a system lies on them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from oculex.contracts import Recipe, UserError
from oculex.nn.blocks import Block

STRATEGIES: dict[str, Callable[[int], Strategy]] = {
    # buffers are equal on all ranks by the contract of systems, so none is sent before each forward pass
    "ddp": lambda ranks: DDPStrategy(broadcast_buffers=False),
    "fsdp": lambda ranks: ModelParallelStrategy(
        lambda module, mesh: shard(module, mesh["data_parallel"]), ranks, tensor_parallel_size=1
    ),
}


def launch(recipe: Recipe) -> Fabric:
    """The engine over the processes that torchrun started, or over this one.

    Raises UserError for an unknown ``strategy``, and for fsdp with 16-mixed, whose scaler does not see all shards.
    """
    if recipe.strategy not in STRATEGIES:
        raise UserError(f"strategy={recipe.strategy!r} is unknown; known: {', '.join(STRATEGIES)}")
    ranks, local = size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > 1 and (recipe.strategy, recipe.precision) == ("fsdp", "16-mixed"):
        raise UserError("strategy=fsdp does not go with precision=16-mixed; take bf16-mixed or 32-true")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the precision stands in the recipe
    fabric = Fabric(
        accelerator="auto",
        devices=local,
        num_nodes=max(1, ranks // local),
        strategy=STRATEGIES[recipe.strategy](ranks) if ranks > 1 else "auto",
        precision=recipe.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is the one process that writes files and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def agree(value: Any) -> Any:
    """The first rank's value, on every rank."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def once(action: Callable[[], Any]) -> Any:
    """What the first rank does for all: its result, and its mistakes, are then everyone's."""
    result: Any = None
    mistake: UserError | None = None
    if leads():
        try:
            result = action()
        except UserError as error:
            mistake = error
    result, mistake = agree((result, mistake))
    if mistake is not None:
        raise mistake
    return result


def everyone(value: Any) -> list[Any]:
    """The values of all ranks, in rank order."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def total(fabric: Fabric, *numbers: int) -> list[int]:
    """Each number summed over the ranks."""
    if fabric.world_size == 1:
        return list(numbers)
    sums = torch.tensor(numbers, dtype=torch.long, device=fabric.device)
    dist.all_reduce(sums)
    return sums.tolist()


# ------------------------------------------------------------------------------------------------ sharding


def shards(fabric: Fabric) -> bool:
    return isinstance(fabric.strategy, ModelParallelStrategy)


def place(fabric: Fabric, system: nn.Module) -> Any:
    """What is trained: the system itself, or where the strategy shards it a copy, which the engine then cuts up."""
    return deepcopy(system).to(fabric.device) if shards(fabric) else system


def shard(module: nn.Module, mesh: Any) -> Any:
    """FSDP2 over the blocks, and over what stands outside them. Single numbers (a temperature) stay whole."""
    whole = {p for p in module.parameters() if p.ndim == 0}
    for part in module.modules():
        if isinstance(part, Block):
            fully_shard(part, mesh=mesh, ignored_params=whole)
    return fully_shard(module, mesh=mesh, ignored_params=whole)


def place_average(fabric: Fabric, module: nn.Module) -> nn.Module:
    """Averaged weights lie where the trained ones do, and are cut up as they are."""
    module, strategy = module.to(fabric.device), cast(Any, fabric.strategy)
    return shard(module, strategy.device_mesh["data_parallel"]) if shards(fabric) else module


def whole(tensor: Any) -> Any:
    """All of a sharded tensor; every rank must ask. Others are given back as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors; every rank must ask."""
    return {name: whole(value) for name, value in module.state_dict().items()}


def laid_like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor that every rank has, cut up as ``example`` is."""
    if not isinstance(example, DTensor) or value.shape != example.shape:
        return value
    value = value.to(example.device)
    return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)


def reduce_whole(fabric: Fabric, system: nn.Module) -> None:
    """Averages over ranks the gradients of parameters that sharding left whole, and the engine therefore leaves alone."""
    if shards(fabric):
        for parameter in system.parameters():
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                dist.all_reduce(parameter.grad)
                parameter.grad /= fabric.world_size


def scaler(fabric: Fabric) -> Any:
    """The scaler of 16-mixed losses; None with other precisions."""
    return getattr(fabric.strategy.precision, "scaler", None)


def loss_scale(fabric: Fabric) -> float:
    """What losses are multiplied by before they are differentiated."""
    found = scaler(fabric)
    return 1.0 if found is None else found.get_scale()


def gradient_norm(fabric: Fabric, optimizer: Any) -> Tensor:
    """The 2-norm of all gradients together, as the weights will meet them."""
    scaled = scaler(fabric)
    if scaled is not None:  # Fabric's own unscaling refuses fused optimizers, which torch's scaler allows
        scaled.unscale_(optimizer.optimizer)
    gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    cut = [g for g in gradients if isinstance(g, DTensor)]
    if not cut:
        return nn.utils.get_total_norm(gradients)
    norms = [whole(nn.utils.get_total_norm(cut))]
    norms += [nn.utils.get_total_norm([g]) for g in gradients if not isinstance(g, DTensor)]
    return torch.stack(norms).norm()


def clip_gradients(optimizer: Any, most: float, norm: Tensor) -> None:
    """Scales all gradients so that their norm, which is ``norm``, is at most ``most``."""
    for sharded in (True, False):  # the two kinds do not meet in one kernel
        chosen = [p for p in _parameters(optimizer) if isinstance(p, DTensor) is sharded]
        nn.utils.clip_grads_with_norm_(chosen, most, norm)


def _parameters(optimizer: Any) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
