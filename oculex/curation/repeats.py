"""What is there twice: the same question with the same answer, or the same caption, of the same picture.

Twice to the letter, or nearly: but for upper case, punctuation, articles and numbers in words. The first in the order
of the source stays. Daft compares hashes of 64 bits of picture and text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oculex.curation.shards import write_table
from oculex.data.graphs.words import number
from oculex.data.pipelines import keep

DROPPED = "dropped.json"
_ROWS, _UNITS = 1 << 20, 1 << 16
"""Most rows of a part, and most questions and captions of a row."""
_NUMBERS = {number(value): str(value) for value in range(100)}
_ARTICLES = ("a", "an", "the")
_MARK = re.compile(r"^(?:\([A-Z]\)|[A-Z]\.) ")
"""The letter of an answer that is chosen: "B. cube", "(B) cube"."""


def normal(text: str) -> str:
    words = re.findall(r"[^\W_]+(?:[.'][^\W_]+)*", text.lower())
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def units(path: Path, part: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a row for each question and caption: its place in the order of all, exact and near text."""
    import pyarrow as pa

    place, exact, near = [], [], []
    for n, row in enumerate(rows):
        told = [(each["question"], each["answer"]) for each in row["questions"]] + [
            ("", c) for c in row["captions"]
        ]
        for k, (question, answer) in enumerate(told):
            place.append((part * _ROWS + n) * _UNITS + k)
            exact.append("\x1f".join((row["picture"], question, answer)))
            near.append(
                "\x1f".join((row["picture"], normal(question), normal(_MARK.sub("", answer)) or answer))
            )
    table = {
        "place": pa.array(place, pa.int64()),
        "exact": pa.array(exact, pa.string()),
        "near": pa.array(near, pa.string()),
    }
    write_table(path, pa.table(table))


def find(daft: Any, work: Path) -> dict[str, int]:
    """Keeps which units of which rows are dropped; how many are there again, and how many nearly."""
    col = daft.col
    frame = daft.read_parquet(str(work / "units" / "*.parquet")).select(
        "place", col("exact").hash().alias("exact"), col("near").hash().alias("near")
    )
    first = {
        name: frame.groupby(name).agg(col("place").min().alias(f"first_{name}")) for name in ("exact", "near")
    }
    joined = frame.join(first["exact"], on="exact").join(first["near"], on="near")
    again = joined.where(col("place") != col("first_near")).select(
        "place", (col("place") != col("first_exact")).alias("to_the_letter")
    )
    found = again.sort("place").to_pydict()
    dropped: dict[str, dict[str, list[int]]] = {}
    for place in found["place"]:
        row, unit = divmod(place, _UNITS)
        part, row = divmod(row, _ROWS)
        dropped.setdefault(str(part), {}).setdefault(str(row), []).append(unit)
    keep(work / DROPPED, dropped)
    exactly = sum(found["to_the_letter"])
    return {"repeated": exactly, "nearly_repeated": len(found["place"]) - exactly}
