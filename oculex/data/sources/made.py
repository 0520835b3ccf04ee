"""What a system's pipeline makes of another source, sample by sample, when it is asked for: nothing is written down."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from oculex.contracts import BadSample, Pipeline, Sample, Source, UserError
from oculex.data.pipelines import made, pipeline_of, recipe_digest, survey, with_options
from oculex.data.split import HasHeldOut

_SEED = "seed"


class Made:
    """The one sample that comes of each of the source's; where nothing comes of it, it raises BadSample."""

    def __init__(self, name: str, pipeline: Pipeline, source: Source, seed: int = 0) -> None:
        self.name, self.pipeline, self.source, self.seed = name, pipeline, source, seed
        self.classes = source.classes

    @classmethod
    def of(cls, spec: str, opened: Callable[[str], Source]) -> Made:
        """Of ``made:SYSTEM[,option=value,...]:SOURCE``; ``seed`` is an option of every pipeline."""
        head, colon, inner = spec.removeprefix("made:").partition(":")
        if not colon or not inner:
            raise UserError(f"{spec} does not name its source; write made:SYSTEM,option=value:SOURCE")
        system, *pairs = head.split(",")
        seeds = [pair.partition("=")[2] for pair in pairs if pair.startswith(f"{_SEED}=")]
        if not all(seed.isdigit() for seed in seeds):
            raise UserError(f"{spec}: seed must be a whole number")
        own = [pair for pair in pairs if not pair.startswith(f"{_SEED}=")]
        pipeline, source = with_options(pipeline_of(system), own, spec), opened(inner)
        kind = MadeWithHeldOut if isinstance(source, HasHeldOut) else cls
        return kind(spec, pipeline, source, int(seeds[-1]) if seeds else 0)

    def fingerprint(self) -> str:
        return recipe_digest(self.pipeline, self.source, self.seed)

    @cached_property
    def known(self) -> Any:
        return survey(self.pipeline, self.source)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Sample:
        found = made(self.pipeline, self.source, index, self.known, self.seed)
        if not found:
            raise BadSample(
                f"{self.source.name}#{index}", f"{type(self.pipeline).__name__} makes nothing of it"
            )
        if len(found) > 1:
            raise UserError(f"{self.name} makes several samples of one; write them down with `oculex curate`")
        return found[0]


class MadeWithHeldOut(Made):
    """Of a source that knows its own test split."""

    def held_out(self) -> Made:
        source: Any = self.source
        return Made(self.name, self.pipeline, source.held_out(), self.seed)
