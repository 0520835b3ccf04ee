"""What a dual encoder that is a fusion encoder too says of pairs that it looks at, instead of comparing two vectors.

Its matching is asked the questions of ``compositional`` (an image's ``alternatives``), and of each image whether its
caption is told from that of another image, kind ``caption``. A caption of another image that fits as well is counted as
wrong, so this is a lower bound. Records and metrics are ``compositional``'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from oculex.contracts import MatchesTexts, Sample, Source
from oculex.data.views import captions
from oculex.evaluation.compositional import Question, answered, brought, paired, statistics
from oculex.evaluation.records import Table
from oculex.evaluation.task import Context, Task, wrong_image

NAME = "matching"


def run(system: Any, source: Source, context: Context) -> Table:
    samples = [sample for sample in context.embedder.samples(source) if "image" in sample]
    asked = [*_captions([sample for sample in samples if captions(sample)])]
    asked += [question for sample in samples if sample.get("alternatives") for question in brought(sample)]
    return answered(NAME, asked, partial(paired, capability="match_texts"), source, context)


def _captions(samples: Sequence[Sample]) -> Iterator[Question]:
    for sample, other in zip(samples, wrong_image([sample["id"] for sample in samples]), strict=True):
        own, false = captions(sample), captions(samples[other])[0]
        if false not in own:
            yield Question(sample["id"], sample["id"], "caption", "", (own[0], false))


TASK = Task(
    name=NAME,
    needs=(("image",), ("captions", "caption", "alternatives")),
    capabilities=((MatchesTexts,),),
    run=run,
    statistics=statistics,
)
