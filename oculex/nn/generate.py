"""Texts from a causal language model of transformers, a batch at a time, each until its end of text."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def generate(
    language: Any,
    prompts: Float[Tensor, "b l d"],
    lengths: Int[Tensor, "b"],
    end: int,
    most: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Up to ``most`` token ids after each prompt, without the ``end`` token where a text reached it.

    ``prompts`` are embeddings padded on the right. Keys and values are cached; a text that has ended leaves the batch.
    ``temperature`` 0 takes the likeliest token each time, any other draws from softmax(logits / temperature). Raises
    ValueError where prompt and answer need more positions than the model has.
    """
    limit = getattr(language.config, "max_position_embeddings", None)
    longest = int(lengths.max())
    if limit is not None and longest + most > limit:
        raise ValueError(f"prompts of {longest} tokens and answers of {most} exceed the {limit} positions")
    x, seen = _flush_right(prompts, lengths)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    embed, cache = language.get_input_embeddings(), None
    texts: list[list[int]] = [[] for _ in range(len(prompts))]
    alive = list(range(len(prompts)))
    for _ in range(most):
        out = language(
            inputs_embeds=x,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache, chosen = out.past_key_values, _choose(out.logits[:, -1].float(), temperature, generator)
        ids = chosen.tolist()
        going = [n for n, token in enumerate(ids) if token != end]
        for n in going:
            texts[alive[n]].append(ids[n])
        if not going:
            break
        if len(going) < len(ids):
            alive = [alive[n] for n in going]
            kept = torch.tensor(going, device=x.device)
            cache.batch_select_indices(kept)
            chosen, seen, positions = chosen[kept], seen[kept], positions[kept]
        x = embed(chosen[:, None])
        seen = torch.cat([seen, seen.new_ones(len(going), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return texts


def _flush_right(x: Float[Tensor, "b l d"], lengths: Int[Tensor, "b"]) -> tuple[Tensor, Tensor]:
    """Padding moved to the left, where all prompts end in one column; 1 on what is no padding."""
    columns = torch.arange(x.shape[1], device=x.device)
    padding = (x.shape[1] - lengths.to(x.device))[:, None]
    at = (columns - padding).clamp(min=0)
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[2])), (columns >= padding).long()


def _choose(logits: Float[Tensor, "b v"], temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
