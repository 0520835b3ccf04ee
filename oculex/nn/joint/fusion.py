"""ALBEF's network: an image tower, a text encoder whose later layers look at the image, and a shared space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import Batch, UserError
from oculex.nn.image.plain_encoder import PlainEncoder, PlainEncoderConfig
from oculex.nn.image.vit import VisionTransformer
from oculex.nn.language.bert import BertConfig, FusionBert


@dataclass(frozen=True)
class FusionConfig(PlainEncoderConfig):
    width: int = 768
    heads: int = 12
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    embedding: int = 256
    """Width of the shared space."""
    text_width: int = 768
    text_layers: int = 12
    fusion: int = 6
    """Layers of the text encoder that read the text alone; the others look at the image too."""
    text_heads: int = 12
    text_dropout: float = 0.1
    vocabulary: int = 21_128
    positions: int = 512
    context: int = 30
    """Most tokens of a text."""
    tokenizer: str = "hub:google-bert/bert-base-chinese"
    """Path of a tokenizer.json, clip, or corpus:SIZE for byte pairs learnt from the training captions."""


@dataclass(frozen=True)
class Reading:
    """What the network makes of a batch of pairs."""

    image: Float[Tensor, "b e"]
    text: Float[Tensor, "b e"]
    """In the shared space, before they are brought to unit norm."""
    words: Float[Tensor, "m v"]
    """Logits at the hidden places of all texts, in order; none where they were not asked for."""

    def unit(self) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image.float(), dim=-1), F.normalize(self.text.float(), dim=-1)


class FusionNetwork(PlainEncoder):
    """Image and text meet twice (ALBEF, Li et al. 2021, section 3.1): as two vectors in the shared space, and token by
    token where hidden words are predicted.

    Any image tower will do, one without a class token with ``pool=mean``. The methods are the capabilities of a dual
    encoder.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c = config
        if not 0 < c.fusion < c.text_layers:
            raise UserError(
                f"fusion={c.fusion} must leave layers on both sides of text_layers={c.text_layers}"
            )
        if c.pool == "mean" and hasattr(self.image, "pool"):
            self.image.pool = nn.Identity()  # nothing is asked of it
        if c.pool == "class" and not isinstance(self.image, VisionTransformer):
            raise UserError(f"image_tower={c.image_tower!r} has no class token here; set pool=mean")
        width = self.image.width
        self.text = FusionBert(
            BertConfig(
                c.vocabulary,
                c.positions,
                c.text_width,
                c.text_layers,
                c.text_heads,
                c.fusion,
                c.text_dropout,
                memory=width,
            )
        )
        self.image_projection = nn.Linear(width, c.embedding)
        self.text_projection = nn.Linear(c.text_width, c.embedding)

    def forward(self, batch: Batch, words: bool = True) -> Reading:
        """``tokens`` are the texts; for ``words``, ``masked`` are the texts with words hidden, ``hidden`` is 1 where they
        are."""
        tokens, grid = self.tokens(self._normalised(batch["image"]))
        whole = tokens[:, 0] if self.config.pool == "class" else tokens[:, -grid[0] * grid[1] :].mean(dim=1)
        own = self.text(batch["tokens"])
        places = self.text(batch["masked"], tokens)[batch["hidden"].values.bool()] if words else own[:0, 0]
        return Reading(
            self.image_projection(whole), self.text_projection(own[:, 0]), self.text.logits(places)
        )

    def encode_image(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm."""
        return F.normalize(self.image_projection(self.represent_image(batch)).float(), dim=-1)

    def encode_text(self, batch: Batch) -> Float[Tensor, "b d"]:
        """Unit norm."""
        return F.normalize(self.text_projection(self.text(batch["tokens"])[:, 0]).float(), dim=-1)
