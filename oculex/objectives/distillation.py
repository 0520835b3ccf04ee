"""Learning from a teacher's classification."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def sparse_distillation(
    logits: Float[Tensor, "b c"], classes: Int[Tensor, "b k"], probabilities: Float[Tensor, "b k"]
) -> Float[Tensor, "b"]:
    """Cross-entropy against a teacher of whom only the k most likely classes are known (TinyViT, Wu et al. 2022,
    section 3.1).

    - sum over c of q_c log softmax(logits)_c, where q_c is the teacher's probability for its k classes and
    (1 - their sum) / (C - k) for each other one; a sum that float16 rounded above 1 leaves 0 for the others.
    In float32, without a dense [b, C] target.
    """
    log, known = F.log_softmax(logits.float(), dim=1), probabilities.float()
    others = log.shape[1] - classes.shape[1]
    rest = (1 - known.sum(dim=1)).clamp_min(0) * (1 / others if others else 0.0)
    return -((known - rest[:, None]) * log.gather(1, classes)).sum(dim=1) - rest * log.sum(dim=1)
