"""GPT-2: Language Models are Unsupervised Multitask Learners.

Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei, Ilya Sutskever. OpenAI 2019.

A causal transformer predicts each token of a text from those before it (equation 1). It is the arm by which what
claims to hold for language models is tested: optimizers, schedules, further pretraining.

Departures. The model is transformers' (any of its causal models by ``language``), without dropout, as nanoGPT trains
it. A sample is a window of one text, not of a stream of texts: nothing is predicted across two texts. The preset
``tiny`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from oculex.contracts import (
    Assets,
    Batch,
    Data,
    Evaluation,
    Features,
    Optimizer,
    Plugin,
    Recipe,
    Sample,
    Schedule,
    Stage,
    System,
    Tokenizer,
)
from oculex.data.collate import Ragged
from oculex.data.views import text_view
from oculex.nn.language import LanguageConfig, check_vocabulary, language_model, padding_mask
from oculex.objectives.captioning import next_token, predicted

WHOLE = 1 << 20
"""Tokens of a text before its window is chosen."""


@dataclass(frozen=True)
class GPTConfig(LanguageConfig):
    language: str = "gpt2"


class GPT(System, nn.Module):
    """A causal language model trained from scratch."""

    def __init__(self, config: GPTConfig, assets: Assets) -> None:
        super().__init__()
        self.config, self._assets = config, assets
        self.language = language_model(config)

    @classmethod
    def build(cls, config: GPTConfig, assets: Assets) -> GPT:
        return cls(config, assets)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A window of at most ``context`` tokens of the text between its start and end token; of several texts one.

        Without ``rng`` the first window of the first text. Raises UserError where the vocabulary is the smaller one.
        """
        c, tokenizer = self.config, self._assets.tokenizer(self.config.tokenizer)
        check_vocabulary(tokenizer.size, c)
        view = text_view(sample, rng, tokenizer, WHOLE)
        ids = view.get("tokens", ())
        if len(ids) > c.context:
            at = 0 if rng is None else int(rng.integers(len(ids) - c.context + 1))
            view["tokens"] = ids[at : at + c.context]
        return view

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {"next_token": self._token_losses(batch["tokens"])}

    def items(self, batch: Batch) -> dict[str, int]:
        return {"next_token": int((batch["tokens"].lengths - 1).sum())}

    def log_likelihood(self, batch: Batch) -> Float[Tensor, "b 2"]:
        """log p of each text, the sum over its tokens after the first, and how many these are."""
        where, losses = predicted(batch["tokens"]), self._token_losses(batch["tokens"])
        spread = torch.zeros(where.shape, device=where.device).masked_scatter(where, losses)
        return torch.stack([-spread.sum(1), where.sum(1).float()], 1)

    def _token_losses(self, text: Ragged) -> Float[Tensor, "k"]:
        where = predicted(text)
        logits = self.language(input_ids=text.values, attention_mask=padding_mask(text)).logits
        return next_token(logits[:, :-1][where], text.values[:, 1:][where])


# ------------------------------------------------------------------------------------------------- presets


def _tiny() -> Recipe:
    """The captions of the embedded world, minutes on two CPU cores."""
    model = GPTConfig(
        language_width=128,
        language_layers=4,
        language_heads=4,
        context=64,
        vocabulary=2048,
        tokenizer="corpus:2048",
    )
    return Recipe(
        system="gpt",
        model=model,
        budget="60s",
        batch=256,
        optimizer=Optimizer(lr=2e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=0.05, floor=0.1)),),
        data=Data(sources=("world:style=detailed",)),
        evaluation=Evaluation(tasks=("language",)),
    )


def _tiny_llama() -> Recipe:
    """As ``tiny``, of Llama's kind and with a context in which an image and a conversation find room: the foundation of
    systems that give a language model eyes."""
    recipe = _tiny()
    return replace(recipe, model=replace(recipe.model, language="llama", context=256))


def _gpt2(width: int, layers: int, heads: int) -> Recipe:
    """The sizes of the paper's table 2; its optimizer is not told, so nanoGPT's: 600,000 updates of 491,520 tokens."""
    return Recipe(
        system="gpt",
        model=GPTConfig(language_width=width, language_layers=layers, language_heads=heads),
        budget="600000steps",
        batch=480,
        precision="bf16-mixed",
        optimizer=Optimizer(lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        stages=(Stage(schedule=Schedule("cosine", warmup=2000, floor=0.1)),),
        data=Data(sources=(), workers=8),
        evaluation=Evaluation(tasks=("language",)),
    )


SYSTEM = Plugin(
    system=GPT,
    config=GPTConfig,
    presets={
        "tiny": _tiny,
        "tiny_llama": _tiny_llama,
        "gpt2": partial(_gpt2, 768, 12, 12),
        "gpt2_medium": partial(_gpt2, 1024, 24, 16),
        "gpt2_large": partial(_gpt2, 1280, 36, 20),
        "gpt2_xl": partial(_gpt2, 1600, 48, 25),
    },
)
