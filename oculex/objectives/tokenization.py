"""What a visual tokenizer is trained by (LaVIT, Jin et al. 2024, section 3.1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def cosine_error(predicted: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"]) -> Float[Tensor, "b"]:
    """Mean over an image's patches of 1 - cos(prediction, feature), in float32."""
    return 1 - F.cosine_similarity(predicted.float(), target.float(), dim=-1).mean(1)


def length_error(kept: Float[Tensor, "b n"], rate: float) -> Float[Tensor, "b"]:
    """(rate - share of an image's patches that are kept) squared: lengths vary about the rate with what images hold."""
    return (rate - kept.mean(1)).square()
