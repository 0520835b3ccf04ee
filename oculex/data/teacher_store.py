"""A teacher's answers, kept on disk: each sample's augmentation and most likely classes, for a number of epochs.

Key      A folder per ``Plan``: the teacher's weights, the data, the view, classes, epochs, classes kept, the seed. Equal
         plans give equal stores, so many students and restarts share one; ``plan.json`` states the plan, and another
         plan on the same folder is refused.
Layout   epoch-N.bin: one record of fixed size per sample, in the order of the sources: digest of the sample's id
         (8 bytes), key of its augmentation (8), the ``kept`` most likely classes (2 or 4 bytes each) and their
         probabilities (float16), best first, CRC-32 of all this (4). A sample that could not be read has key 0.
Life     Files only grow, by whole flushed chunks. A build that was killed goes on at the last whole record; what a
         crash tore is cut off. A record is checked each time it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oculex.contracts import BadSample, Batch, Sample, Source, UserError
from oculex.data.collate import collate
from oculex.data.order import keyed, mix
from oculex.data.sources.files import cache_folder

CHUNK = 1024
"""Records that are written and flushed together: what a crash can cost."""
View = Callable[[Sample, np.random.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What a store holds."""

    teacher: str
    """Digest of its weights."""
    data: tuple[str, ...]
    """Fingerprints of the sources."""
    view: str
    """What determines a sample's view beside its key."""
    samples: int
    classes: int
    epochs: int
    kept: int
    seed: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def record(self) -> np.dtype:
        index = "<u2" if self.classes <= 1 << 16 else "<u4"
        return np.dtype(
            [
                ("sample", "<u8"),
                ("key", "<u8"),
                ("classes", index, (self.kept,)),
                ("probabilities", "<f2", (self.kept,)),
                ("check", "<u4"),
            ]
        )

    def bytes(self) -> int:
        """Size of the whole store."""
        return self.record().itemsize * self.samples * self.epochs


@dataclass(frozen=True)
class Answer:
    """What the teacher said of one view."""

    key: int
    classes: np.ndarray
    """int64 [kept], most likely first."""
    probabilities: np.ndarray
    """float16 [kept]."""


def sample_digest(name: str) -> int:
    """64 bits that stand for a sample's id."""
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def view_key(seed: int, epoch: int, name: str) -> int:
    """The encoded augmentation: ``keyed(view_key(...))`` draws a sample's view of an epoch again, on any machine."""
    return mix(seed, epoch, sample_digest(name)) or 1  # 0 marks a sample that could not be read


class TeacherStore:
    """The store of a plan in a folder; made with ``append``, read with ``answer``."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Raises UserError where the folder holds answers of another plan, naming what differs."""
        self.folder, self.plan, self.type = folder, plan, plan.record()
        self._open: dict[int, np.ndarray] = {}
        self._order: tuple[np.ndarray, np.ndarray] | None = None
        stated = folder / "plan.json"
        if not stated.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = stated.with_name(f".plan.{os.getpid()}")
            part.write_text(json.dumps(asdict(plan), indent=2) + "\n", encoding="utf-8")
            part.replace(stated)
        found = json.loads(stated.read_text(encoding="utf-8"))
        changed = [
            name for name, value in json.loads(json.dumps(asdict(plan))).items() if found.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{folder} holds a teacher's answers for another {', '.join(changed)}; delete it, or use another folder"
            )

    @classmethod
    def made(
        cls,
        plan: Plan,
        sources: Sequence[Source],
        view: View,
        classify: Callable[[Batch], Tensor],
        workers: int = 1,
    ) -> TeacherStore:
        """The plan's store in the cache, completed where something is missing. Other processes wait for it."""
        from filelock import FileLock

        folder = cache_folder() / "teachers" / plan.digest()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            store = cls(folder, plan)
            if not store.complete():
                fill(store, sources, view, classify, workers)
        return store

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:03d}.bin"

    # ------------------------------------------------------------------------------------------- making

    def rows(self, epoch: int) -> int:
        """Whole records of an epoch; what a crash tore off the end is cut away."""
        path = self.path(epoch)
        if not path.exists():
            return 0
        size = self.type.itemsize
        whole = path.stat().st_size // size
        first = max(0, whole - CHUNK)
        tail = np.fromfile(path, self.type, count=whole - first, offset=first * size)
        torn = next((n for n, record in enumerate(tail) if not _sound(record)), len(tail))
        if path.stat().st_size != (first + torn) * size:
            os.truncate(path, (first + torn) * size)
        return first + torn

    def append(
        self, epoch: int, samples: Sequence[int], keys: Sequence[int], classes: Tensor, probabilities: Tensor
    ) -> None:
        """Adds one chunk of records and flushes it to the disk. Raises UserError when the disk is full."""
        records = np.zeros(len(samples), self.type)
        records["sample"], records["key"] = samples, keys
        records["classes"], records["probabilities"] = classes.cpu().numpy(), probabilities.cpu().numpy()
        records["check"] = [zlib.crc32(record.tobytes()[:-4]) for record in records]
        try:
            with self.path(epoch).open("ab") as file:
                file.write(records.tobytes())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(
                f"cannot write {self.path(epoch)}: {error.strerror}; the whole store needs "
                f"{self.plan.bytes() / 1e9:.1f} GB, free them or set OCULEX_CACHE; what is written is kept"
            ) from error

    def complete(self) -> bool:
        whole = self.plan.samples * self.type.itemsize
        paths = [self.path(epoch) for epoch in range(self.plan.epochs)]
        return all(path.exists() and path.stat().st_size == whole for path in paths)

    # ------------------------------------------------------------------------------------------ reading

    def answer(self, epoch: int, name: str) -> Answer:
        """The answer for a sample of that id. Raises UserError for a damaged record and for an unknown sample,
        BadSample where the teacher's pass could not read the sample."""
        record = self._records(epoch)[self._row(name)]
        if not _sound(record) or record["sample"] != sample_digest(name):
            raise UserError(
                f"{self.path(epoch)} is damaged at sample {name}; delete it, and it is made again"
            )
        if not record["key"]:
            raise BadSample(name, "could not be read when the teacher answered")
        return Answer(int(record["key"]), record["classes"].astype(np.int64), record["probabilities"].copy())

    def _row(self, name: str) -> int:
        if self._order is None:
            samples = np.array(self._records(0)["sample"])
            order = np.argsort(samples, kind="stable")
            sorted_ = samples[order]
            twins = np.flatnonzero(sorted_[1:] == sorted_[:-1])
            if len(twins):
                raise UserError(
                    f"{self.folder}: samples {order[twins[0]]} and {order[twins[0] + 1]} have the same id; ids must be "
                    "unique over all sources of a run"
                )
            self._order = sorted_, order
        digest = np.uint64(sample_digest(name))
        place = int(np.searchsorted(self._order[0], digest))
        if place == len(self._order[0]) or self._order[0][place] != digest:
            raise UserError(
                f"{self.folder} has no answer for sample {name}; the data changed since it was made"
            )
        return int(self._order[1][place])

    def _records(self, epoch: int) -> np.ndarray:
        if epoch not in self._open:
            self._open[epoch] = np.memmap(self.path(epoch), self.type, mode="r")
        return self._open[epoch]

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes map the files themselves."""
        return self.__dict__ | {"_open": {}}


def _sound(record: Any) -> bool:
    return zlib.crc32(record.tobytes()[:-4]) == record["check"]


# --------------------------------------------------------------------------------------------------- making


def fill(
    store: TeacherStore,
    sources: Sequence[Source],
    view: View,
    classify: Callable[[Batch], Tensor],
    workers: int = 1,
) -> None:
    """Asks the teacher for what the store still lacks; ``classify`` gives logits [B, classes] for views."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    plan = store.plan
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("the teacher answers, once", total=plan.samples * plan.epochs)
        for epoch in range(plan.epochs):
            done = store.rows(epoch)
            progress.advance(task, done)
            for chunk in _chunks(_Views(sources, view, plan, epoch), done, workers):
                _answer(store, epoch, chunk, classify)
                progress.advance(task, len(chunk.samples))


def _answer(store: TeacherStore, epoch: int, chunk: _Chunk, classify: Callable[[Batch], Tensor]) -> None:
    kept, rows = store.plan.kept, len(chunk.samples)
    classes, probabilities = torch.zeros(rows, kept, dtype=torch.long), torch.zeros(rows, kept)
    read = torch.tensor(chunk.keys, dtype=torch.float64).ne(0)
    if chunk.batch is not None:
        with torch.inference_mode():
            top = classify(chunk.batch).float().softmax(dim=1).topk(kept, dim=1)
        classes[read], probabilities[read] = top.indices.cpu(), top.values.cpu()
    store.append(epoch, chunk.samples, chunk.keys, classes, probabilities.half())


@dataclass(frozen=True)
class _Chunk:
    samples: list[int]
    keys: list[int]
    batch: Batch | None


class _Views(Dataset):
    """``views[start]``: the views of samples start to start + CHUNK of an epoch."""

    def __init__(self, sources: Sequence[Source], view: View, plan: Plan, epoch: int) -> None:
        self.sources, self.view, self.plan, self.epoch = sources, view, plan, epoch
        self.ends = np.cumsum([len(source) for source in sources])

    def __getitem__(self, start: int) -> _Chunk | UserError:
        views, samples, keys = [], [], []
        for row in range(start, min(start + CHUNK, self.plan.samples)):
            source = int(np.searchsorted(self.ends, row, side="right"))
            index = row - (int(self.ends[source - 1]) if source else 0)
            try:
                sample = self.sources[source][index]
                key = view_key(self.plan.seed, self.epoch, sample["id"])
                views.append(self.view(sample, keyed(key)))
                samples.append(sample_digest(sample["id"]))
                keys.append(key)
            except BadSample as bad:
                samples.append(sample_digest(f"{source}/{index}/{bad.key}"))
                keys.append(0)
            except UserError as error:
                return error
        return _Chunk(samples, keys, collate(views) if views else None)


def _chunks(views: _Views, start: int, workers: int) -> Iterator[_Chunk]:
    starts = range(start, views.plan.samples, CHUNK)
    loader: DataLoader = DataLoader(views, batch_size=None, sampler=starts, num_workers=workers)  # type: ignore[arg-type]
    for chunk in loader:
        if isinstance(chunk, UserError):
            raise chunk
        yield chunk
