"""A run is a folder: recipe, metrics, checkpoints, records, report. All that is needed to go on from it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oculex.contracts import UserError


class RunFolder:
    """Paths of a run and its small files. Layout::

    recipe.json         the full resolved recipe
    plan.json           what was decided at the start: steps, data fingerprints
    machine.json        where it ran
    assets/             tokenizer and whatever else the system was built from
    metrics.jsonl       a line per logged step
    evaluations.jsonl   a line per evaluation: step, samples, metrics
    skipped.jsonl       a line per sample that could not be used
    checkpoints/        step-N folders, each complete or absent
    records/            evaluation tables
    report.html
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.plan = path / "recipe.json", path / "plan.json"
        self.metrics, self.evaluations = path / "metrics.jsonl", path / "evaluations.jsonl"
        self.skipped, self.assets = path / "skipped.jsonl", path / "assets"
        self.checkpoints, self.records = path / "checkpoints", path / "records"

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new run; refuses a folder that already holds one."""
        folder = cls(path)
        if folder.recipe.exists():
            raise UserError(
                f"{path} already holds a run; `oculex resume {path}` goes on with it, or choose another --out"
            )
        try:
            for made in (path, folder.assets, folder.checkpoints, folder.records):
                made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write the run folder {path}: {error.strerror}; choose another --out"
            ) from error
        write_json(path / "machine.json", machine())
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run."""
        folder = cls(path)
        if not folder.recipe.is_file():
            what = "holds no recipe.json" if path.is_dir() else "does not exist"
            raise UserError(
                f"{path} is not a run folder: it {what}; `oculex train NAME --out {path}` makes one"
            )
        return folder


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: written beside and renamed."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # which a read-only file system raises for what is not there
            part.unlink()
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or make the folder writable"
        ) from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; the run folder is damaged") from error


def append_line(path: Path, value: dict[str, Any]) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free space or make the folder writable"
        ) from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file; a last line that a crash cut short is left out.

    Raises UserError for any other line that is not JSON.
    """
    if not path.exists():
        return
    torn = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if torn:
                raise UserError(f"line {torn} of {path} is damaged; remove it, and the rest can be read")
            try:
                value = json.loads(line)
            except ValueError:
                torn = number
            else:
                if line.endswith("\n"):
                    yield value


def cut_after(path: Path, step: int) -> None:
    """Drops the lines of steps later than ``step``: what a crashed run logged beyond its checkpoint."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))


def finished(folder: RunFolder) -> bool:
    """Whether a run has had its evaluation at its last step."""
    if not folder.plan.exists():
        return False
    steps = read_json(folder.plan)["steps"]
    return any(line["step"] == steps for line in read_lines(folder.evaluations))


def machine() -> dict[str, Any]:
    """Where the numbers come from."""
    from importlib.metadata import version

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "oculex": version("oculex"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
