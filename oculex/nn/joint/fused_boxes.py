"""FIBER's second stage as a network: both towers with their gates, and GLIP's head on what they have seen of each other.

Dou et al. 2022, section 3.2; the head is ``oculex.nn.dense.detection``'s.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from oculex.contracts import Batch, UserError
from oculex.data.collate import Ragged
from oculex.nn.dense.detection import Found, GroundingHead, anchors, best_boxes
from oculex.nn.joint.fusion_in_backbone import FusionInBackbone

MAPS = 3
"""Of the image tower, its last, that the pyramid is built on."""


class FusedBoxes(FusionInBackbone):
    """Of the configuration it needs ``anchor`` and what sizes the head beside the network's."""

    squares: Tensor

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        c = config
        if len(self.image.strides) < MAPS:
            raise UserError(f"image_tower={c.image_tower!r} has fewer than the three stages that find boxes")
        if c.place != "backbone":
            raise UserError(
                f"place={c.place!r} leaves the maps that boxes are found in without a look at the text"
            )
        self.head = GroundingHead(
            self.image.channels[-MAPS:],
            c.text_width,
            c.head_width,
            c.head_blocks,
            c.head_groups,
            c.deformable,
            c.log_scale,
        )
        self.levels = anchors(c.image_size, self.image.strides[-MAPS], c.anchor)
        """The anchors of each level; ``squares`` are all of them."""
        self.register_buffer("squares", torch.cat(self.levels), persistent=False)

    def found(self, batch: Batch) -> tuple[Found, Bool[Tensor, "b t"]]:
        """What the head says of pictures (``image``) and texts (``tokens``), and which tokens are no padding."""
        text: Ragged = batch["tokens"]
        read = self.lower_text(text)
        maps, words = self.fuse(self.lower_image(self._normalised(batch["image"])), read)
        seen = read.seen[:, 0, 0]
        return self.head(maps[-MAPS:], words * seen[..., None]), seen

    def ground(self, batch: Batch, most: int) -> Float[Tensor, "b p k 5"]:
        """Boxes of the phrases, of which ``about`` says which tokens are about each."""
        found, seen = self.found(batch)
        return best_boxes(found, self.squares, batch["about"][:, :, : seen.shape[1]], batch["extent"], most)
