"""FIBER's network: two towers whose last blocks look at each other through gates that start closed.

Dou et al. 2022, section 3.1. In each of the last ``fusion`` blocks what self-attention found, x, becomes
x + gate * attention(x, the other tower's tokens), for both towers from what the block before gave. With the gates left
out the same weights are two towers that know nothing of each other, so one model is a dual and a fusion encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from oculex.contracts import UserError
from oculex.data.collate import Ragged
from oculex.nn.image.image_encoder import ImageEncoder, ImageEncoderConfig
from oculex.nn.joint.fusion_on_top import FusionOnTop
from oculex.nn.language.bert import ImageAttention
from oculex.nn.language.roberta import Roberta, RobertaConfig, alone, drawn_as_berts


@dataclass(frozen=True)
class FusionInBackboneConfig(ImageEncoderConfig):
    image_tower: str = "swin_base_patch4_window12_384"
    """Any Swin of timm's, or swin, sized by patch, width, layers and heads."""
    image_size: int = 384
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    drop_path: float = 0.1
    """Of the image tower's last block."""
    fusion: int = 6
    """Blocks at the end of each tower that look at the other one."""
    place: str = "backbone"
    """Where they meet: backbone, or top for as many layers more above both towers, which it is compared with."""
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_dropout: float = 0.1
    deviation: float = 0.02
    """Of fresh weights but the image tower's. BERT's 0.02 keeps the size of what passes through several hundred channels;
    through few it makes next to nothing of it, and gates that start closed then open late."""
    vocabulary: int = 50_265
    positions: int = 514
    tokenizer: str = "hub:FacebookAI/roberta-base"
    """hub:NAME, or corpus:SIZE for byte pairs learnt from the training captions."""


class Gate(nn.Module):
    """x + gate * attention(norm(x), the other modality's tokens); the gate is one number that starts at 0.

    ``memory`` is the width of the other's tokens. ``norm``: whether x is normalised before it asks, as the authors do in
    the image tower and not in the text's.
    """

    def __init__(self, width: int, heads: int, memory: int, norm: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.cross, self.dropout = ImageAttention(width, heads, memory), nn.Dropout(dropout)
        self.cross.dropout = dropout
        self.gate = nn.Parameter(torch.zeros(()))
        self.apply(drawn_as_berts)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        other: Float[Tensor, "b m e"],
        seen: Bool[Tensor, "b 1 1 m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        return x + self.gate * self.dropout(self.cross(self.norm(x), other, seen))


@dataclass(frozen=True)
class LowerImage:
    """What the blocks below the fusion make of images: the same whether they are fused or not."""

    map: Float[Tensor, "b h w c"]
    stages: tuple[Float[Tensor, "b _ _ _"], ...] = ()
    """The maps of the stages that end here, where somebody asks for them."""


@dataclass(frozen=True)
class LowerText:
    """What the layers below the fusion make of texts."""

    words: Float[Tensor, "b n d"]
    lengths: Int[Tensor, "b"]

    @property
    def seen(self) -> Bool[Tensor, "b 1 1 n"]:
        """Which tokens are no padding."""
        places = torch.arange(self.words.shape[1], device=self.words.device)
        return (places < self.lengths[:, None])[:, None, None]

    def padded(self, length: int) -> Float[Tensor, "b l d"]:
        return F.pad(self.words, (0, 0, 0, length - self.words.shape[1]))

    @classmethod
    def cut(cls, words: Float[Tensor, "b l d"], lengths: Int[Tensor, "b"]) -> LowerText:
        """Of a table of texts, to the longest of them."""
        return cls(words[:, : int(lengths.max())], lengths)


class FusionInBackbone(ImageEncoder):
    """A Swin and a RoBERTa with gates between their last blocks."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c = config
        swin: Any = getattr(self.image, "model", None)
        if not hasattr(swin, "layers") or not hasattr(swin.layers[0].blocks[0], "_attn"):
            raise UserError(
                f"image_tower={c.image_tower!r} is no Swin, which fusion in the backbone is built on here"
            )
        self.text = Roberta(
            RobertaConfig(
                c.vocabulary, c.positions, c.text_width, c.text_layers, c.text_heads, c.text_dropout
            )
        )
        blocks = [block for _, block in self._blocks()]
        if c.place not in ("backbone", "top"):
            raise UserError(f"place={c.place!r} is unknown; known: backbone, top")
        if not 0 < c.fusion <= min(len(blocks) - 1, c.text_layers):
            raise UserError(
                f"fusion={c.fusion} must be at least 1, leave an image block before it (there are {len(blocks)}) and "
                f"not exceed text_layers={c.text_layers}"
            )
        inside = c.fusion if c.place == "backbone" else 0
        self.below, self.text_below = len(blocks) - inside, c.text_layers - inside
        """Image blocks and text layers below the fusion."""
        last = blocks[self.below :]
        self.to_image = nn.ModuleList(
            Gate(block.dim, block.attn.num_heads, c.text_width, norm=True) for block in last
        )
        self.to_text = nn.ModuleList(
            Gate(c.text_width, c.text_heads, block.dim, norm=False, dropout=c.text_dropout) for block in last
        )
        self.to_each_other: FusionOnTop | None = None
        if c.place == "top":
            heads = blocks[-1].attn.num_heads
            self.to_each_other = FusionOnTop(
                c.fusion, blocks[-1].dim, heads, c.text_width, c.text_heads, c.text_dropout
            )
        self.draw_weights(self.text, self.to_image, self.to_text, *filter(None, [self.to_each_other]))

    def draw_weights(self, *parts: nn.Module) -> None:
        """Fresh weights of parts, with the configured deviation."""
        for part in parts:
            part.apply(partial(drawn_as_berts, deviation=self.config.deviation))

    # ---------------------------------------------------------------------------------------- two towers

    def lower_image(self, pixels: Float[Tensor, "b 3 s t"]) -> LowerImage:
        x, stages = self._swin.patch_embed(pixels), []
        for number, (stage, block) in enumerate(self._blocks()[: self.below]):
            if number and block is stage.blocks[0]:
                stages.append(x)
            x = attended(block, _entered(stage, block, x))
        return LowerImage(x, tuple(stages))

    def lower_text(self, text: Ragged) -> LowerText:
        x, seen = self.text.embed(text)
        return LowerText(self.text.through(self._text_layers()[: self.text_below], x, seen), text.lengths)

    def read_image(self, lower: LowerImage) -> Float[Tensor, "b n c"]:
        """The rest of the image tower, alone: its normalised tokens, row by row."""
        x = lower.map
        for stage, block in self._blocks()[self.below :]:
            x = attended(block, _entered(stage, block, x))
        return self._swin.norm(x).flatten(1, 2)

    def read_text(self, lower: LowerText) -> Float[Tensor, "b n d"]:
        """The rest of the text tower, alone."""
        return self.text.through(self._text_layers()[self.text_below :], lower.words, lower.seen)

    # ------------------------------------------------------------------------------------------- fused

    def fuse(
        self, image: LowerImage, text: LowerText, last_norm: bool = True
    ) -> tuple[list[Float[Tensor, "b _ _ _"]], Float[Tensor, "b n d"]]:
        """The maps of the stages of the image tower, finest first, and the text's tokens, each having seen the other.

        ``last_norm``: whether the last text layer's norm is taken, which the authors' first stage leaves out; that of the
        image tower is never. On top, both are.
        """
        maps, x, y, seen = list(image.stages), image.map, text.words, text.seen
        if self.to_each_other is not None:
            patches, y = self.to_each_other(self.read_image(image), y, seen)
            return [*maps, patches.view_as(x)], y
        layers = self._text_layers()[self.text_below :]
        gates: Any = list(zip(self.to_image, self.to_text, strict=True))
        for number, (stage, block) in enumerate(self._blocks()[self.below :]):
            if block is stage.blocks[0]:
                maps.append(x)
            x = _entered(stage, block, x)
            at_text = partial(_at_text, gates[number][0], y, seen)
            at_image = partial(_at_image, gates[number][1], x.flatten(1, 2))
            x = attended(block, x, at_text)
            y = layers[number](y, seen, at_image, last_norm or number + 1 < len(layers))
        return [*maps, x], y

    # ------------------------------------------------------------------------------------------ the Swin

    @property
    def _swin(self) -> Any:
        return self.image.model

    def _text_layers(self) -> list[Any]:
        return list(self.text.layers)

    def _blocks(self) -> list[tuple[Any, Any]]:
        """(stage, block) in order."""
        return [(stage, block) for stage in self._swin.layers for block in stage.blocks]


def _entered(stage: Any, block: Any, x: Tensor) -> Tensor:
    """A stage begins by halving its map."""
    return stage.downsample(x) if block is stage.blocks[0] else x


def _at_text(gate: Gate, words: Tensor, seen: Tensor, found: Tensor) -> Tensor:
    return gate(found.flatten(1, 2), words, seen).view_as(found)


def _at_image(gate: Gate, patches: Tensor, found: Tensor) -> Tensor:
    return gate(found, patches)


def attended(
    block: Any, x: Float[Tensor, "b h w c"], look: Callable[[Tensor], Tensor] = alone
) -> Float[Tensor, "b h w c"]:
    """A block of timm's Swin, with ``look`` at what its attention found.

    The authors look inside of the windows; as each position looks for itself, and windows only group them, this is the
    same.
    """
    x = x + block.drop_path1(look(block._attn(block.norm1(x))))
    return x + block.drop_path2(block.mlp(block.norm2(x)))
