"""Reconstruction of what was hidden."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def normalised_patches(patches: Float[Tensor, "b n v"]) -> Float[Tensor, "b n v"]:
    """Each patch with mean 0 and variance 1 (MAE, He et al. 2022, section 3, reconstruction target).

    The variance is the unbiased one, with 1e-6 added, as in the authors' code.
    """
    centred = patches - patches.mean(dim=-1, keepdim=True)
    return centred / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def squared_error(prediction: Float[Tensor, "b n v"], target: Float[Tensor, "b n v"]) -> Float[Tensor, "b n"]:
    """Mean squared error of each patch, in float32 (MAE, He et al. 2022, section 3)."""
    return (prediction.float() - target.float()).square().mean(dim=-1)


def hidden_error(
    prediction: Float[Tensor, "b n v"], target: Float[Tensor, "b n v"], hidden: Float[Tensor, "b n v"]
) -> Float[Tensor, "b"]:
    """Sum over each picture's hidden values of the absolute error, in float32 (GMML, Atito et al. 2022, equation 2).

    ``hidden`` is 1 where a value counts and 0 elsewhere. The mean over all hidden values of a batch is the sum over
    its pictures divided by ``hidden.sum()``.
    """
    return ((prediction.float() - target.float()).abs() * hidden).sum(dim=(1, 2))
