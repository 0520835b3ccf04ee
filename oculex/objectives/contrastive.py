"""Contrastive objectives between two sets of embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE = 2048
"""Rows and columns of logits that are held at a time; a matrix of at most TILE x TILE is held whole."""


def contrastive(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    scale: Float[Tensor, ""],
    all_image: Float[Tensor, "n d"] | None = None,
    all_text: Float[Tensor, "n d"] | None = None,
    start: int = 0,
    wrong: Float[Tensor, "w d"] | None = None,
) -> Float[Tensor, "b"]:
    """Symmetric cross-entropy over pairwise similarities, one value per own row (CLIP, figure 3).

    ``image`` and ``text`` are unit-norm rows ``start`` .. ``start + b`` of the global batch ``all_image`` and
    ``all_text``, which are the own rows where there is one process. ``wrong`` are the global batch's texts that fit no
    image, such as captions with their words swapped: an image is told from them too, and none of them looks for an
    image (NegCLIP, section 4). Gathers: image, text, wrong. Reduces: the mean over all rows of the global batch is
    the published loss.

    The logits are products of unit vectors times a scale of up to 100, so they are taken in float32: bfloat16
    would round a logit of 30 to the nearest eighth. Memory grows with b + n, not with b * n (``negatives``).
    """
    texts, images = text if all_text is None else all_text, image if all_image is None else all_image
    truth = torch.arange(start, start + image.shape[0], device=image.device)
    read = texts if wrong is None else torch.cat([texts, wrong])
    if texts is text and images is image:  # both directions are in one matrix of logits
        of_image, of_text = cross_entropy(image, read, scale, truth, both=True)
    else:
        (of_image, _), (of_text, _) = (
            cross_entropy(own, other, scale, truth) for own, other in ((image, read), (text, images))
        )
    return (of_image + of_text) / 2


def cross_entropy(
    rows: Float[Tensor, "b d"],
    columns: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    truth: Int[Tensor, "b"],
    both: bool = False,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "c"]]:
    """Of each row's scaled similarities to the columns, of which ``truth`` is the right one (InfoNCE, van den Oord et
    al. 2018, equation 4); and for ``both``, where truth is 0 .. b - 1, that of the first b columns to the rows, else
    empty.

    Written as softplus(log sum over the wrong ones - the right one), which keeps all digits of a small loss: log p = 0
    less a little and p - 1 never appear. In float32, or float64 if the rows are.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, columns, scale = (
            x.to(torch.promote_types(x.dtype, torch.float32)) for x in (rows, columns, scale)
        )
        right = scale * (rows * columns[truth]).sum(dim=1)
        of_row, of_column = negatives(rows, columns, scale, truth, both)
        of_column = of_column[: rows.shape[0]]
        return -F.logsigmoid(right - of_row), -F.logsigmoid(right[: of_column.shape[0]] - of_column)


def negatives(
    rows: Float[Tensor, "b d"],
    columns: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    truth: Int[Tensor, "b"],
    both: bool = False,
) -> tuple[Float[Tensor, "b"], Float[Tensor, "c"]]:
    """log sum exp of ``scale * rows @ columns.T`` without the entries (i, truth_i): over each row's columns and, for
    ``both``, over each column's rows; otherwise the second is empty.

    A matrix of more than TILE * TILE logits is never held: tiles of it are computed, reduced and dropped, and
    computed again in the backward pass (as Milakov and Gimelshein 2018 and FlashAttention do for the softmax). That
    is one product more than autograd takes, and two fewer than a matrix for each direction takes. The tiled gradient
    has no second derivative.
    """
    if rows.shape[0] * columns.shape[0] > TILE * TILE:
        return _Tiled.apply(rows, columns, scale, truth, both, TILE)  # type: ignore[no-untyped-call]
    logits = _without((scale * rows) @ columns.T, truth, 0)
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0) if both else rows.new_empty(0)


def _without(logits: Float[Tensor, "i j"], truth: Int[Tensor, "i"], first: int) -> Float[Tensor, "i j"]:
    """Takes out each row's right column, where it is one of these, of which ``first`` is the first. The value is finite,
    so that a row with nothing else has gradients of 0."""
    place = truth - first
    inside = (place >= 0) & (place < logits.shape[1])
    least = inside.to(logits.dtype) * (torch.finfo(logits.dtype).min / 4)
    return logits.scatter_add_(1, place.clamp(0, logits.shape[1] - 1)[:, None], least[:, None])


class _Tiled(torch.autograd.Function):
    """``negatives`` in tiles. With p the softmax over columns, q that over rows, and g, h the gradients that come in,
    the gradient of the logits is g_i p_ij + h_j q_ij."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, scale: Tensor, truth: Tensor, both: bool, tile: int
    ) -> tuple[Tensor, Tensor]:
        of_row = rows.new_full((rows.shape[0],), float("-inf"))
        of_column = rows.new_full((columns.shape[0] if both else 0,), float("-inf"))
        for i, j, logits in _tiles(rows, columns, scale, truth, tile):
            of_row[i] = of_row[i].logaddexp(logits.logsumexp(dim=1))
            if both:
                of_column[j] = of_column[j].logaddexp(logits.logsumexp(dim=0))
        ctx.save_for_backward(rows, columns, scale, truth, of_row, of_column)
        ctx.both, ctx.tile = both, tile
        return of_row, of_column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, columns, scale, truth, of_row, of_column = ctx.saved_tensors
        to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        with torch.autocast(rows.device.type, enabled=False):
            for i, j, logits in _tiles(rows, columns, scale, truth, ctx.tile):
                pull = (logits - of_row[i, None]).exp_().mul_(g[i, None])
                if ctx.both:
                    pull += logits.sub_(of_column[j]).exp_().mul_(h[j])
                to_rows[i].addmm_(pull, columns[j])
                to_columns[j].addmm_(pull.T, rows[i])
            to_scale = (to_rows * rows).sum()
        return to_rows.mul_(scale), to_columns.mul_(scale), to_scale, None, None, None


def _tiles(
    rows: Tensor, columns: Tensor, scale: Tensor, truth: Tensor, size: int
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and logits of each tile."""
    for top in range(0, rows.shape[0], size):
        i = slice(top, top + size)
        scaled = scale * rows[i]
        for left in range(0, columns.shape[0], size):
            j = slice(left, left + size)
            yield i, j, _without(scaled @ columns[j].T, truth[i], left)
