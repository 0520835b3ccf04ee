"""Classification against targets that are probabilities."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(logits: Float[Tensor, "b c"], target: Float[Tensor, "b c"]) -> Float[Tensor, "b"]:
    """- sum over classes of target * log softmax(logits), in float32."""
    return F.cross_entropy(logits.float(), target, reduction="none")
