"""An image's tokens from a causal language model, with guidance."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@torch.no_grad()
def draw_tokens(
    language: Any,
    prompts: Float[Tensor, "b l d"],
    lengths: Int[Tensor, "b"],
    blind: Float[Tensor, "m d"],
    allowed: range,
    end: int,
    most: int,
    least: int = 1,
    guidance: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 50,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """``least`` to ``most`` tokens of ``allowed`` after each prompt, until ``end``, which is not among them.

    ``prompts`` are embeddings padded on the right. With ``guidance`` g the log-probabilities are b + g (p - b), p after
    the prompt and b after ``blind`` alone (Sanchez et al. 2023, as in transformers). Of the ``top_k`` likeliest one is
    drawn; ``temperature`` 0 takes the likeliest.
    """
    embed, rows = language.get_input_embeddings(), len(prompts)
    told = _Reader(language, prompts, lengths)
    guided = guidance != 1.0
    blank = (
        _Reader(language, blind.expand(rows, -1, -1), lengths.new_full((rows,), len(blind)))
        if guided
        else None
    )
    barred = torch.ones(language.config.vocab_size, dtype=torch.bool, device=prompts.device)
    barred[allowed.start : allowed.stop] = False
    drawn = torch.full((rows, most), end, device=prompts.device)
    for n in range(most):
        scores = told.scores()
        if blank is not None:
            unseen = blank.scores()
            scores = unseen + guidance * (scores - unseen)
        barred[end] = n < least
        scores = scores.masked_fill(barred, float("-inf"))
        if temperature == 0:
            chosen = scores.argmax(-1)
        else:
            best = scores.topk(min(top_k, len(allowed)), dim=-1)
            at = torch.multinomial((best.values / temperature).softmax(-1), 1, generator=generator)
            chosen = best.indices.gather(1, at)[:, 0]
        if n:
            chosen = torch.where(drawn[:, n - 1] == end, end, chosen)
        drawn[:, n] = chosen
        if bool((chosen == end).all()):
            break
        for reader in (told, blank):
            if reader is not None:
                reader.read(embed(chosen[:, None]))
    return [row[: row.index(end)] if end in row else row for row in drawn.tolist()]


class _Reader:
    """What a language model has read so far, and what it expects next."""

    def __init__(self, language: Any, prompts: Tensor, lengths: Tensor) -> None:
        columns = torch.arange(prompts.shape[1], device=prompts.device)
        padding = (prompts.shape[1] - lengths.to(prompts.device))[:, None]
        at = (columns - padding).clamp(
            min=0
        )  # padding goes to the left, so that all prompts end in one column
        x = prompts.gather(1, at[..., None].expand(-1, -1, prompts.shape[2]))
        self.language, self.seen = language, (columns >= padding).long()
        self.out = self._forward(x, (self.seen.cumsum(1) - 1).clamp(min=0), None)

    def read(self, x: Tensor) -> None:
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(self.seen), 1)], 1)
        self.out = self._forward(x, self.seen.sum(1, keepdim=True) - 1, self.out.past_key_values)

    def scores(self) -> Tensor:
        return self.out.logits[:, -1].float().log_softmax(-1)

    def _forward(self, x: Tensor, positions: Tensor, cache: Any) -> Any:
        return self.language(
            inputs_embeds=x, attention_mask=self.seen, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
