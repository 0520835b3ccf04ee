"""Evaluations along a run, as lines of its evaluations.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def along(evaluations: Sequence[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """Those with a metric of one number of items, the commonest: a gallery twice as large is another question."""
    found = [line for line in evaluations if metric in line["metrics"]]
    counts = Counter(line["metrics"][metric].get("n") for line in found)
    return [line for line in found if line["metrics"][metric].get("n") == counts.most_common(1)[0][0]]
