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
    UserError,
)
from oculex.data.collate import Ragged
from oculex.data.views import text_view
from oculex.nn.language.causal import LanguageConfig, check_vocabulary, language_model, padding_mask
from oculex.nn.language.generate import generate
from oculex.objectives.captioning import next_token, predicted
from oculex.systems import tiny

WHOLE = 1 << 20
"""Tokens of a text before its window is chosen."""


@dataclass(frozen=True)
class GPTConfig(LanguageConfig):
    language: str = "gpt2"
    told: bool = False
    """In training another text of the same sample stands before, as if one had been told, and what is said after it is
    a text or the answer to one of the sample's questions. So it has learnt to speak of what stands before, where a
    system that gives it eyes puts an image."""


class GPT(System, nn.Module):
    """A causal language model trained from scratch."""

    def __init__(self, config: GPTConfig, assets: Assets) -> None:
        super().__init__()
        self.config, self._assets = config, assets
        self.language = language_model(config, weights=bool(assets.sources()))

    @classmethod
    def build(cls, config: GPTConfig, assets: Assets) -> GPT:
        return cls(config, assets)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A window of at most ``context`` tokens of the text between its start and end token; of several texts one, in
        training after another one where ``told``.

        Without ``rng`` the first window of the first text. Raises UserError where the vocabulary is the smaller one.
        """
        c, tokenizer = self.config, self._assets.tokenizer(self.config.tokenizer)
        check_vocabulary(tokenizer.size, c)
        view = text_view(sample, rng, tokenizer, WHOLE)
        if rng is not None and c.told:
            view["tokens"] = self._told(view["tokens"], sample, rng)
        ids = view.get("tokens", ())
        if len(ids) > c.context:
            at = 0 if rng is None else int(rng.integers(len(ids) - c.context + 1))
            view["tokens"] = ids[at : at + c.context]
        return view

    def _told(self, text: list[int], sample: Sample, rng: np.random.Generator) -> list[int]:
        """The text, one time in four a question too, an end token, and what is said: another text, or the answer."""
        tokenizer, asked = self.tokenizer, sample.get("questions")
        if asked and rng.random() < 0.25:
            chosen = asked[int(rng.integers(len(asked)))]
            question, said = (tokenizer.encode(chosen[key], WHOLE)[1:] for key in ("question", "answer"))
            return [*text[:-1], *question, *said]
        return [*text, *text_view(sample, rng, tokenizer, WHOLE)["tokens"][1:]]

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        return {"next_token": self._token_losses(batch["tokens"])}

    def items(self, batch: Batch) -> dict[str, int]:
        return {"next_token": int((batch["tokens"].lengths - 1).sum())}

    def log_likelihood(self, batch: Batch) -> Float[Tensor, "b 2"]:
        """log p of each text, the sum over its tokens after the first, and how many these are."""
        where, losses = predicted(batch["tokens"]), self._token_losses(batch["tokens"])
        spread = torch.zeros(where.shape, device=where.device).masked_scatter(where, losses)
        return torch.stack([-spread.sum(1), where.sum(1).float()], 1)

    def continue_text(self, batch: Batch, most: int) -> list[str]:
        """Raises UserError where the context has no room after a text."""
        text: Ragged = batch["tokens"]
        if any(ids[-1] != self.tokenizer.end for ids in text.rows()):  # the view has cut it
            raise UserError(f"a text takes all of context={self.config.context}; give a shorter one")
        lengths = text.lengths - 1
        room = self.config.context - int(lengths.max())
        prompts = self.language.get_input_embeddings()(text.values[:, :-1])
        said = generate(self.language, prompts, lengths, self.tokenizer.end, min(most, room))
        return [self.tokenizer.decode(ids) for ids in said]

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


def _tiny_reader() -> Recipe:
    """A smaller one, in half a minute, of scenes of few classes told in short and at length, with questions about them,
    and a quarter as found on the web. Nobody looks at the pictures, so these have 8 pixels a side."""
    recipe = _tiny_llama()
    sizes = {
        "language_width": 64,
        "language_layers": 2,
        "language_std": 1 / 8,
        "context": 128,
        "vocabulary": 512,
    }
    scenes = f"{tiny.FEW_CONCEPTS},size=8,scenes=3000"
    sources = (
        f"{scenes},style=alt+detailed,captions=4,keys=questions@3",
        f"{scenes},style=alt+noisy,captions=4@1",
    )
    return replace(
        recipe,
        model=replace(recipe.model, **sizes, told=True, tokenizer="corpus:512"),
        budget="25e3samples",
        batch=32,
        precision="32-true",
        optimizer=replace(recipe.optimizer, lr=4e-3),
        data=Data(sources=sources, workers=0),
    )


def _gpt2(width: int, layers: int, heads: int) -> Recipe:
    """The sizes of the paper's table 2; its optimizer is not told, so nanoGPT's: 600,000 updates of 491,520 tokens.

    The learning rate and the weight decay are AdamW's: ``optimizer.part=sgd_sai`` needs its own beside it (``sgd_sai``).
    """
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
        "tiny_reader": _tiny_reader,
        "gpt2": partial(_gpt2, 768, 12, 12),
        "gpt2_medium": partial(_gpt2, 1024, 24, 16),
        "gpt2_large": partial(_gpt2, 1280, 36, 20),
        "gpt2_xl": partial(_gpt2, 1600, 48, 25),
    },
)
