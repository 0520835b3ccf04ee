"""Hard image alternatives: for each training image those that a foundation's embeddings put nearest to it.

Key      A digest of: the foundation's weights, the data's fingerprints, how many neighbours, the layout.
Layout   CACHE/neighbours/KEY.safetensors: ``names`` uint64 [n], digests of the readable samples' ids, ascending;
         ``nearest`` int64 [n, k], where in the sources, laid end to end, their neighbours lie, nearest first.
Life     Written whole, once, and never changed; every run on the same data reads it. Delete it to reclaim the space.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

from oculex.contracts import Assets, BadSample, Batch, Sample, UserError
from oculex.data import collate
from oculex.data.sources.files import cache_folder, digest
from oculex.data.teacher_store import sample_digest
from oculex.data.views import captions
from oculex.nn.weights import weights_hash

LAYOUT = 1
BATCH = 256
"""Images embedded at a time."""
ROWS = 1024
"""Images whose similarities to all are held at a time."""


class HardImages:
    """``near(sample, rng)``: one of the ``neighbours`` training samples that look most like a training sample.

    No module, because the foundation is none of the weights; it is asked once, here, and let go.
    """

    def __init__(self, name: str, assets: Assets, neighbours: int) -> None:
        """Raises UserError where the data has too few images, or two of the same id."""
        from filelock import FileLock
        from safetensors.numpy import load_file

        self.sources, foundation = assets.sources(), assets.foundation(name)
        self.ends = np.cumsum([len(source) for source in self.sources])
        key = digest([LAYOUT, weights_hash(foundation), neighbours, *(s.fingerprint() for s in self.sources)])
        path = cache_folder() / "neighbours" / f"{key}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _write(path, self._found(foundation, neighbours))
        kept = load_file(path)
        self.names, self.nearest = kept["names"], kept["nearest"]

    def near(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Raises BadSample where the neighbour cannot be read any more."""
        name = np.uint64(sample_digest(sample["id"]))
        at = int(np.searchsorted(self.names, name))
        if at == len(self.names) or self.names[at] != name:
            raise UserError(
                f"{sample['id']} is none of the images whose neighbours are known; the data changed"
            )
        return self.sample(int(self.nearest[at, int(rng.integers(self.nearest.shape[1]))]))

    def __deepcopy__(self, memo: dict[int, Any]) -> HardImages:
        return self  # a copy of the system, such as its running average, looks at the same data

    def sample(self, row: int) -> Sample:
        """The sample of a row of the sources, laid end to end."""
        source = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[source][row - (int(self.ends[source - 1]) if source else 0)]

    def _found(self, foundation: Any, neighbours: int) -> dict[str, np.ndarray]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        foundation.to(device)
        ids, rows, embedded = [], [], []
        for found in _batches(_Images(self, foundation.view, int(self.ends[-1]))):
            ids += found.ids
            rows += found.rows
            with torch.inference_mode():
                embedded.append(foundation.encode_image(collate.to(found.batch, device)).float())
        if len(rows) <= neighbours:
            raise UserError(
                f"the data has {len(rows)} readable images with captions, too few for {neighbours} neighbours each"
            )
        near = np.array(rows)[nearest(torch.cat(embedded), neighbours).cpu().numpy()]
        names = np.array([sample_digest(name) for name in ids], np.uint64)
        order = np.argsort(names)
        twins = np.flatnonzero(names[order][1:] == names[order][:-1])
        if len(twins):
            raise UserError(
                f"two training samples are called {ids[order[twins[0]]]}, and neighbours are kept by id; rename one"
            )
        return {"names": names[order], "nearest": near[order]}


def nearest(embeddings: Float[Tensor, "n d"], count: int) -> Int[Tensor, "n k"]:
    """For each row those ``count`` others of the largest cosine, largest first; ties by row. Memory: ROWS * n."""
    unit = normalize(embeddings, dim=1)
    found = []
    for start in range(0, len(unit), ROWS):
        block = unit[start : start + ROWS]
        similar = block @ unit.T
        similar[torch.arange(len(block)), torch.arange(start, start + len(block))] = -torch.inf
        found.append(similar.topk(count, dim=1).indices)
    return torch.cat(found)


@dataclass(frozen=True)
class _Views:
    ids: list[str]
    rows: list[int]
    batch: Batch


class _Images(Dataset):
    """``images[start]``: evaluation views of the readable images with captions among the rows start to start + BATCH."""

    def __init__(self, near: HardImages, view: Any, count: int) -> None:
        self.near, self.view, self.count = near, view, count

    def __getitem__(self, start: int) -> _Views | None:
        ids, rows, views = [], [], []
        for row in range(start, min(start + BATCH, self.count)):
            try:
                sample = self.near.sample(row)
                view = self.view({key: sample[key] for key in ("id", "image") if key in sample}, None)
            except BadSample:
                continue  # counted and named when it is trained on
            if view and captions(sample):
                ids.append(sample["id"])
                rows.append(row)
                views.append(view)
        return _Views(ids, rows, collate.collate(views)) if views else None


def _batches(images: _Images) -> Iterator[_Views]:
    from rich.console import Console
    from rich.progress import track

    starts = range(0, images.count, BATCH)
    images[0]  # what is made once, such as rendered scenes, is there before the worker is
    loader: DataLoader = DataLoader(images, batch_size=None, sampler=starts, num_workers=1)  # type: ignore[arg-type]
    about, console = "looking for similar images, once", Console(stderr=True)
    for found in track(loader, about, len(starts), console=console, transient=True):
        if found is not None:
            yield found


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    partial.replace(path)
