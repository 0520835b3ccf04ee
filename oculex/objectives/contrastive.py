"""Contrastive objectives between two sets of embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def contrastive(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    scale: Float[Tensor, ""],
    all_image: Float[Tensor, "n d"] | None = None,
    all_text: Float[Tensor, "n d"] | None = None,
    start: int = 0,
) -> Float[Tensor, "b"]:
    """Symmetric cross-entropy over pairwise similarities, one value per own row (CLIP, figure 3).

    ``image`` and ``text`` are unit-norm rows ``start`` .. ``start + b`` of the global batch ``all_image`` and
    ``all_text``, which are the own rows where there is one process. Gathers: image, text. Reduces: the mean over
    all rows of the global batch is the published loss.

    The logits are products of unit vectors times a scale of up to 100, so they are taken in float32: bfloat16
    would round a logit of 30 to the nearest eighth.
    """
    truth = torch.arange(start, start + len(image), device=image.device)
    everyone = text if all_text is None else all_text, image if all_image is None else all_image
    with torch.autocast(image.device.type, enabled=False):
        rows = [
            F.cross_entropy(scale.float() * own.float() @ other.float().T, truth, reduction="none")
            for own, other in zip((image, text), everyone, strict=True)
        ]
    return (rows[0] + rows[1]) / 2
