"""What an encoder sees in pictures: its patches coloured by their main components, and what its class token attends to.

``python -m oculex.report.features RUN [FILE.png]`` draws them for pictures that the run held out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oculex import runs
from oculex.contracts import AttendsToPatches, Batch, RepresentsPatches, Source, UserError
from oculex.data.collate import collate
from oculex.report.picture import contact_sheet
from oculex.training import plan, reopen

COUNT = 6
SIDE = 160


def components(features: Tensor, share: float = 0.02) -> Tensor:
    """[B, N, D] -> [B, N, 3] in 0..1: the three main components over the patches of all pictures together.

    Each runs from its ``share`` quantile to that of 1 - ``share``, so that a few odd patches do not set the scale.
    """
    flat = features.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    _, _, axes = torch.linalg.svd(flat, full_matrices=False)
    axes = (
        axes[:3] * axes[:3].sum(dim=1, keepdim=True).sign()
    )  # a component's sign means nothing: make it definite
    found = flat @ axes.T
    low, high = found.quantile(share, dim=0), found.quantile(1 - share, dim=0)
    return ((found - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).view(*features.shape[:2], -1).float()


def heat(attention: Tensor) -> Tensor:
    """[B, heads, N] -> [B, N] in 0..1: the mean over heads, each picture's largest being 1."""
    mean = attention.mean(dim=1)
    low = mean.amin(dim=1, keepdim=True)
    return (mean - low) / (mean.amax(dim=1, keepdim=True) - low).clamp_min(1e-12)


def rows(system: Any, batch: Batch) -> dict[str, np.ndarray]:
    """uint8 [B, rows, columns, 3] by name: each "picture" as the system is given it, the "components" of its patches,
    and its "attention" where the system shows it.

    Raises UserError for a system that has no features of patches.
    """
    _check(system)
    found = {"picture": batch["image"].permute(0, 2, 3, 1).cpu().numpy()}
    with torch.inference_mode():
        features, grid = system.patch_features(batch)
        found["components"] = _tiles(components(features.cpu()), grid)
        if isinstance(system, AttendsToPatches):
            attention, grid = system.patch_attention(batch)
            found["attention"] = _tiles(heat(attention.cpu())[..., None].expand(-1, -1, 3), grid)
    return found


def sheet(system: Any, source: Source, count: int = COUNT) -> bytes:
    """A PNG: each column a picture of the source, below it what ``rows`` has of it."""
    _check(system)
    step = max(1, len(source) // count)
    views = [system.view(source[index], None) for index in range(0, len(source), step)][:count]
    found = rows(system, collate(views))
    pictures = np.stack([resized(picture) for row in found.values() for picture in row])
    texts = [name if n == 0 else "" for name in found for n in range(len(views))]
    return contact_sheet(pictures, len(views), texts)


def _check(system: Any) -> None:
    if not isinstance(system, RepresentsPatches):
        raise UserError(f"{type(system).__name__} has no features of patches to draw")


def _tiles(values: Tensor, grid: tuple[int, int]) -> np.ndarray:
    return (values.reshape(len(values), *grid, 3) * 255).round().byte().numpy()


def resized(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """[side, side, 3], its pixels as squares."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


def main(run: Path, out: Path) -> None:
    recipe = reopen.load_recipe(runs.folder(run))
    pool = plan.open_pool(recipe.data.sources, recipe.data.holdout)
    out.write_bytes(sheet(runs.load(run), (pool.held_out or pool.train)[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "features.png"))
