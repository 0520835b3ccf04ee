"""A language model that sees, whole: image tower, connector, causal language model, and how it is asked and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from oculex.contracts import Assets, BadSample, Batch, Features, Sample, Tokenizer, UserError
from oculex.data.chat import IMAGE, ChatFormat, Turn
from oculex.data.collate import Ragged
from oculex.data.views import captions, image_view
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.image.towers import grid_of, leave_out
from oculex.nn.joint.connectors import ConnectorConfig, connector
from oculex.nn.joint.multimodal import answer_losses, answers, interleave
from oculex.nn.language.causal import LanguageConfig, check_vocabulary, language_model
from oculex.nn.language.generate import generate
from oculex.nn.weights import adopt


@dataclass(frozen=True)
class VisualLanguageConfig(ConnectorConfig, LanguageConfig, ImageEncoderConfig):
    blocks_left_out: int = 0
    """Last blocks of the image tower that its features do without; LLaVA's and BLIP-2's are those of the last but one."""
    vision_foundation: str = ""
    """Trained system whose image tower is taken; empty: fresh weights, or the recipe's ``init``."""
    query_foundation: str = ""
    """Trained system whose query transformer is taken, or blip2:NAME for BLIP-2's own; empty: fresh weights."""
    language_foundation: str = ""
    """Trained system whose language model is taken; empty: ``language`` has its own weights, or fresh ones."""
    template: str = ""
    """Chat template, in Jinja; empty: the tokenizer's own, or the plain one."""
    before_image: str = ""
    after_image: str = "\n"
    """What the first turn has around its image."""
    instructions: tuple[str, ...] = ("Describe the image.",)
    """What asks for a caption; training draws one."""
    crop: tuple[float, float] = (0.9, 1.0)
    """Area of the random square crop, as a share of the image."""

    def unused(self) -> dict[str, str]:
        """Fields that the others leave without effect, and why; setting one is a mistake."""
        query = (
            {}
            if self.connector == "query"
            else {"query_foundation": f"has no effect on connector={self.connector}"}
        )
        return ConnectorConfig.unused(self) | ImageEncoderConfig.unused(self) | query


FOUNDATIONS = {
    "vision_foundation": "image",
    "query_foundation": "connector.query",
    "language_foundation": "language",
}
"""Which part each field fills, from the part of that name there."""


class VisualLanguageModel(ImageEncoder):
    """Reads conversations about an image, in which the connector's visual tokens stand where the image is, and learns the
    answers. Its methods are a system's, and the capability to answer.
    """

    def __init__(self, config: Any, assets: Assets) -> None:
        super().__init__(config)
        self._assets, c = assets, config
        leave_out(self.image, c.blocks_left_out)
        training = bool(assets.sources())  # a finished run has all weights of its own
        self.language: Any = language_model(c, weights=training)
        width: int = self.language.get_input_embeddings().embedding_dim
        self.grid = grid_of(self.image, c.image_size)
        self.connector = connector(c, self.image.width, width, self.grid)
        self.visual = self.connector.count(self.grid)
        """Visual tokens of an image."""
        if self.visual >= c.context:
            raise UserError(
                f"an image of {c.image_size} pixels takes {self.visual} tokens, more than context={c.context} holds "
                "with a text; take another connector, a smaller image or a longer context"
            )
        for field, part in FOUNDATIONS.items():
            if training and (name := getattr(c, field)):
                there = dict(assets.foundation(name).named_modules()).get(part)
                adopt(self.get_submodule(part), there, f"{field}={name!r}")

    @property
    def tokenizer(self) -> Tokenizer:
        return self._assets.tokenizer(self.config.tokenizer)

    @property
    def chat(self) -> ChatFormat:
        """How it writes conversations; raises UserError where the vocabulary is smaller than the tokenizer's."""
        tokenizer: Any = self._assets.tokenizer(self.config.tokenizer)
        check_vocabulary(tokenizer.size, self.config)
        return ChatFormat(tokenizer, self.config.template)

    def view(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        """A random square crop and a conversation about it, cut at ``context``: the sample's own, or else an
        instruction and one of the captions, and the sample's questions, in random order. A conversation about no image
        has a black one, which no token stands for.

        Without ``rng`` the centre, and the sample's ``question``, or else the first instruction, unanswered.
        """
        c = self.config
        talk = sample.get("conversation") if rng is not None else None
        if talk and "image" not in sample:
            view = {"image": np.zeros((3, c.image_size, c.image_size), np.uint8)}
        else:
            view = image_view(sample, rng, c.image_size, c.crop)
        if rng is None:
            asked = sample.get("question") or (c.instructions[0] if view else None)
            if asked is None:
                return {}
            turns = _turns([(asked, None)], self._around() if view else ())
            encoded = self.chat.prompt(turns, [self.visual] if view else [], sample["id"])
            return view | {"tokens": encoded.tokens, "visual": encoded.visual}
        image = self._around() if "image" in sample else ()
        turns = self.conversation(sample, rng, image)
        counts = [self.visual] if image else []
        encoded = self.chat.encode(turns, counts, sample["id"]).cut(c.context, sample["id"])
        return view | {"tokens": encoded.tokens, "visual": encoded.visual, "trained": encoded.trained}

    def conversation(self, sample: Sample, rng: np.random.Generator, image: tuple[Any, ...]) -> list[Turn]:
        """What is learnt of a sample, with ``image`` before the first thing that is asked."""
        talk = sample.get("conversation")
        return _talked(talk, image) if talk else _turns(self._pairs(sample, rng), image)

    def _around(self) -> tuple[Any, ...]:
        return (self.config.before_image, IMAGE, self.config.after_image)

    def _pairs(self, sample: Sample, rng: np.random.Generator) -> list[tuple[str, str]]:
        """What is asked of a sample, and answered, in random order."""
        pairs = self._known(sample, rng)
        if not pairs:
            raise BadSample(
                sample["id"],
                "has neither captions, questions nor a conversation, which this system trains on",
            )
        return [pairs[n] for n in rng.permutation(len(pairs))]

    def _known(self, sample: Sample, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Its questions, and a caption where it has any."""
        texts, instructions = captions(sample), self.config.instructions
        pairs = [(each["question"], each["answer"]) for each in sample.get("questions") or ()]
        if texts:
            asked = instructions[int(rng.integers(len(instructions)))]
            pairs.append((asked, texts[int(rng.integers(len(texts)))]))
        return pairs

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """{"visual": [B, T, D]}: each image's visual tokens."""
        features, grid = self.image.tokens(self._normalised(batch["image"]))
        return {"visual": self.connector(features, grid)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Tensor]:
        embeddings = self.embedded(batch, features["visual"])
        return {"answers": answer_losses(self.language, embeddings, batch["tokens"], batch["trained"])}

    def items(self, batch: Batch) -> dict[str, int]:
        return {"answers": answers(batch["trained"])}

    def answer(self, batch: Batch, most: int) -> list[str]:
        """Raises UserError where the context has no room for an answer."""
        text: Ragged = batch["tokens"]
        room = self.config.context - int(text.lengths.max())
        if room < 1:
            raise UserError(
                f"a question takes {text.values.shape[1]} tokens, all of context={self.config.context}"
            )
        visual = self.encode(batch)["visual"] if "image" in batch else None
        prompts = self.embedded(batch, visual)
        said = generate(self.language, prompts, text.lengths, self.tokenizer.end, min(most, room))
        return [self.tokenizer.decode(ids) for ids in said]

    def embedded(self, batch: Batch, visual: Tensor | None) -> Float[Tensor, "b l d"]:
        """What the language model reads: the texts' embeddings with the images' visual tokens at their places."""
        words = self.language.get_input_embeddings()(batch["tokens"].values)
        if visual is None:
            return words
        places = batch["visual"].values.bool()
        return interleave(words, places, visual[places.any(1)])


def _talked(talk: list[dict[str, str]], image: tuple[Any, ...]) -> list[Turn]:
    """A conversation with the image before the first thing that the user says, as LLaVA moves it there."""
    first = next((n for n, turn in enumerate(talk) if turn["role"] == "user"), -1)
    return [
        Turn(turn["role"], (*image, turn["text"]) if n == first else (turn["text"],))
        for n, turn in enumerate(talk)
    ]


def _turns(pairs: list[tuple[str, Any]], image: tuple[Any, ...]) -> list[Turn]:
    """Questions and answers, the image before the first question; a question without an answer ends them."""
    turns = []
    for n, (asked, answer) in enumerate(pairs):
        turns.append(Turn("user", (*image, asked) if n == 0 else (asked,)))
        if answer is not None:
            turns.append(Turn("assistant", (answer,)))
    return turns
