"""Weights by their content, and taken from another network."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from oculex.contracts import UserError


def weights_hash(module: nn.Module) -> str:
    """A digest of the state dict: names, types, shapes and every bit of every tensor."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def adopt(own: nn.Module, other: nn.Module | None, name: str) -> None:
    """Takes all weights of a network of the same sizes; UserError, which names ``name``, where they differ."""
    found = {} if other is None else other.state_dict()
    wanted = own.state_dict()
    lacking = [n for n in wanted if n not in found or found[n].shape != wanted[n].shape]
    if lacking:
        raise UserError(
            f"{name} has no {lacking[0]} of shape {tuple(wanted[lacking[0]].shape)}; give it and the model the same sizes"
        )
    own.load_state_dict({n: found[n] for n in wanted})
