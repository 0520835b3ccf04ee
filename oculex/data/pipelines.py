"""How a pipeline is applied to a source: its options, the digest of what it makes, its survey, and single samples."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, Pipeline, Sample, Source, UserError
from oculex.data.order import generator
from oculex.data.sources.files import cache_folder, digest

_MAKES = 0x9A
"""Keeps the randomness of pipelines apart from that of training."""


def pipeline_of(system: str) -> type[Pipeline]:
    """Of a system in the catalog. Raises UserError where it makes no data."""
    from oculex import catalog

    row = catalog.find(system)
    found = catalog.load(row.name).pipeline
    if found is None:
        able = ", ".join(
            each.name for each in catalog.ROWS if catalog.has_code(each) and catalog.load(each.name).pipeline
        )
        raise UserError(f"{row.name} makes no data; these do: {able}")
    return found


def with_options(kind: type[Pipeline], pairs: Sequence[str], spec: str) -> Pipeline:
    """The pipeline with "option=value" pairs. Raises UserError that names what is unknown or does not fit."""
    known: dict[str, Any] = {each.name: each.default for each in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for pair in filter(None, pairs):
        name, _, value = pair.partition("=")
        if name not in known:
            raise UserError(f"{spec}: {kind.__name__} has no option {name!r}; it has {', '.join(known)}")
        of = type(known[name])
        try:
            values[name] = {"true": True, "false": False}[value.lower()] if of is bool else of(value)
        except (ValueError, KeyError):
            raise UserError(f"{spec}: {name} must be {of.__name__}, got {value!r}") from None
    return kind(**values)


def version(pipeline: Pipeline) -> str:
    """A digest of its kind, its options and the code that decides what it makes."""
    kind = type(pipeline)
    code = tuple(_code(name) for name in (kind.__module__, *kind.written_in))
    return digest([kind.__qualname__, sorted(asdict(pipeline).items()), code])  # type: ignore[call-overload]


@lru_cache
def _code(name: str) -> str:
    """Of a module, or of all modules of a package."""
    file = Path(str(import_module(name).__file__))
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return digest((each.name, each.read_bytes()) for each in files)


def recipe_digest(pipeline: Pipeline, source: Source, seed: int) -> str:
    """Equal digests make equal samples: of the pipeline, the data and the seed."""
    return digest([version(pipeline), source.fingerprint(), len(source), seed])


def survey(pipeline: Pipeline, source: Source) -> Any:
    """What the pipeline needs to know of the whole source: found out once and kept; None where it needs nothing."""
    if not pipeline.surveys:
        return None
    path = (
        cache_folder() / "surveys" / f"{digest([version(pipeline), source.fingerprint(), len(source)])}.json"
    )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    known = pipeline.gather([note(pipeline, source, index) for index in range(len(source))])
    return keep(path, known)


def note(pipeline: Pipeline, source: Source, index: int) -> Any:
    """What is noted of one sample; None of one that cannot be used, which is counted where it is to be made."""
    try:
        return pipeline.note(source[index], source)
    except BadSample:
        return None


def keep(path: Path, value: Any) -> Any:
    """Writes JSON whole or not at all, and gives it as it will be read."""
    text = json.dumps(value, ensure_ascii=False)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space, or set OCULEX_CACHE") from error
    return json.loads(text)


def made(pipeline: Pipeline, source: Source, index: int, known: Any, seed: int) -> list[Sample]:
    """What comes of one sample. Raises BadSample."""
    return pipeline.make(source, index, known, generator(seed, index, _MAKES))
