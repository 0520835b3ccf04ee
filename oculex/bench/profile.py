"""Where the time of an update goes, and what it computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.autograd.profiler import record_function
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

KINDS = {
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::bmm": "attention",
    "aten::_softmax": "attention",
    "aten::_softmax_backward_data": "attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
    "aten::native_layer_norm": "normalisation",
    "aten::native_layer_norm_backward": "normalisation",
    "aten::gelu": "activation",
    "aten::gelu_backward": "activation",
    "aten::sum": "bias gradients",
    "aten::copy_": "casts and copies",
    "aten::cat": "casts and copies",
}
"""What an operator's own time is counted as; everything else is "other"."""


def operations(update: Callable[[], Any]) -> int:
    """Floating-point operations in the matrix products of an update, from their shapes."""
    with FlopCounterMode(display=False) as counter:
        update()
    return counter.get_total_flops()


def milliseconds(
    update: Callable[[], Any], modules: Mapping[str, nn.Module], rounds: int = 3
) -> dict[str, dict[str, float]]:
    """Of the host in an update, the least of ``rounds``: by "part" (the forward passes of ``modules``, the backward pass,
    the optimizer) and by the "operators" that ran."""
    handles = []
    for name, module in modules.items():
        spans: list[record_function] = []

        def begin(
            module: nn.Module, args: Any, name: str = name, spans: list[record_function] = spans
        ) -> None:
            spans.append(record_function(name).__enter__())

        def end(module: nn.Module, args: Any, out: Any, spans: list[record_function] = spans) -> None:
            spans.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        passes = [_once(update, tuple(modules)) for _ in range(rounds)]
    finally:
        for handle in handles:
            handle.remove()
    return {
        view: {name: min(each[view].get(name, 0.0) for each in passes) for name in passes[0][view]}
        for view in ("part", "operators")
    }


def _once(update: Callable[[], Any], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    with profile() as recorded:
        update()
    part: dict[str, float] = defaultdict(float)
    operators: dict[str, float] = defaultdict(float)
    for event in recorded.key_averages():
        total, own = event.cpu_time_total / 1e3, event.self_cpu_time_total / 1e3
        if event.key in names:
            part[event.key] += total
        elif event.key.startswith("autograd::engine::evaluate_function"):
            part["backward"] += total
        elif event.key.startswith("Optimizer."):
            part["optimizer"] += total
        operators[KINDS.get(event.key, "other")] += own
    operators["other"] -= part["optimizer"]  # none of whose operators has a kind of its own
    operators["optimizer"] = part["optimizer"]
    return {"part": dict(part), "operators": dict(operators)}
