"""The catalog: the 108 systems, where each lives, and what stands behind it. Nothing is imported at start-up."""

from __future__ import annotations

import difflib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oculex.catalog_rows import BASELINES as _BASELINES
from oculex.catalog_rows import ROWS as _ROWS
from oculex.contracts import UserError

if TYPE_CHECKING:
    from oculex.contracts import Plugin

_PACKAGE = Path(__file__).parent
POINTS = ("golden", "learning", "preset", "real_data", "claim", "usable")
"""What a row needs evidence of, beside its code, to count as done."""


@dataclass(frozen=True)
class Row:
    """A published system. ``claim`` is its headline claim in our words."""

    number: int | None
    name: str
    family: str
    authors: str
    venue: str
    year: int
    code: str
    """owner/name of the authors' repository; empty where none is known."""
    title: str
    claim: str

    @property
    def module(self) -> str:
        return f"oculex.systems.{self.family}.{self.name}"


ROWS: tuple[Row, ...] = tuple(Row(*row) for row in _ROWS)
BASELINES: tuple[Row, ...] = tuple(Row(None, *row) for row in _BASELINES)
"""Systems that serve as comparison arms and are not among the 108."""


def families() -> tuple[str, ...]:
    return tuple(dict.fromkeys(row.family for row in ROWS))


def find(name: str) -> Row:
    """The row of a name or a number; UserError with the nearest names where there is none."""
    rows = (*ROWS, *BASELINES)
    for row in rows:
        if name in (row.name, str(row.number)):
            return row
    near = difflib.get_close_matches(name, [row.name for row in rows], n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"no system {name!r}; {hint}`oculex list` names them all")


def has_code(row: Row) -> bool:
    return (_PACKAGE / "systems" / row.family / f"{row.name}.py").is_file()


def load(name: str) -> Plugin:
    """What the system's file offers; UserError where it is not built yet."""
    row = find(name)
    if not has_code(row):
        raise UserError(f"{row.name} is planned, not built yet; `oculex list` shows what runs")
    return importlib.import_module(row.module).SYSTEM


def evidence_path(name: str) -> Path:
    return _PACKAGE / "evidence" / f"{name}.json"


def evidence(name: str) -> dict[str, Any]:
    """What was measured: {point: facts} for some of ``POINTS``. Written by the project's commands, never by hand."""
    path = evidence_path(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def record(name: str, point: str, facts: dict[str, Any]) -> Path:
    """Adds facts to a point of a row's evidence; facts of the same name are replaced. Returns the file.

    Called by `oculex claim --record` and by the test suite's `--record-evidence`, and by nothing else.
    """
    if point not in POINTS:
        raise ValueError(f"no point {point!r}; there are {', '.join(POINTS)}")
    row = find(name)
    path, found = evidence_path(row.name), evidence(row.name)
    found[point] = dict(sorted((found.get(point, {}) | facts).items()))
    ordered = {each: found[each] for each in POINTS if each in found}
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(
        json.dumps(ordered, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    part.replace(path)
    return path


def status(row: Row) -> str:
    """planned, runs (there is code that learnt), or works (there is evidence of every point)."""
    found = evidence(row.name) if has_code(row) else {}
    if all(found.get(point) for point in POINTS):
        return "works"
    return "runs" if found.get("learning") else "planned"


def cite(row: Row) -> str:
    """A BibTeX entry."""
    fields = {
        "title": row.title,
        "author": row.authors.replace(" et al.", " and others"),
        "year": str(row.year),
    }
    fields["howpublished"] = row.venue
    body = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items() if value)
    return f"@misc{{{row.name}{row.year},\n{body}\n}}"
