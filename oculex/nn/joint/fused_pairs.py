"""What FIBER's first stage does with pairs: vectors of each side alone, and what they are worth together.

Dou et al. 2022, section 3.2. Poolers bring both towers into spaces of their own, for the two kinds of reading; heads
tell pairs that belong together and hidden words.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import Batch
from oculex.data.collate import Ragged
from oculex.nn.joint.fusion_in_backbone import FusionInBackbone, LowerImage, LowerText
from oculex.nn.language.roberta import WordHead

TILE = 128
"""Texts that are matched with an image at a time."""


class Pooler(nn.Module):
    """A tower's vector in a space of its own: tanh(W2 W1 x). ``words`` is W1 alone, of every token."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.transform, self.pool = nn.Linear(inside, width), nn.Linear(width, width)

    def words(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n d"]:
        return self.transform(x)

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b d"]:
        return self.pool(self.transform(x)).tanh()


class FusedPairs(FusionInBackbone):
    """A dual encoder and a fusion encoder in one. Of the configuration it needs ``embedding`` beside the network's."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c, image = config, self.image.width
        self.alone_image, self.alone_text = Pooler(image, c.embedding), Pooler(c.text_width, c.embedding)
        self.fused_image, self.fused_text = Pooler(image, c.embedding), Pooler(c.text_width, c.embedding)
        self.word_head = WordHead(c.embedding, c.vocabulary)
        self.match_head = nn.Linear(2 * c.embedding, 2)
        poolers = (self.alone_image, self.alone_text, self.fused_image, self.fused_text)
        self.draw_weights(*poolers, self.word_head, self.match_head)

    # ------------------------------------------------------------------------------------------ alone

    def embed_image(self, image: LowerImage) -> Float[Tensor, "b d"]:
        """Unit norm, without a look at any text."""
        return F.normalize(self.alone_image(self.read_image(image).mean(dim=1)).float(), dim=-1)

    def embed_text(self, text: LowerText) -> Float[Tensor, "b d"]:
        """Unit norm, without a look at any image."""
        return F.normalize(self.alone_text(self.read_text(text)[:, 0]).float(), dim=-1)

    def encode_image(self, batch: Batch) -> Float[Tensor, "b d"]:
        return self.embed_image(self.lower_image(self._normalised(batch["image"])))

    def encode_text(self, batch: Batch) -> Float[Tensor, "b d"]:
        return self.embed_text(self.lower_text(batch["tokens"]))

    # --------------------------------------------------------------------------------------- together

    def match(self, image: LowerImage, text: LowerText) -> Float[Tensor, "b 2"]:
        """Logits of "does not belong together" and "does", of an image and a text that have seen each other."""
        maps, words = self.fuse(image, text, last_norm=False)
        seen = [self.fused_text(words[:, 0]), self.fused_image(maps[-1].flatten(1, 2).mean(dim=1))]
        return self.match_head(torch.cat(seen, dim=-1))

    def hidden_words(
        self, image: LowerImage, masked: Ragged, hidden: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "m v"]:
        """Logits over the vocabulary at the hidden places of all texts, in order, from the other words and the image."""
        _, words = self.fuse(image, self.lower_text(masked), last_norm=False)
        return self.word_head(self.fused_text.words(words[hidden])).float()

    def match_texts(self, images: Batch, texts: Batch) -> Float[Tensor, "i t"]:
        """Log of how much likelier than not each image and text belong together."""
        maps = self.lower_image(self._normalised(images["image"])).map
        tokens: Ragged = texts["tokens"]
        tiles = [self.lower_text(tokens[start : start + TILE]) for start in range(0, len(tokens), TILE)]

        def row(own: Tensor) -> Tensor:
            logits = [
                self.match(LowerImage(own.expand(len(tile.lengths), -1, -1, -1)), tile) for tile in tiles
            ]
            return torch.cat(logits).float() @ torch.tensor([-1.0, 1.0], device=own.device)

        return torch.stack([row(own) for own in maps.split(1)])
