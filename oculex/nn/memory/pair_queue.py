"""The last pairs that a system saw: their vectors to be told from, and the pairs themselves to be matched wrongly."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from oculex.data.collate import Ragged


class PairQueue(nn.Module):
    """At most ``size`` pairs, in buffers so that a run resumes from them; empty at first.

    It remembers images as uint8, so 4,096 of 384 pixels a side take 1.8 GB.
    """

    image: Tensor
    text: Tensor
    pixels: Tensor
    ids: Tensor
    lengths: Tensor
    pushed: Tensor

    def __init__(self, size: int, embedding: int, pixels: int, context: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("image", torch.zeros(size, embedding))
        self.register_buffer("text", torch.zeros(size, embedding))
        self.register_buffer("pixels", torch.zeros(size, 3, pixels, pixels, dtype=torch.uint8))
        self.register_buffer("ids", torch.zeros(size, context, dtype=torch.long))
        self.register_buffer("lengths", torch.ones(size, dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return min(int(self.pushed), self.size)

    @torch.no_grad()
    def push(
        self,
        image: Float[Tensor, "n d"],
        text: Float[Tensor, "n d"],
        pixels: UInt8[Tensor, "n 3 h w"],
        ids: Int[Tensor, "n l"],
        lengths: Int[Tensor, "n"],
    ) -> None:
        """The newest pairs take the places of the oldest."""
        count = image.shape[0]
        newest = torch.arange(max(0, count - self.size), count, device=image.device)
        at = (self.pushed + newest) % max(self.size, 1)
        own = (self.image, self.text, self.pixels, self.ids, self.lengths)
        for rows, new in zip(own, (image, text, pixels, ids, lengths), strict=True):
            rows[at] = new[newest].to(rows.dtype)
        self.pushed.add_(count)

    def texts(self, at: Int[Tensor, "n"]) -> Ragged:
        lengths = self.lengths[at]
        return Ragged(self.ids[at, : int(lengths.max())], lengths)

    def vectors(self) -> tuple[Float[Tensor, "q d"], Float[Tensor, "q d"]]:
        """Of images and of texts. Copies: a push must not change what a backward pass still needs."""
        return self.image[: len(self)].clone(), self.text[: len(self)].clone()
