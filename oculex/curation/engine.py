"""Applies a pipeline to a whole source, part by part, and writes what comes of it as Parquet shards.

Daft runs the parts, in processes of this machine or on a Ray cluster, and finds what is there twice. Each part is a
function of the pipeline, the data and the seed, and its file appears whole or not at all: a run that was killed goes
on with the parts that are missing, and shards are moved to where they are looked for when all are there. The layout
of the folder ``out``:

    manifest.json        what was made of what, and what was left out and why; written last
    refused.jsonl        id and reason of each sample that could not be used
    000000.parquet ...   the shards, a source for `oculex train --data`
    .work-DIGEST/        notes, parts and units of a run that is not done

On a cluster, ``out``, the data and OCULEX_CACHE must be reached by the same names from every machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from oculex.contracts import Pipeline, UserError
from oculex.curation import repeats
from oculex.curation.parts import KNOWN, Job, Worker
from oculex.data.pipelines import keep, recipe_digest
from oculex.data.sources import open_source

MANIFEST = "manifest.json"
REFUSED = "refused.jsonl"
ENGINES = ("local", "ray")
HARD = ("note", "make")
"""Steps that take a process's time, and not a disk's."""
Progress = Callable[[str, int, int], None]
"""(what is done, how many parts of it, of how many)."""


def curate(
    system: str,
    pipeline: Pipeline,
    data: str,
    out: Path,
    *,
    seed: int = 0,
    engine: str = "local",
    workers: int = 0,
    part: int = 1000,
    most_refused: float = 0.05,
    progress: Progress = lambda what, done, of: None,
) -> dict[str, Any]:
    """Writes what ``pipeline`` makes of ``data`` into the folder ``out``; the manifest.

    A folder that already has it is left as it is. ``workers``: processes of the local engine, 0: one for each core.
    Raises UserError where more than the share ``most_refused`` of the samples cannot be used, and where ``out`` holds
    something else.
    """
    if engine not in ENGINES or part < 1 or workers < 0 or not 0 <= most_refused <= 1:
        raise UserError(
            "engine is local or ray, part counts samples, workers processes, most_refused is a share"
        )
    source = open_source(data)
    if not len(source):
        raise UserError(f"{data} is empty")
    digest = recipe_digest(pipeline, source, seed)
    done = _done(out, digest)
    if done is not None:
        return done
    work = out / f".work-{digest}"
    with _locked(out):
        _clean(out, work)
        plan = keep(work / "plan.json", _kept(work / "plan.json") or {"part": part, "samples": len(source)})
        job = Job(pipeline, data, seed, work, plan["part"])
        run = _Runner(job, len(source), engine, workers, progress)
        if pipeline.surveys and not (work / KNOWN).is_file():
            list(run("note"))
            notes = [note for n in range(run.parts) for note in _kept(work / "notes" / f"{n:06d}.json")]
            keep(work / KNOWN, pipeline.gather(notes))
        refused = Counter[str]()
        for told in run("make"):
            refused.update(reason for _, reason in told["refused"])
            if refused.total() > most_refused * len(source):
                raise UserError(
                    f"{refused.total()} of {len(source)} samples of {data} cannot be used, more than --most-refused "
                    f"{most_refused:g}; most often: {refused.most_common(1)[0][0]}"
                )
        dropped = repeats.find(started(engine), work)
        written = [told for told in run("assemble") if told["samples"]]
        manifest = {
            "system": system,
            "pipeline": {"name": type(pipeline).__name__, "options": asdict(pipeline)},  # type: ignore[call-overload]
            "digest": digest,
            "seed": seed,
            "source": {"name": source.name, "fingerprint": source.fingerprint(), "samples": len(source)},
            **_counts(job, run.parts),
            "dropped": dropped,
            "shards": {told["shard"]: told["samples"] for told in written},
            "samples": sum(told["samples"] for told in written),
            "kinds": dict(sorted(sum((Counter(told["kinds"]) for told in written), Counter()).items())),
        }
        return _publish(out, work, manifest)


class _Runner:
    """Does a step of each part whose result is not there yet, and gives the results of all, in any order."""

    def __init__(self, job: Job, samples: int, engine: str, workers: int, progress: Progress) -> None:
        self.job, self.engine, self.workers, self.progress = job, engine, workers, progress
        self.parts = -(-samples // job.size)

    def __call__(self, step: str) -> Iterator[dict[str, Any]]:
        known = {n: told for n in range(self.parts) if (told := _kept(self.job.told(step, n))) is not None}
        yield from known.values()
        missing = [n for n in range(self.parts) if n not in known]
        self.progress(step, len(known), self.parts)
        for done, text in enumerate(self._texts(step, missing) if missing else (), len(known) + 1):
            told = json.loads(text)
            if "mistake" in told:
                raise UserError(told["mistake"])
            self.progress(step, done, self.parts)
            yield told

    def _texts(self, step: str, missing: Sequence[int]) -> Iterator[str]:
        daft = started(self.engine)
        workers = min(self.workers or _cores(self.engine), len(missing))

        class Doing:
            def __init__(self, job: Job) -> None:
                self.worker, self.lock = Worker(job), Lock()

            @daft.method(return_dtype=daft.DataType.string())
            def do(self, part: int) -> str:
                try:
                    with self.lock:  # threads of a process share it, and sources are read by one at a time
                        return json.dumps(getattr(self.worker, step)(part), ensure_ascii=False)
                except UserError as error:  # of another process: handed on as the one line that it is
                    return json.dumps({"mistake": str(error)})

        # an actor is a process of its own, which takes seconds to start
        actors = self.engine == "ray" or (workers > 1 and step in HARD)
        doing = daft.cls(Doing, max_concurrency=workers if actors else None)(self.job)
        frame = daft.from_pydict({"part": list(missing)})
        frame = frame.into_batches(1) if self.engine == "local" else frame.repartition(len(missing), "part")
        for row in frame.select(doing.do(daft.col("part")).alias("told")).iter_rows():
            yield row["told"]


def _cores(engine: str) -> int:
    """Of this machine, or of the cluster."""
    if engine == "local":
        return len(os.sched_getaffinity(0))
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


_STARTED: list[str] = []


def started(engine: str) -> Any:
    """Daft, with its runner set, which a process does once. Raises UserError where it is not installed."""
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")  # nothing is told to anybody else
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")  # there is one line of ours
    try:
        import daft
    except ImportError as error:
        raise UserError("curation runs on Daft; pip install 'oculex[curate]'") from error
    if _STARTED and _STARTED[0] != engine:
        raise UserError(
            f"this process already curates with the engine {_STARTED[0]}; start another one for {engine}"
        )
    if not _STARTED:
        if engine == "ray":
            try:
                import ray  # noqa: F401
            except ImportError as error:
                raise UserError("the engine ray needs Ray; pip install 'oculex[ray]'") from error
            daft.set_runner_ray(os.environ.get("RAY_ADDRESS"))
        else:
            daft.set_runner_native()
        _STARTED.append(engine)
    return daft


def _locked(out: Path) -> Any:
    from filelock import FileLock, Timeout

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(out / ".lock"))
        return lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is writing {out}; wait for it, or choose another folder") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}; choose another folder") from error


def _done(out: Path, digest: str) -> dict[str, Any] | None:
    """The manifest of a folder that is done. Raises UserError where it holds something else."""
    manifest = _kept(out / MANIFEST)
    if (
        manifest
        and manifest.get("digest") == digest
        and all((out / name).is_file() for name in manifest["shards"])
    ):
        return manifest
    if manifest:
        raise UserError(
            f"{out} holds what was made with other options, code, data or seed, or lacks shards; choose an empty folder"
        )
    foreign = [each.name for each in out.glob("*.parquet")] if not list(out.glob(".work-*")) else []
    if foreign:
        raise UserError(
            f"{out} already holds {foreign[0]}, which no manifest tells of; choose an empty folder"
        )
    return None


def _clean(out: Path, work: Path) -> None:
    """What killed runs left half done, or did for other options; whoever holds the folder's lock may."""
    for other in out.glob(".work-*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    for half in work.glob("*/.*"):
        half.unlink(missing_ok=True)


def _kept(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _counts(job: Job, many: int) -> dict[str, Any]:
    """Of all parts: how many samples were made, gave nothing and were refused, and why."""
    told = [_kept(job.told("make", n)) for n in range(many)]
    rows = [row for each in told for row in each["refused"]]
    text = "".join(
        json.dumps({"id": key, "reason": reason}, ensure_ascii=False) + "\n" for key, reason in rows
    )
    (job.work / REFUSED).write_text(text, encoding="utf-8")
    return {
        "made": sum(each["made"] for each in told),
        "nothing_to_make": sum(each["empty"] for each in told),
        "refused": dict(Counter(reason for _, reason in rows).most_common(50)),
        "refused_in_all": len(rows),
    }


def _publish(out: Path, work: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Moves the finished shards to where they are looked for; a run that is killed here does the rest the next time."""
    for name in manifest["shards"]:
        finished = work / "shards" / name
        if finished.exists():
            finished.replace(out / name)
    (work / REFUSED).replace(out / REFUSED)
    keep(out / MANIFEST, manifest)
    shutil.rmtree(work, ignore_errors=True)
    return manifest
