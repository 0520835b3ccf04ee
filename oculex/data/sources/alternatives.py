"""Benchmarks of composition as their authors publish them: ARO's relations and attributes, and SugarCrepe.

ARO (Yuksekgonul et al. 2023): ``visual_genome_relation.json`` and ``visual_genome_attribution.json``, lists of rows with
a picture, a box that is cut out of it, a true and a false caption; pictures in ``images/``. SugarCrepe (Hsieh et al.
2023): seven files such as ``swap_att.json``, each a mapping of rows with a picture, a caption and a negative one; the
pictures are COCO's val2017. Pictures lie beside the file or in a folder there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.decode import opened
from oculex.data.sources.captions import TRIED, image_root
from oculex.data.sources.files import MAX_TABLE, digest, openable, read_inside, stamp, texts

MARKS = (b'"false_caption"', b'"negative_caption"')
_LOOKED_AT = 1 << 16
LEAST = 25
"""Rows of a pair of attributes, under which ARO does not count it in the mean over pairs."""
UNCOUNTED = frozenset(
    """adjusting|attached to|between|bigger than|biting|boarding|brushing|chewing|cleaning|climbing|close to|coming from
    |coming out of|contain|crossing|dragging|draped over|drinking|drinking from|driving|driving down|driving on
    |eating from|eating in|enclosing|exiting|facing|filled with|floating in|floating on|flying|flying above|flying in
    |flying over|flying through|full of|going down|going into|going through|grazing in|growing in|growing on|guiding
    |hanging from|hanging in|hanging off|hanging over|higher than|holding onto|hugging|in between|jumping off|jumping on
    |jumping over|kept in|larger than|leading|leaning over|leaving|licking|longer than|looking in|looking into
    |looking out|looking over|looking through|lying next to|lying on top of|making|mixed with|mounted on|moving
    |on the back of|on the edge of|on the front of|on the other side of|opening|painted on|parked at|parked beside
    |parked by|parked in|parked in front of|parked near|parked next to|perched on|petting|piled on|playing|playing in
    |playing on|playing with|pouring|reaching for|reading|reflected on|riding on|running in|running on|running through
    |seen through|sitting behind|sitting beside|sitting by|sitting in front of|sitting near|sitting next to
    |sitting under|skiing down|skiing on|sleeping in|sleeping on|smiling at|sniffing|splashing|sprinkled on|stacked on
    |standing against|standing around|standing behind|standing beside|standing in front of|standing near
    |standing next to|staring at|stuck in|surrounding|swimming in|swinging|talking to|topped with|touching
    |traveling down|traveling on|tying|typing on|underneath|wading in|waiting for|walking across|walking by
    |walking down|walking next to|walking through|working in|working on|worn on|wrapped around|wrapped in|by|of|near
    |next to|with|beside|on the side of|around""".replace("\n    ", "").split("|")
)
"""Relations that ARO's mean over relations leaves out, symmetric or rare (the authors' notebook)."""


class Row(NamedTuple):
    picture: str
    box: tuple[int, int, int, int] | None
    """x, y, width, height in pixels; None: the whole picture."""
    kind: str
    group: str
    true: str
    false: str


def holds_alternatives(path: Path) -> bool:
    """Whether a JSON file begins like one of these benchmarks."""
    try:
        with openable(path).open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return False
    return any(mark in head for mark in MARKS)


class CompositionPairs:
    """One sample per row, its picture (ARO: what the box cuts out) and one entry of ``alternatives``.

    A row that lacks something is a sample that raises BadSample.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, name: str, listings: Sequence[Path]) -> None:
        """Raises UserError where a file cannot be read, has no such rows, or its pictures are not found."""
        self.name, self.listings = name, list(listings)
        found = [row for listing in self.listings for row in _rows(listing)]
        self.rows = [(key, row) for key, row in found if not isinstance(row, BadSample)]
        self.bad = [row for _, row in found if isinstance(row, BadSample)]
        if not self.rows:
            first = f"; first: {self.bad[0]}" if self.bad else ""
            raise UserError(f"{name} has no row with a picture, a true and a false caption{first}")
        self.root = image_root(self.listings[0], [row.picture for _, row in self.rows[:TRIED]])
        of_group = Counter(row.group for _, row in self.rows)
        self.uncounted = {
            group
            for kind, group in {(row.kind, row.group) for _, row in self.rows}
            if (kind == "attribution" and of_group[group] < LEAST)
            or (kind == "relation" and group in UNCOUNTED)
        }

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        pictures = dict.fromkeys(row.picture for _, row in self.rows)
        return digest(
            [*map(stamp, self.listings), *((name, *stamp(self.root / name)[1:]) for name in pictures)]
        )

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)

    def __getitem__(self, index: int, /) -> Sample:
        if index >= len(self.rows):
            raise self.bad[index - len(self.rows)]
        key, row = self.rows[index]
        content = read_inside(self.root, row.picture)
        image = content if row.box is None else _cut(content, row.box, key)
        group = "" if row.group in self.uncounted else row.group
        told = {
            "kind": row.kind,
            "group": group,
            "true": row.true,
            "false": [row.false],
            "picture": row.picture,
        }
        return {"id": key, "image": image, "alternatives": [told]}


def _cut(image: bytes, box: tuple[int, int, int, int], key: str) -> np.ndarray:
    """The part of the picture that lies in the box."""
    picture = opened(image, key)
    x, y, width, height = box
    left, top = max(0, x), max(0, y)
    right, bottom = min(picture.width, x + width), min(picture.height, y + height)
    if left >= right or top >= bottom:
        raise BadSample(
            key, f"its box {box} lies outside of the picture of {picture.width} x {picture.height}"
        )
    return np.asarray(picture.crop((left, top, right, bottom)))


def _rows(listing: Path) -> Iterator[tuple[str, Row | BadSample]]:
    if openable(listing).stat().st_size > MAX_TABLE:
        raise UserError(
            f"{listing} is larger than {MAX_TABLE >> 20} MiB; this is no benchmark of composition"
        )
    try:
        tree = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error
    if not isinstance(tree, (list, Mapping)):
        raise UserError(f"{listing} is neither a list nor a mapping of rows")
    for number, row in enumerate(tree if isinstance(tree, list) else tree.values()):
        key = f"{listing.stem}#{number}"
        try:
            if not isinstance(row, Mapping):
                raise BadSample(key, "is not a row of named columns")
            yield key, _aro(row, key) if "true_caption" in row else _sugar_crepe(row, key, listing.stem)
        except BadSample as bad:
            yield key, bad


def _aro(row: Mapping[str, Any], key: str) -> Row:
    box = tuple(row.get(f"bbox_{side}") for side in "xywh")
    if any(isinstance(edge, bool) or not isinstance(edge, int) for edge in box):
        raise BadSample(key, f"its box {box} is not four whole numbers")
    relation, attributes = row.get("relation_name"), row.get("attributes")
    if isinstance(relation, str):
        kind, group = "relation", relation
    elif isinstance(attributes, list) and all(isinstance(each, str) for each in attributes):
        kind, group = "attribution", ", ".join(attributes)
    else:
        raise BadSample(key, "has neither a relation_name nor attributes")
    picture, true, false = (
        _text(row, column, key) for column in ("image_path", "true_caption", "false_caption")
    )
    return Row(picture, box, kind, group, true, false)  # type: ignore[arg-type]


def _sugar_crepe(row: Mapping[str, Any], key: str, kind: str) -> Row:
    picture, true, false = (_text(row, column, key) for column in ("filename", "caption", "negative_caption"))
    return Row(picture, None, printable(kind, 40), "", true, false)


def _text(row: Mapping[str, Any], column: str, key: str) -> str:
    found = row.get(column)
    if not isinstance(found, str) or not texts(found, key):
        raise BadSample(key, f"has no {column}")
    return found
