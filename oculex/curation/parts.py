"""What is done of one part of a source, by any process: noted, made, assembled. Every file is there whole or not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, Pipeline
from oculex.curation.repeats import DROPPED, units
from oculex.curation.shards import row, write
from oculex.data.pipelines import keep, made
from oculex.data.pipelines import note as noted
from oculex.data.sources import open_source

KNOWN = "known.json"
STEPS = ("note", "make", "assemble")


@dataclass(frozen=True)
class Job:
    """All that a process needs to do any part; it opens the data itself."""

    pipeline: Pipeline
    data: str
    seed: int
    work: Path
    size: int
    """Samples of the source in a part."""

    def told(self, step: str, part: int) -> Path:
        """Where the result of a step of a part is kept."""
        return self.work / f"{step}.done" / f"{part:06d}.json"


class Worker:
    """Does parts of a job, one after the other. ``STEPS`` are its methods; each result is kept as it is given."""

    def __init__(self, job: Job) -> None:
        self.job, self.source = job, open_source(job.data)
        known = job.work / KNOWN
        self.known = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None

    def note(self, part: int) -> dict[str, Any]:
        """Keeps what the pipeline has to remember of each sample."""
        notes = [noted(self.job.pipeline, self.source, index) for index in self._indices(part)]
        keep(self.job.work / "notes" / f"{part:06d}.json", notes)
        return keep(self.job.told("note", part), {"notes": len(notes)})

    def make(self, part: int) -> dict[str, Any]:
        """Writes the samples of a part, and what of them can be there twice."""
        job = self.job
        rows: list[dict[str, Any]] = []
        refused: list[tuple[str, str]] = []
        empty = 0
        for index in self._indices(part):
            try:
                found = [
                    row(sample) for sample in made(job.pipeline, self.source, index, self.known, job.seed)
                ]
            except BadSample as bad:
                refused.append((bad.key, bad.reason))
                continue
            empty += not found
            rows += found
        write(job.work / "parts" / f"{part:06d}.parquet", rows)
        units(job.work / "units" / f"{part:06d}.parquet", part, rows)
        return keep(job.told("make", part), {"made": len(rows), "empty": empty, "refused": refused})

    def assemble(self, part: int) -> dict[str, Any]:
        """A part without what is there twice, as a shard; a sample of which nothing is left is left out."""
        import pyarrow.parquet as pq

        work, name = self.job.work, f"{part:06d}.parquet"
        dropped = json.loads((work / DROPPED).read_text(encoding="utf-8")).get(str(part), {})
        kept = []
        for n, sample in enumerate(pq.read_table(work / "parts" / name).to_pylist()):
            gone = set(dropped.get(str(n), ()))
            texts = [("questions", each) for each in sample["questions"]]
            texts += [("captions", each) for each in sample["captions"]]
            left = [each for place, each in enumerate(texts) if place not in gone]
            if texts and not left:
                continue
            for key in ("questions", "captions"):
                sample[key] = [each for of, each in left if of == key]
            kept.append(sample)
        if kept:
            write(work / "shards" / name, kept)
        kinds = Counter(each["kind"] for sample in kept for each in sample["questions"])
        return keep(self.job.told("assemble", part), {"shard": name, "samples": len(kept), "kinds": kinds})

    def _indices(self, part: int) -> range:
        return range(part * self.job.size, min((part + 1) * self.job.size, len(self.source)))
