"""Texts from a causal language model of transformers, a batch at a time, each until its end of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """How a token is chosen of those that may come next."""

    temperature: float = 0.0
    """0 takes the likeliest, any other draws from softmax(logits / temperature)."""
    generator: torch.Generator | None = None
    """What is drawn by; None: torch's own."""
    told: Callable[[list[list[int]]], None] | None = None
    """Called after each token with the token ids of all texts so far. What it raises ends the writing."""


_CHOICE: ContextVar[Choice | None] = ContextVar("choice", default=None)


@contextmanager
def choosing(choice: Choice) -> Iterator[None]:
    """Within, texts are written by this choice. Systems ask for the likeliest tokens, which is what evaluations need; a
    person who talks to one may want it to draw, and to see each word when it is there."""
    before = _CHOICE.set(choice)
    try:
        yield
    finally:
        _CHOICE.reset(before)


@torch.no_grad()
def generate(
    language: Any,
    prompts: Float[Tensor, "b l d"],
    lengths: Int[Tensor, "b"],
    end: int,
    most: int,
    choice: Choice | None = None,
    allowed: Bool[Tensor, "s v"] | None = None,
) -> list[list[int]]:
    """Up to ``most`` token ids after each prompt, without the ``end`` token where a text reached it.

    ``prompts`` are embeddings padded on the right. Keys and values are cached; a text that has ended leaves the batch.
    ``choice``: how tokens are chosen; None: as the surrounding ``choosing`` says, and the likeliest without one.
    ``allowed``: which may be chosen at the first, the second ... place of a text, and at all places after these. Raises
    ValueError where prompt and answer need more positions than the model has.
    """
    by = choice or _CHOICE.get() or Choice()
    limit = getattr(language.config, "max_position_embeddings", None)
    longest = int(lengths.max())
    if limit is not None and longest + most > limit:
        raise ValueError(f"prompts of {longest} tokens and answers of {most} exceed the {limit} positions")
    x, seen = _flush_right(prompts, lengths)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    embed, cache = language.get_input_embeddings(), None
    texts: list[list[int]] = [[] for _ in range(len(prompts))]
    alive = list(range(len(prompts)))
    for place in range(most):
        out = language(
            inputs_embeds=x,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = out.logits[:, -1].float()
        if allowed is not None:
            logits = logits.masked_fill(~allowed[min(place, len(allowed) - 1)], -torch.inf)
        cache, chosen = out.past_key_values, _choose(logits, by)
        ids = chosen.tolist()
        going = [n for n, token in enumerate(ids) if token != end]
        for n in going:
            texts[alive[n]].append(ids[n])
        if by.told is not None:
            by.told(texts)
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


def _choose(logits: Float[Tensor, "b v"], by: Choice) -> Tensor:
    if by.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / by.temperature).softmax(-1), 1, generator=by.generator)[:, 0]
