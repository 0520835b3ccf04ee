"""Low-rank adaptation (LoRA, Hu et al. 2022) of our attention, by peft: W x + (alpha / r) B A x; A and B learn."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import UserError
from oculex.nn.blocks import Attention

TARGETS = ("q", "k", "v", "out")
"""Projections of an ``Attention`` whose qkv was ``split``; those that LoRA's users adapt."""


class Split(nn.Module):
    """The projections to queries, keys and values as three layers, so that each gets a low-rank part of its own; what
    they give stands one after the other, as from the one layer."""

    def __init__(self, joint: nn.Linear) -> None:
        super().__init__()
        width = joint.in_features
        for name, weight, bias in zip("qkv", joint.weight.chunk(3), joint.bias.chunk(3), strict=True):
            part = nn.Linear(width, width, device=weight.device, dtype=weight.dtype)
            if not weight.is_meta:
                part.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
            self.add_module(name, part)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        return torch.cat([part(x) for part in self.children()], dim=-1)

    def joined(self) -> nn.Linear:
        """One layer that gives the same."""
        parts: list[Any] = list(self.children())
        width = parts[0].in_features
        joint = nn.Linear(width, 3 * width, device=parts[0].weight.device, dtype=parts[0].weight.dtype)
        weights = {name: torch.cat([getattr(p, name).detach() for p in parts]) for name in ("weight", "bias")}
        joint.load_state_dict(weights)
        return joint


def adapt(network: nn.Module, rank: int, alpha: float, within: str = "attention") -> None:
    """Adds low-rank parts to every ``Attention`` of a network that goes by the name ``within``, in place.

    A starts from He's uniform distribution and B from 0, so that the network gives what it gave. All other weights stay
    parameters; which of them are trained is a stage's choice (``*lora_*``). Raises UserError where peft is missing or
    nothing goes by that name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("LoRA needs peft; pip install 'oculex[lora]'") from error
    found = [(name, m) for name, m in network.named_modules() if isinstance(m, Attention)]
    chosen = [(name, m) for name, m in found if name.rpartition(".")[2] == within]
    if not chosen:
        raise UserError(f"LoRA finds no {within!r} in this network, such as our vision transformer has")
    names = []
    for name, attention in chosen:
        attention.qkv = Split(attention.qkv)  # type: ignore[assignment]
        names += [f"{name}.qkv.{part}" for part in "qkv"] + [f"{name}.out"]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, bias="none")  # type: ignore[arg-type]
    inject_adapter_in_model(config, network)


def adapted(network: nn.Module) -> bool:
    """Whether a network has low-rank parts."""
    return any(".lora_A." in name for name, _ in network.named_parameters())


def merged(network: nn.Module) -> nn.Module:
    """A copy whose low-rank parts are added to the weights they stand beside: as it was before ``adapt``, and gives the
    same as the network, within rounding. Where peft was put into a language model of transformers it works as well."""
    from peft.tuners.lora import LoraLayer

    plain = deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(plain.get_submodule(parent), leaf, module.get_base_layer())
    for module in plain.modules():
        if isinstance(module, Attention) and isinstance(module.qkv, Split):
            module.qkv = module.qkv.joined()
    return plain
