"""Pictures with boxes: COCO's instances JSON, the same with captions whose words mean boxes (MDETR's, in which
Flickr30k Entities, RefCOCO and Visual Genome are handed around), and Pascal VOC's XML files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.masks import OUTSIDE, painted_mask
from oculex.data.sources.captions import TRIED, image_root
from oculex.data.sources.files import digest, is_file, openable, read_inside, stamp, texts

MAX_TREE = 1 << 29
"""Bytes of a JSON file; COCO's largest has 450 MB."""
MAX_XML = 1 << 20
_CHUNK = 1 << 20


@dataclass
class Boxed:
    """What a file says of one picture."""

    name: str
    """Of the image file."""
    id: str
    boxes: list[list[float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    means: list[list[list[int]]] = field(default_factory=list)
    """For each box the spans of the caption that mean it; empty where nothing does."""
    outlines: list[list[np.ndarray]] = field(default_factory=list)
    """For each box the polygons x0 y0 x1 y1 ... of its object; empty where the file has none."""
    size: tuple[int, int] | None = None
    """Width and height of the picture in pixels, where the file tells."""


class BoxedImages:
    """One sample per picture, or per picture and caption, with the boxes x0 y0 x1 y1 that a file gives it.

    Boxes of crowds (COCO) and difficult ones (VOC) are ``box_ignored``. Pictures lie below the file's folder.
    """

    def __init__(
        self, name: str, listing: Path, root: Path, classes: Sequence[str], rows: Sequence[Boxed]
    ) -> None:
        self.name, self.listing, self.root, self.classes, self.rows = (
            name,
            listing,
            root,
            tuple(classes),
            rows,
        )

    @classmethod
    def of(cls, listing: Path) -> BoxedImages:
        """Raises UserError where the file is not what it looks like."""
        if openable(listing).stat().st_size > MAX_TREE:
            raise UserError(f"{listing} is larger than {MAX_TREE >> 20} MiB; cut it up")
        try:
            with listing.open(encoding="utf-8") as file:
                classes, rows = _coco(json.load(file))
        except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{listing} has boxes but is not as COCO lays it out ({type(error).__name__}: {str(error)[:80]}); it "
                "needs images, annotations with bbox, and categories"
            ) from error
        if not rows:
            raise UserError(f"{listing} names no images")
        return cls(
            str(listing), listing, image_root(listing, [row.name for row in rows[:TRIED]]), classes, rows
        )

    @classmethod
    def of_voc(cls, folder: Path) -> BoxedImages:
        """Raises UserError where an XML file is not as VOC lays it out."""
        rows, names = [], set()
        found = [(path, list(_voc(path))) for path in sorted((folder / "Annotations").glob("*.xml"))]
        for _, things in found:
            names |= {name for name, *_ in things}
        classes = sorted(names)
        for path, things in found:
            row = Boxed(_voc_image(folder, path.stem), path.stem)
            for name, box, hard in things:
                row.boxes.append(box)
                row.labels.append(classes.index(name))
                row.ignored.append(hard)
                row.outlines.append([])
            rows.append(row)
        return cls(str(folder), folder / "Annotations", folder, classes, rows)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        told = ((row.name, row.boxes, row.labels, *stamp(self.root / row.name)[1:]) for row in self.rows)
        return digest(chain([stamp(self.listing)], told))

    @cached_property
    def outlined(self) -> bool:
        """Whether the file outlines every object that counts, so that pixels have classes too."""
        known = [
            bool(outline)
            for row in self.rows
            for outline, ignored in zip(row.outlines, row.ignored, strict=True)
            if not ignored
        ]
        return bool(known) and all(known) and 0 < len(self.classes) < OUTSIDE

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Sample:
        row = self.rows[index]
        boxes = np.array(row.boxes, np.float32).reshape(-1, 4)
        if not np.isfinite(boxes).all():
            raise BadSample(row.id, "a box of it has a number that is none")
        sample: dict[str, Any] = {
            "id": printable(row.id),
            "image": read_inside(self.root, row.name),
            "boxes": boxes,
            "box_ignored": np.array(row.ignored, bool),
        }
        if self.classes:
            sample["box_labels"] = np.array(row.labels, np.int64)
        if self.outlined and row.size is not None:
            sample["semantic"] = painted_mask(row.size, row.outlines, row.boxes, row.labels, row.ignored)
        if row.captions:
            sample["captions"] = row.captions
        if any(row.means):
            sample["grounded"] = [_grounded(row)]
        return sample


def holds_boxes(path: Path) -> bool:
    """Whether a JSON file speaks of boxes, as far as its words tell."""
    word, before = b'"bbox"', b""
    with openable(path).open("rb") as file:
        while part := file.read(_CHUNK):
            if word in before + part:
                return True
            before = part[-len(word) :]
    return False


def is_voc(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and next((folder / "Annotations").glob("*.xml"), None) is not None


def _grounded(row: Boxed) -> dict[str, Any]:
    """Boxes that the same words mean belong to one phrase."""
    phrases: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for number, spans in enumerate(row.means):
        if spans and not row.ignored[number]:
            phrases.setdefault(tuple((start, end) for start, end in spans), []).append(number)
    return {
        "kind": "phrases",
        "text": row.captions[0],
        "spans": [[list(span) for span in spans] for spans in phrases],
        "boxes": list(phrases.values()),
    }


def _coco(tree: Mapping[str, Any]) -> tuple[list[str], list[Boxed]]:
    categories = {
        each["id"]: each["name"] for each in sorted(tree.get("categories", ()), key=lambda c: c["id"])
    }
    means = any("tokens_positive" in each for each in tree["annotations"][:TRIED])
    label = {} if means else {number: place for place, number in enumerate(categories)}
    names = [str(image["file_name"]) for image in tree["images"]]
    alone = len(set(names)) == len(names)
    rows = {}
    for name, image in zip(names, tree["images"], strict=True):
        row = Boxed(name, name if alone else f"{name}#{image['id']}")
        row.captions = texts(image.get("caption"), row.id)
        if image.get("width") and image.get("height"):
            row.size = int(image["width"]), int(image["height"])
        rows[image["id"]] = row
    for each in tree["annotations"]:
        row = rows[each["image_id"]]
        x, y, width, height = map(float, each["bbox"])
        row.boxes.append([x, y, x + width, y + height])
        row.labels.append(label.get(each.get("category_id"), -1))
        row.ignored.append(bool(each.get("iscrowd", 0)))
        row.outlines.append(_polygons(each.get("segmentation")))
        spans = each.get("tokens_positive") or [] if row.captions else []
        row.means.append([[int(start), int(end)] for start, end in spans])
    return [] if means else [str(name) for name in categories.values()], list(rows.values())


def _polygons(segmentation: Any) -> list[np.ndarray]:
    """COCO's polygons; run lengths, which it has for crowds alone, are none."""
    if not isinstance(segmentation, list):
        return []
    found = [np.asarray(each, np.float32) for each in segmentation]
    return [each for each in found if each.ndim == 1 and len(each) >= 6 and np.isfinite(each).all()]


def _voc(path: Path) -> Iterator[tuple[str, list[float], bool]]:
    """Class, box and whether it is difficult, of each object; VOC counts pixels from 1, the last one inside."""
    try:
        content = openable(path).read_bytes()
        if len(content) > MAX_XML or b"<!DOCTYPE" in content:
            raise ValueError(f"is larger than {MAX_XML >> 20} MiB or defines a document type")
        for thing in ElementTree.fromstring(content).iter("object"):
            corner = [float(_text(thing, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            box = [corner[0] - 1, corner[1] - 1, corner[2], corner[3]]
            yield _text(thing, "name"), box, (thing.findtext("difficult") or "0").strip() == "1"
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise UserError(f"{path} is not as VOC lays it out: {str(error)[:100]}") from error


def _text(thing: ElementTree.Element, where: str) -> str:
    found = thing.findtext(where)
    if not found or not found.strip():
        raise ValueError(f"an object has no {where}")
    return found.strip()


def _voc_image(folder: Path, stem: str) -> str:
    names: Iterable[str] = (f"JPEGImages/{stem}{suffix}" for suffix in (".jpg", ".jpeg", ".png"))
    return next((name for name in names if is_file(folder / name)), f"JPEGImages/{stem}.jpg")
