"""Fusion on top of finished towers: layers of its own, which FIBER does without.

Co-attention as METER has it (Dou et al. 2022, An Empirical Study of Training End-to-End Vision-and-Language
Transformers): in each layer both modalities attend to themselves, to the other as the layer before left it, and pass an
MLP, with weights of their own. METER brings both to one width first; here each keeps its tower's.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from oculex.nn.language.bert import BertLayer

EPS = 1e-12


class FusionOnTop(nn.Module):
    """``layers`` of co-attention between images' tokens of width ``image`` and texts' of width ``text``."""

    def __init__(
        self, layers: int, image: int, image_heads: int, text: int, text_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.of_image = nn.ModuleList(
            BertLayer(image, image_heads, True, dropout, EPS, text) for _ in range(layers)
        )
        self.of_text = nn.ModuleList(
            BertLayer(text, text_heads, True, dropout, EPS, image) for _ in range(layers)
        )

    def forward(
        self, patches: Float[Tensor, "b n c"], words: Float[Tensor, "b m d"], seen: Bool[Tensor, "b 1 1 m"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b m d"]]:
        """``seen``: which words are no padding."""
        pairs: Any = zip(self.of_image, self.of_text, strict=True)
        for image, text in pairs:
            patches, words = image(patches, None, words, seen), text(words, seen, patches)
        return patches, words
