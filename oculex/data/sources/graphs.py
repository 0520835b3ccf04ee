"""Scene graphs as their authors publish them, one sample a picture.

Visual Genome (Krishna et al. 2017): lists of ``image_id`` with ``objects``, ``attributes`` or ``relationships``, in
one file (scene_graphs.json) or several that are merged by ``object_id``; sizes are in image_data.json beside them, or
the picture's own. GQA (Hudson and Manning 2019): pictures by id, each with ``objects`` by id and their ``relations``.
CLEVR (Johnson et al. 2017): ``scenes``, or a file for each; things have a distance and no box. ProVision (Zhang et
al. 2024): pictures by name with ``data_path`` and an ``annotation`` in one or several files (boxes, labels,
attributes, relations, a depth map and masks). Its depth maps hold nearness in 256 steps: they become distances
without a unit. What is told of a picture is checked when it is asked for (``oculex.data.graphs``).
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.decode import Encoded
from oculex.data.sources.files import MAX_BYTES, digest, is_file, openable, read_inside, stamp

_LARGEST = 2 << 30
"""Bytes of a file; Visual Genome's scene graphs have 740 MB."""
_LOOKED_AT = 1 << 16
_NEAREST = 256.0
"""What a nearness of 0 to 255 is taken from, so that every known distance is above zero."""
CLEVR_RELATIONS = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}

Tree = dict[str, Any]
"""The graph of a picture as samples have it, and the names of the files that belong to it."""


class DrawnGraphs:
    """One sample for each picture whose graph the files have: ``image``, ``graph``, and ``depth`` and ``instances`` where
    there are such maps. A picture that cannot be read is a sample that raises BadSample."""

    classes: tuple[str, ...] = ()

    def __init__(self, name: str, listings: Sequence[Path]) -> None:
        """Raises UserError where a file is not what it looks like, or tells of no picture."""
        self.name, self.listings = name, list(listings)
        self.graphs: dict[str, Tree] = {}
        for listing in self.listings:
            told = _tree(listing)
            try:
                for key, graph in kind_of(listing)(told):  # type: ignore[misc]
                    _merge(self.graphs.setdefault(key, {}), graph)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                raise UserError(
                    f"{listing} is not as its format lays it out: {type(error).__name__}: {str(error)[:100]}"
                ) from error
        self.keys = [key for key, graph in self.graphs.items() if "objects" in graph]
        if not self.keys:
            raise UserError(
                f"{name} has relations or sizes and no objects; give the files of the objects too"
            )
        self.roots = _roots(self.listings[0].parent)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest(
            [*map(stamp, self.listings), *(stamp(self._place(self.graphs[key])) for key in self.keys)]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int, /) -> Sample:
        key = self.keys[index]
        graph = self.graphs[key]
        found = self._place(graph)
        image = read_inside(found.parent, found.name)
        tree = {name: value for name, value in graph.items() if not name.startswith("_")}
        if "width" not in tree:
            tree["width"], tree["height"] = Encoded(image, key).size
        sample: dict[str, Any] = {"id": printable(key, 200), "image": image, "graph": tree}
        if graph.get("_depth"):
            nearness = self._map(graph["_depth"], key, 2)
            sample["depth"] = np.float32(_NEAREST) - nearness.astype(np.float32).clip(0, 255)
        if graph.get("_masks"):
            sample["instances"] = _numbered(self._map(graph["_masks"], key, 3))
        return sample

    def _place(self, graph: Tree) -> Path:
        """Where the picture is, or would be."""
        names = [name for name in graph["_images"] if isinstance(name, str)] or ["?"]
        # a ProVision path begins at its authors' folder; what counts is how it ends
        tails = [Path(*Path(name).parts[n:]) for name in names for n in range(min(len(Path(name).parts), 4))]
        for root in self.roots:
            for tail in tails:
                if not tail.is_absolute() and ".." not in tail.parts and is_file(root / tail):
                    return root / tail
        return self.roots[0] / Path(names[0]).name

    def _map(self, name: Any, key: str, dimensions: int) -> np.ndarray:
        if not isinstance(name, str) or Path(name).suffix != ".npy":
            raise BadSample(
                key,
                f"its map {str(name)[:60]} is no .npy file; a pickle could run code, so write it with numpy.save",
            )
        root = next((each for each in self.roots if is_file(each / Path(name).name)), self.roots[0])
        try:
            array = np.lib.format.read_array(
                io.BytesIO(read_inside(root, Path(name).name, MAX_BYTES)),
                allow_pickle=False,
                max_header_size=4096,
            )
        except (ValueError, EOFError, struct.error, MemoryError) as error:
            raise BadSample(key, f"its map {name[:60]} cannot be read: {str(error)[:80]}") from error
        if array.ndim != dimensions or array.dtype.kind not in "biuf":
            raise BadSample(key, f"its map {name[:60]} is {array.dtype} of {array.ndim} dimensions")
        return array


def kind_of(path: Path) -> Callable[[Any], Iterator[tuple[str, Tree]]] | None:
    """The reader of a JSON file that begins like one of these; None for any other."""
    try:
        with openable(path).open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return None
    return next((read for words, read in _KINDS if any(all(w in head for w in each) for each in words)), None)


def _numbered(masks: np.ndarray) -> np.ndarray:
    """bool [n, H, W] -> number of the thing at each pixel, the later of two that share it."""
    out = np.zeros(masks.shape[1:], np.uint16)
    for n, mask in enumerate(masks, 1):
        out[mask > 0] = n
    return out


def _merge(known: Tree, more: Tree) -> None:
    """Objects of the same id are one: what one file tells of it is added to what another one did."""
    for key, value in more.items():
        if key == "objects":
            things = known.setdefault(key, [])
            ids = {each.get("object_id"): each for each in things if "object_id" in each}
            for each in value:
                number = each.get("object_id")
                if number is not None and number in ids:
                    ids[number].update({k: v for k, v in each.items() if v})
                else:
                    things.append(dict(each))
        elif key == "relationships":
            known.setdefault(key, []).extend(value)
        else:
            known[key] = value


def _visual_genome(told: Any) -> Iterator[tuple[str, Tree]]:
    for row in told:
        number = str(row["image_id"])
        graph: Tree = {"_images": [f"{number}.jpg", f"VG_100K/{number}.jpg", f"VG_100K_2/{number}.jpg"]}
        links = row.get("relationships", ())
        things = [*row.get("objects", ()), *row.get("attributes", ())]
        for link in links:
            for end in ("subject", "object"):
                if isinstance(link.get(end), Mapping):  # as relationships.json tells them, in full
                    things.append(link[end])
        graph |= {name: row[name] for name in ("width", "height") if name in row}
        if things:
            graph["objects"] = [_named(each) for each in things]
        if links:
            graph["relationships"] = [
                {
                    "predicate": link["predicate"],
                    "subject_id": link.get("subject_id", (link.get("subject") or {}).get("object_id")),
                    "object_id": link.get("object_id", (link.get("object") or {}).get("object_id")),
                }
                for link in links
            ]
        yield number, graph


def _named(thing: Mapping[str, Any]) -> Tree:
    kept = {key: thing[key] for key in ("object_id", "x", "y", "w", "h", "attributes") if key in thing}
    return kept | {"names": thing.get("names") or [thing.get("name")]}


def _gqa(told: Any) -> Iterator[tuple[str, Tree]]:
    for number, row in told.items():
        links = [
            {"predicate": link["name"], "subject_id": key, "object_id": link["object"]}
            for key, thing in row["objects"].items()
            for link in thing.get("relations", ())
        ]
        things = [
            {key: thing[key] for key in ("x", "y", "w", "h", "attributes") if key in thing}
            | {"object_id": number_, "names": [thing["name"]]}
            for number_, thing in row["objects"].items()
        ]
        graph = {"width": row["width"], "height": row["height"], "objects": things, "relationships": links}
        yield str(number), graph | {"_images": [f"{number}.jpg"]}


def _clevr(told: Any) -> Iterator[tuple[str, Tree]]:
    for row in told.get("scenes", [told]):
        things = [
            {
                "object_id": n,
                "names": [thing["shape"]],
                "attributes": [thing[key] for key in ("size", "color", "material") if key in thing],
                "pixel_coords": thing["pixel_coords"],
            }
            for n, thing in enumerate(row["objects"])
        ]
        links = [
            {"predicate": CLEVR_RELATIONS.get(name, name), "subject_id": subject, "object_id": other}
            for name, lists in row.get("relationships", {}).items()
            for other, subjects in enumerate(lists)
            for subject in subjects
        ]
        name = row["image_filename"]
        yield str(name), {"_images": [name], "objects": things, "relationships": links}


def _provision(told: Any) -> Iterator[tuple[str, Tree]]:
    """Files of a picture tell of the same things in the same order; one of the masks tells of them once more."""
    for key, row in told.items():
        a = row["annotation"]
        graph: Tree = {"_images": [row["data_path"]], "width": a["width"], "height": a["height"]}
        things: list[Tree] = [{} for _ in a.get("labels") or a.get("attributes") or ()]
        for n, thing in enumerate(things):
            thing["object_id"] = n
            if a.get("labels"):
                x0, y0, x1, y1 = a["bboxes"][n]
                thing |= {"names": [a["labels"][n]], "x": x0, "y": y0, "w": x1 - x0, "h": y1 - y0}
            if a.get("attributes"):
                thing["attributes"] = [
                    "gray" if part == "grey" else part
                    for words in a["attributes"][n]
                    for part in words.split(" and ")
                ]
        if things:
            graph["objects"] = things
        if a.get("relations"):
            graph["relationships"] = [
                {"subject_id": subject, "predicate": predicate, "object_id": other}
                for subject, predicate, other in a["relations"]
                if predicate != "of"  # which says nothing; the authors drop it
            ]
        graph |= {"_depth": a["depth_mask_id"]} if a.get("depth_mask_id") else {}
        graph |= {"_masks": a["seg_mask_id"]} if a.get("seg_mask_id") else {}
        yield str(key), graph


_KINDS: tuple[tuple[tuple[tuple[bytes, ...], ...], Callable[[Any], Iterator[tuple[str, Tree]]]], ...] = (
    (((b'"data_path"', b'"annotation"'),), _provision),
    (((b'"3d_coords"', b'"pixel_coords"'),), _clevr),
    (
        (
            (b'"object_id"', b'"relationships"'),
            (b'"object_id"', b'"image_id"', b'"objects"'),
            (b'"object_id"', b'"image_id"', b'"attributes"'),
            (b'"image_id"', b'"coco_id"', b'"width"'),  # image_data.json
        ),
        _visual_genome,
    ),
    (((b'"relations"', b'"objects"', b'"width"'),), _gqa),
)
"""Words that a file of each kind begins with."""


def _tree(listing: Path) -> Any:
    if openable(listing).stat().st_size > _LARGEST:
        raise UserError(f"{listing} is larger than {_LARGEST >> 30} GiB; cut it into parts")
    try:
        return json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error


def _roots(base: Path) -> list[Path]:
    """Folders in which pictures and maps may lie: the files' own, those in it and beside a folder of annotations."""
    top = base.parent if base.name in ("annotations", "scenes", "sceneGraphs") else base
    below = [
        each for folder in dict.fromkeys((base, top)) for each in sorted(folder.iterdir()) if each.is_dir()
    ]
    inside = [each for each in below if each.resolve().is_relative_to(top.resolve())]
    return [base, *inside]
