"""Demonstrations on the simulated table as a source: a sample is what the robot saw, was told, and did next.

Episodes are simulated once and kept; equal specs give equal samples. Needs MuJoCo and Gymnasium.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import Sample, UserError
from oculex.data.actions import ActionSpace
from oculex.data.sources.files import cache_folder, digest
from oculex.simulation.layout import DIMENSIONS, HIGH, LOW, Layout, TableConfig, make_layout
from oculex.simulation.remote import Simulator

EPISODES = {"train": 1_500, "test": 100}
_NAMED = {"seen": "table", "unseen": "unseen-table"}


@dataclass(frozen=True)
class TableSpec:
    """table:key=value,...; several values are joined by +."""

    episodes: int = 0
    """0: 1,500 for training, 100 for testing."""
    size: int = 64
    """Pixels a side."""
    split: str = "train"
    seed: int = 0
    objects: int = 3
    shapes: str = "+".join(TableConfig().shapes)
    colours: str = "+".join(TableConfig().colours)
    skills: str = "push"
    novel: str = "pair"
    """What ``part`` withholds: pair or colour."""
    part: str = "seen"
    """seen, or unseen: what is meant was withheld from all seen tables."""
    noise: float = 0.3
    """By which the demonstrator is deflected, as a share of its largest step."""

    def config(self) -> TableConfig:
        return TableConfig(
            self.split, self.objects, tuple(self.shapes.split("+")), tuple(self.colours.split("+")),
            tuple(self.skills.split("+")), self.novel, self.part,
        )  # fmt: skip

    def count(self) -> int:
        return self.episodes or EPISODES[self.split]


def parse(spec: str) -> TableSpec:
    """Raises UserError that names the unknown key or the value that does not fit."""
    known: dict[str, Any] = {field.name: type(field.default) for field in fields(TableSpec)}
    values: dict[str, Any] = {}
    for pair in filter(None, spec.partition(":")[2].split(",")):
        key, _, value = pair.partition("=")
        if key not in known:
            raise UserError(f"{spec}: the table has no {key!r}; it has {', '.join(known)}")
        try:
            values[key] = known[key](value)
        except ValueError:
            raise UserError(f"{spec}: {key} must be {known[key].__name__}, got {value!r}") from None
    table = TableSpec(**values)
    if table.split not in EPISODES:
        raise UserError(f"{spec}: split={table.split!r} is not one of {', '.join(EPISODES)}")
    if table.episodes < 0 or table.size < 8 or not 0 <= table.noise <= 1:
        raise UserError(f"{spec}: episodes is a count, size is at least 8 pixels, noise is a share")
    table.config()
    return table


class TableEpisodes:
    """Steps of the expert's episodes, in order."""

    classes: tuple[str, ...] = ()

    def __init__(self, table: TableSpec) -> None:
        self.table = table
        given = ",".join(
            f"{field.name}={value}"
            for field in fields(TableSpec)
            if (value := getattr(table, field.name)) != field.default and field.name != "part"
        )
        self.name = ":".join(filter(None, (_NAMED[table.part], given)))

    @classmethod
    def of(cls, spec: str) -> TableEpisodes:
        return cls(parse(spec))

    def held_out(self) -> TableEpisodes:
        """Episodes of the test split, of the same kind."""
        episodes = min(self.table.episodes, EPISODES["test"]) if self.table.episodes else 0
        return TableEpisodes(replace(self.table, split="test", episodes=episodes))

    @property
    def actions(self) -> ActionSpace:
        ends = "terminate"
        return ActionSpace(DIMENSIONS, LOW, HIGH, tuple(2 * (name == ends) for name in DIMENSIONS), ends)

    @property
    def episodes(self) -> int:
        """How many are simulated; those that the expert fails have no samples."""
        return self.table.count()

    @property
    def size(self) -> int:
        """Pixels a side of what is seen."""
        return self.table.size

    def config(self) -> TableConfig:
        return self.table.config()

    def layout(self, number: int) -> Layout:
        """The table at the beginning of episode ``number``."""
        return make_layout(self.table.seed, number, self.table.config())

    def fingerprint(self) -> str:
        return digest([self.table, _version()])

    def __len__(self) -> int:
        return len(self._kept[1])

    def __getitem__(self, index: int, /) -> Sample:
        images, rows = self._kept
        row = rows[index]
        return {
            "id": f"{self.table.split}-{row['episode']}.{row['step']}",
            "image": images[index],
            "instruction": row["instruction"],
            "action": np.array(row["action"], np.float32),
        }

    @cached_property
    def _kept(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        folder = cache_folder() / "table" / self.fingerprint()
        if not folder.exists():
            _build(self.table, folder)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        lines = (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()
        return images, [json.loads(line) for line in lines]


def _version() -> str:
    """The cache belongs to the code that acted and drew."""
    import oculex.simulation

    folder = Path(oculex.simulation.__file__).parent
    return digest((path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py")))


def _build(table: TableSpec, folder: Path) -> None:
    """Simulates all episodes into a folder of its own, which then gets its name. The expert's failures are left out:
    nobody learns from them."""
    import shutil
    import sys

    from filelock import FileLock
    from rich.console import Console
    from rich.progress import track

    part = folder.with_name(f".{folder.name}")
    try:
        part.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{part}.lock"):
            if folder.exists():
                return
            images, lines, config = [], [], table.config()
            console = Console(file=sys.stderr)
            about = f"simulating {table.count():,} episodes, once"
            numbers = track(range(table.count()), about, console=console, disable=not sys.stderr.isatty())
            with Simulator() as simulator:
                for number in numbers:
                    steps, success = simulator.call(
                        "demonstrate", table.seed, number, config, table.size, table.noise
                    )
                    if not success:
                        continue
                    for step in steps:
                        images.append(step.image)
                        row = {"episode": number, "step": step.place, "instruction": step.instruction}
                        lines.append(json.dumps(row | {"action": step.action.tolist()}) + "\n")
            np.save(part / "images.npy", np.stack(images), allow_pickle=False)
            (part / "steps.jsonl").write_text("".join(lines), encoding="utf-8")
            part.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot keep simulated episodes in {folder.parent}: {error}; free space or set OCULEX_CACHE"
        ) from error
    finally:
        Path(f"{part}.lock").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(part, ignore_errors=True)
