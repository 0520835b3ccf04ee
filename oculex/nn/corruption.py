"""What stands in a picture where something was hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Images = Float[Tensor, "b c h w"]


def noise(image: Images) -> Images:
    """Normal noise, of the variance that normalised pixels have."""
    return torch.randn_like(image)


def zeros(image: Images) -> Images:
    """Where pixels are normalised, the mean colour of the data."""
    return torch.zeros_like(image)


def mean(image: Images) -> Images:
    """Each picture's own mean colour."""
    return image.mean(dim=(2, 3), keepdim=True).expand_as(image)


def blurred(image: Images) -> Images:
    """The picture without what is finer than an eighth of its side."""
    coarse = torch.nn.functional.adaptive_avg_pool2d(image, 8)
    return torch.nn.functional.interpolate(coarse, image.shape[2:], mode="bilinear", align_corners=False)


CONTENTS: dict[str, Callable[[Images], Images]] = {
    "noise": noise,
    "zeros": zeros,
    "mean": mean,
    "blur": blurred,
}


def corrupted(
    image: Images,
    hidden: Bool[Tensor, "b h w"],
    content: str,
    alien: Bool[Tensor, "b"],
    other: Int[Tensor, "b"],
) -> Images:
    """The pictures with hidden pixels replaced: by ``content``, or where ``alien`` is set by picture ``other``'s.

    ``other`` are rows of the same batch (GMML, Atito et al. 2022, section III).
    """
    fill = CONTENTS[content](image)
    fill = torch.where(alien[:, None, None, None], image[other], fill)
    return torch.where(hidden[:, None], fill, image)
