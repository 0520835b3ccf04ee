"""Transformers' language models over sequences that are kept one after another: what is done token by token is done to no
padding, and each sequence attends to itself alone, from its own position 0 on."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from oculex.nn.blocks import Packing, attend

NAME = "oculex_packed"


def attention(
    module: Any,
    query: Float[Tensor, "b h l d"],
    key: Float[Tensor, "b g m d"],
    value: Float[Tensor, "b g m d"],
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "b l h d"], None]:
    """Of each packed sequence to itself, else transformers' own."""
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, sliding_window=sliding_window, **options
        )
    each = zip(*(x.split(packing.lengths, 2) for x in (query, key, value)), strict=True)
    mixed = [_own(module, q, k, v, sliding_window, **options) for q, k, v in each]
    return torch.cat(mixed, 2).transpose(1, 2), None


def _own(
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    most: int | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> Float[Tensor, "1 h n e"]:
    """A token sees itself and what stands before it, ``most`` tokens in all."""
    n, width = q.shape[2:]
    seen = None
    if most is not None and most < n:
        back = torch.arange(n, device=q.device)[:, None] - torch.arange(n, device=q.device)
        seen = ((back >= 0) & (back < most))[None, None]
    if dropout:
        out, _ = sdpa_attention_forward(
            module, q, k, v, seen, dropout=dropout, scaling=scaling, is_causal=seen is None, **options
        )
        return out.transpose(1, 2)
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    if scaling is not None and scaling != width**-0.5:
        q = q * (scaling * width**0.5)
    return attend(q, k, v, causal=seen is None, seen=seen)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def prepare(model: Any) -> Any:
    """The model; ``logits`` runs it without padding where it lets attention be chosen and needs none but torch's."""
    if model._supports_attention_backend and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)
    return model


def logits(
    model: Any, x: Float[Tensor, "t d"], packing: Packing, at: Int[Tensor, "k"]
) -> Float[Tensor, "k v"]:
    """What the model says after the tokens ``at`` of the packed embeddings."""
    if model.config._attn_implementation == NAME:
        own = packing.slots % packing.length
        nothing = x.new_empty(1, 1, 0, 0)  # a mask that is taken as it is: attention is told by ``packing``
        out = model(inputs_embeds=x[None], position_ids=own[None], attention_mask=nothing, packing=packing,
                    use_cache=False, logits_to_keep=at)  # fmt: skip
        return out.logits[0]
    real = packing.pad(torch.ones_like(x[:, :1]))[..., 0].long()
    out = model(inputs_embeds=packing.pad(x), attention_mask=real, use_cache=False)
    return packing.pack(out.logits)[at]
