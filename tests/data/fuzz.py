"""One process of the fuzz test: ``python -m tests.data.fuzz FOLDER SHARE OF``.

Limits its memory and the seconds of each input, opens every input as a source, reads and decodes every sample, and
writes what came of it to FOLDER/result.json. The input in hand is named in FOLDER/current before it is touched, so a
process that dies has named its cause.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import BadSample, UserError
from oculex.data.augment import random_resized_crop
from oculex.data.sources import open_source
from tests.data.crafted import CRAFTED
from tests.data.hostile import SEEDS, Build

MEMORY = 3 << 30
"""Bytes of address space beyond what the imported libraries reserve; what is touched of it is measured."""
SECONDS = 10
"""Of processor time for one input; most take milliseconds. Waiting counts six times less, for busy machines."""
READ = 40
"""Samples of an input that are read."""


class TooSlow(BaseException):
    pass


def cases() -> Iterator[tuple[str, Build, int]]:
    """(name, how it is made, seed); names are unique."""
    for kind, (count, build) in SEEDS.items():
        for number in range(count):
            yield f"{kind} {number}", build, zlib.crc32(f"{kind} {number}".encode())
    for name, build in CRAFTED.items():
        yield name, build, 0


def clean(text: str) -> bool:
    """One line that cannot forge another, or steer a terminal."""
    return bool(text) and text.isprintable() and len(text) < 1500


def check(text: str) -> None:
    assert clean(text), f"not one clean line: {text!r:.200}"


def tried(spec: str) -> collections.Counter[str]:
    """What came of each sample. Raises AssertionError for what a source may not give."""
    said: collections.Counter[str] = collections.Counter()
    try:
        source: Any = open_source(spec)
    except UserError as error:
        check(str(error))
        return collections.Counter(refused=1)
    assert clean(source.fingerprint())
    assert all(clean(name) for name in source.classes)
    assert len(source) > 0
    spread = np.random.default_rng(0).permutation(min(len(source), 1 << 20))[:READ]
    for index in sorted({0, len(source) - 1, *(int(i) for i in spread)}):
        try:
            sample = source[index]
            assert clean(sample["id"]) or len(sample["id"]) > 1500, sample["id"]
            for text in sample.get("captions", []):
                assert text.strip()
                text.encode("utf-8")
            assert 0 <= sample.get("label", 0) < (len(source.classes) or 1 << 31)
            if "image" in sample:
                view = random_resized_crop(sample["image"], 16, np.random.default_rng(0), key=sample["id"])
                assert view.shape == (3, 16, 16)
            said["read"] += 1
        except BadSample as error:
            check(error.key)
            check(error.reason)
            said["bad"] += 1
    return said


def listing(root: Path) -> dict[str, tuple[int, int]]:
    """Every name below a folder with its size and time."""
    found = {}
    for at, folders, files in os.walk(root):
        for name in [*folders, *files]:
            facts = os.lstat(os.path.join(at, name))
            found[os.path.join(at, name)] = (facts.st_size, facts.st_mtime_ns)
    return found


def _too_slow(*_: object) -> None:
    raise TooSlow


def main(base: Path, share: int, of: int) -> None:
    pages, start = (
        int(each) * resource.getpagesize() for each in Path("/proc/self/statm").read_text().split()[:2]
    )
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    totals: collections.Counter[str] = collections.Counter()
    failures, slowest = [], (0.0, "")
    for name, build, seed in list(cases())[share::of]:
        (base / "current").write_text(name)
        folder = base / "data"
        folder.mkdir()
        spec = build(folder, np.random.default_rng(seed))
        before = listing(folder)
        faulthandler.dump_traceback_later(
            6 * SECONDS, exit=True
        )  # for what no signal reaches, such as a pipe
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        begun = time.perf_counter()
        try:
            said = tried(spec)
        except TooSlow:
            failures.append(f"{name}: took longer than {SECONDS} s")
        except BaseException as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        else:
            totals.update(said, inputs=1)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
        slowest = max(slowest, (time.perf_counter() - begun, name))
        if listing(folder) != before:
            failures.append(f"{name}: something was written beside the data")
        shutil.rmtree(folder)
    # not ru_maxrss, which a process inherits from the one that started it
    peak = (int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) << 10) - start
    result = {"totals": totals, "failures": failures, "slowest": slowest, "peak": peak}
    (base / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
