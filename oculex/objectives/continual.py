"""Objectives that keep what a model has learnt: against its own averages, and against the model it was."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from oculex.objectives.contrastive import cross_entropy


def momentum_contrast(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    scale: Float[Tensor, ""],
    slow_image: Float[Tensor, "n d"],
    slow_text: Float[Tensor, "n d"],
    image_queue: Float[Tensor, "q d"],
    text_queue: Float[Tensor, "q d"],
    start: int = 0,
) -> Float[Tensor, "b"]:
    """Cross-entropy of own rows against the momentum model's vectors of this batch and of earlier ones, both ways (MoCo,
    He et al. 2020, equation 1, across modalities; ALBEF, section 3.2; CTP, Zhu et al. 2023).

    All are unit-norm; the own rows are ``start`` .. ``start + b`` of the global batch, whose momentum vectors are
    ``slow_image`` and ``slow_text``. Gathers: slow image, slow text. Reduces by the mean over rows.
    """
    truth = torch.arange(start, start + image.shape[0], device=image.device)
    of_image, _ = cross_entropy(image, torch.cat([slow_text, text_queue]), scale, truth)
    of_text, _ = cross_entropy(text, torch.cat([slow_image, image_queue]), scale, truth)
    return (of_image + of_text) / 2


def topology(
    rows: Float[Tensor, "b d"],
    columns: Float[Tensor, "n d"],
    old_rows: Float[Tensor, "b d"],
    old_columns: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    start: int | None = None,
) -> Float[Tensor, "b"]:
    """KL divergence of each row's softmax over its similarities to the columns from that of the old model (CTP, Zhu et
    al. 2023): how a sample lies among the others is kept, where all of them lie is not.

    ``start``: the place of the first row among the columns where both are of one modality, so that none is compared with
    itself; None across modalities. Gathers: columns, old columns. Reduces by the mean over rows.
    """
    with torch.autocast(rows.device.type, enabled=False):
        new, old = scale * rows.float() @ columns.float().T, scale * old_rows.float() @ old_columns.float().T
        if start is not None:
            own = torch.arange(start, start + len(rows), device=rows.device)[:, None]
            new, old = (x.scatter(1, own, -1000 * float(scale.detach())) for x in (new, old))
        return _divergence(new.log_softmax(1), old.log_softmax(1))


def response(
    values: Float[Tensor, "b d"], old: Float[Tensor, "b d"], scale: Float[Tensor, ""]
) -> Float[Tensor, "b"]:
    """KL divergence of the softmax over a row's values from that of the old model's (LwF, Li and Hoiem 2017, equation 2,
    on the values of an embedding, as CTP's authors compare it). Reduces by the mean over rows."""
    return _divergence((scale * values.float()).log_softmax(1), (scale * old.float()).log_softmax(1))


def soft_words(logits: Float[Tensor, "m v"], teacher: Float[Tensor, "m v"]) -> Float[Tensor, "m"]:
    """Cross-entropy of the words at hidden places against a teacher's distribution (ALBEF, equation 7)."""
    return -(teacher.float().softmax(-1) * logits.float().log_softmax(-1)).sum(-1)


def by_text(values: Float[Tensor, "m"], hidden: Bool[Tensor, "b l"]) -> Float[Tensor, "b"]:
    """Sums over each text of the values at its hidden places."""
    return (
        torch.zeros(hidden.shape, dtype=values.dtype, device=values.device)
        .masked_scatter(hidden, values)
        .sum(1)
    )


def _divergence(new: Float[Tensor, "b n"], old: Float[Tensor, "b n"]) -> Float[Tensor, "b"]:
    """KL(old || new) of log-probabilities."""
    return F.kl_div(new, old, reduction="none", log_target=True).sum(1)
