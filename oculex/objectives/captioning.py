"""Objectives that predict what a caption says: its words in any order, or its tokens one after the other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from oculex.data.collate import Ragged


def word_bags(text: Ragged, vocabulary: int) -> Float[Tensor, "b v"]:
    """Each text's distinct tokens between start and end, 1/k for each of k; all 0 for an empty text."""
    ids, position = text.values, torch.arange(text.values.shape[1], device=text.values.device)
    inside = (position > 0) & (position < text.lengths[:, None] - 1)
    row = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
    bags = torch.zeros(len(ids), vocabulary, device=ids.device)
    bags[row[inside], ids[inside]] = 1.0
    return bags / bags.sum(1, keepdim=True).clamp(min=1.0)


def bag_of_words(logits: Float[Tensor, "b v"], bags: Float[Tensor, "b v"]) -> Float[Tensor, "b"]:
    """Softmax cross-entropy against the words of the caption, each of k words weighing 1/k.

    Joulin et al. 2016, section 3.1, the multi-class logistic loss, which they prefer to one-versus-all; the weights
    1/k as Mahajan et al. 2018 (Exploring the Limits of Weakly Supervised Pretraining), section 2.2. Gathers nothing;
    reduces by the mean over images. In float32, for a sum over the vocabulary.
    """
    return -(bags * logits.float().log_softmax(-1)).sum(-1)


def predicted(text: Ragged) -> Tensor:
    """Which tokens of [B, L - 1] have one that follows and is the text's own."""
    position = torch.arange(1, text.values.shape[1], device=text.values.device)
    return position < text.lengths[:, None]


def next_token(logits: Float[Tensor, "n v"], targets: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Cross-entropy of each token given those before it and the image (VirTex, section 3).

    Gathers nothing; reduces by the mean over all tokens of the global batch, as VirTex does over its batch.
    """
    return F.cross_entropy(logits.float(), targets, reduction="none")
