"""A student that predicts what a teacher says of other views of the same picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def centred_targets(
    teacher: Float[Tensor, "b t k"], centre: Float[Tensor, "k"], temperature: float
) -> Float[Tensor, "b t k"]:
    """Probabilities softmax((teacher - centre) / temperature), in float32 (DINO, Caron et al. 2021, equation 1)."""
    return ((teacher.float() - centre) / temperature).softmax(dim=-1)


def self_distillation(
    student: Float[Tensor, "b v k"], targets: Float[Tensor, "b t k"], temperature: float
) -> Float[Tensor, "b"]:
    """Cross-entropy of the student's views against the teacher's, averaged over the pairs of different views (DINO,
    Caron et al. 2021, equation 3). The first t of the v views are those that the teacher saw.

    With the targets of one student view summed to Q, its terms are |Q| log sum exp(s) - s . Q, so the v x t
    log-probabilities are never laid out.
    """
    views, seen = student.shape[1], targets.shape[1]
    scores = student.float() / temperature
    matches = scores @ targets.sum(dim=1)[:, :, None]
    own = (scores[:, :seen] * targets).sum(dim=-1)
    against = torch.full((views,), float(seen), device=scores.device)
    against[:seen] -= 1
    terms = scores.logsumexp(dim=-1) @ against - matches.sum(dim=(1, 2)) + own.sum(dim=1)
    return terms / (views * seen - seen)
