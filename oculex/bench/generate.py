"""Texts from a causal language model, a batch at a time: oculex's ``generate`` against transformers', on one model.

Both cache keys and values, take the likeliest token and stop each text at its end. They differ in what happens to a text
that has ended: here it leaves the batch, there it is padded until the last one ends. So two cases are measured: no text
ends before it is as long as is asked for, and texts end at different times. In the second the end of text is the token
that makes the lengths differ most, as random weights write no ends of their own.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oculex.bench.profile import operations
from oculex.bench.rounds import duel, matmul_peak
from oculex.data.collate import Ragged
from oculex.nn.language.causal import LanguageConfig, language_model, padding_mask
from oculex.nn.language.generate import generate

MODEL = LanguageConfig(
    language="llama", language_width=256, language_layers=6, language_heads=4, context=256, vocabulary=128
)
TEXTS = 32
PROMPT = (4, 48)
"""Tokens of the shortest and the longest prompt."""
MOST = 96


def run(
    rounds: int = 8, model: LanguageConfig = MODEL, texts: int = TEXTS, most: int = MOST
) -> dict[str, Any]:
    """Tokens per second of whole batches, after the check that both sides write the same texts: ``result`` where no text
    ends early, and under "ending" where they do."""
    load = os.getloadavg()[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    language, prompts = contestant(model, texts, device)
    free = written(language, prompts, -1, most)
    end = spreading(free, model.vocabulary)
    sides = {}
    for name, stop in (("whole", -1), ("ending", end)):
        ours, theirs = written(language, prompts, stop, most), peers(language, prompts, stop, most)
        if ours != theirs:
            first = next(n for n, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
            raise RuntimeError(f"text {first} differs: oculex {ours[first]}, transformers {theirs[first]}")
        tokens = sum(map(len, ours))
        found = duel(
            lambda stop=stop: written(language, prompts, stop, most),  # type: ignore[misc]
            lambda stop=stop: peers(language, prompts, stop, most),  # type: ignore[misc]
            rounds,
            tokens,
            "tokens/s",
        )
        lengths = [len(text) for text in ours]
        sides[name] = found | {
            "tokens": tokens,
            "ended": sum(length < most for length in lengths),
            "lengths": {f"p{q}": int(np.quantile(lengths, q / 100)) for q in (10, 50, 90)},
        }
    flops, peak = operations(lambda: written(language, prompts, -1, most)), matmul_peak(torch.float32, device)
    whole = sides.pop("whole")
    return (
        whole
        | sides
        | {
            "of_peak": flops * whole["ours"] / whole["tokens"] / peak,
            "peak": peak,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "load": load,
        }
    )


def contestant(config: LanguageConfig, texts: int, device: torch.device) -> tuple[Any, Ragged]:
    """A model whose likeliest tokens are far from ties, and prompts of different lengths."""
    torch.manual_seed(0)
    language = language_model(config)
    for weight in language.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    rng = np.random.default_rng(0)
    lengths = rng.integers(PROMPT[0], PROMPT[1] + 1, texts)
    prompts = Ragged.of([rng.integers(0, config.vocabulary, length).tolist() for length in lengths])
    return language.to(device).eval(), prompts.to(device)


def written(language: Any, prompts: Ragged, end: int, most: int) -> list[list[int]]:
    """Ours; ``end`` -1: no token ends a text."""
    embedded = language.get_input_embeddings()(prompts.values)
    with torch.inference_mode():
        return generate(language, embedded, prompts.lengths, end, most)


def peers(language: Any, prompts: Ragged, end: int, most: int) -> list[list[int]]:
    """Transformers', on prompts padded on the left, as it asks for."""
    ids, mask = flushed(prompts)
    padding = 0
    out = language.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=most, pad_token_id=padding,
        eos_token_id=end if end >= 0 else None,
    )  # fmt: skip
    rows = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(end)] if end in row else row for row in rows]


def flushed(prompts: Ragged) -> tuple[Tensor, Tensor]:
    """(ids, mask), the padding moved to the left."""
    ids, mask = prompts.values, padding_mask(prompts)
    at = (torch.arange(ids.shape[1], device=ids.device) + prompts.lengths[:, None]) % ids.shape[1]
    return ids.gather(1, at), mask.gather(1, at)


def spreading(texts: list[list[int]], vocabulary: int) -> int:
    """The token whose first places in the texts differ most; a text that lacks it counts as long as it is."""

    def spread(token: int) -> float:
        return float(np.std([text.index(token) if token in text else len(text) for text in texts]))

    return max(range(vocabulary), key=spread)
