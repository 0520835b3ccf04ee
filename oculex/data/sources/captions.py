"""Images named by a captions file: CSV, TSV, JSONL, a JSON list, or COCO's captions JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oculex.contracts import Sample, UserError
from oculex.data.sources.files import digest, read_inside, stamp

IMAGE_COLUMNS = ("image", "filename", "file_name", "image_path", "filepath", "file", "path", "img")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "title", "sentence", "description")
KINDS = (".csv", ".tsv", ".jsonl", ".json")
_MAX_FIELD = 1 << 20


class CaptionedImages:
    """One sample per image with all its captions. Files must lie below the captions file's folder."""

    classes: tuple[str, ...] = ()

    def __init__(self, listing: Path, root: Path, names: list[str], captions: list[list[str]]) -> None:
        self.name, self.listing, self.root = str(listing), listing, root
        self.names, self.captions = names, captions

    @classmethod
    def of(cls, listing: Path) -> CaptionedImages:
        """Raises UserError where columns are missing or no row has an image and a caption."""
        grouped: dict[str, list[str]] = {}
        for name, texts in _rows(listing):
            kept = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
            if isinstance(name, str) and name and kept:
                grouped.setdefault(name, []).extend(kept)
        if not grouped:
            raise UserError(f"{listing} has no captions; every row needs an image and a text")
        return cls(listing, _root(listing, next(iter(grouped))), list(grouped), list(grouped.values()))

    def fingerprint(self) -> str:
        return digest([stamp(self.listing), len(self.names)])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, /) -> Sample:
        name = self.names[index]
        return {"id": name, "image": read_inside(self.root, name), "captions": self.captions[index]}


def captions_file(folder: Path) -> Path | None:
    """The one captions file of a folder; UserError where there are several, None where there is none."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.is_file())
    if len(found) > 1:
        raise UserError(
            f"{folder} has several tables ({', '.join(p.name for p in found[:5])}); give the one with captions"
        )
    return found[0] if found else None


def _root(listing: Path, first: str) -> Path:
    """Images lie beside the captions file, or in one of the folders below it."""
    base = listing.parent
    candidates = [
        base,
        base / "images",
        *sorted(p for p in base.iterdir() if p.is_dir() and p.name != "images"),
    ]
    candidates += [
        folder for folder in sorted(base.parent.iterdir()) if folder.is_dir() and base.name == "annotations"
    ]
    for root in candidates:
        if (root / first).is_file():
            return root
    raise UserError(
        f"{listing} names {first!r}, which is neither beside it nor in images/; keep the pictures there"
    )


def _rows(listing: Path) -> Iterator[tuple[Any, list[Any]]]:
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {listing}: {error}; captions files are UTF-8 text") from error
    kind = listing.suffix.lower()
    if kind in (".csv", ".tsv"):
        csv.field_size_limit(_MAX_FIELD)
        try:
            rows: list[Any] = list(
                csv.DictReader(text.splitlines(), delimiter="\t" if kind == ".tsv" else ",")
            )
        except csv.Error as error:
            raise UserError(f"cannot read {listing}: {error}") from error
    else:
        rows = _json_rows(listing, text, kind)
    rows = [row for row in rows if isinstance(row, Mapping)]
    if not rows:
        raise UserError(f"{listing} has no rows of named columns")
    image, caption = _column(listing, rows[0], IMAGE_COLUMNS), _column(listing, rows[0], CAPTION_COLUMNS)
    for row in rows:
        texts = row.get(caption)
        yield row.get(image), texts if isinstance(texts, list) else [texts]


def _json_rows(listing: Path, text: str, kind: str) -> list[Any]:
    try:
        if kind == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error
    if isinstance(tree, Mapping) and {"images", "annotations"} <= tree.keys():
        return _coco_rows(listing, tree)
    if not isinstance(tree, list):
        raise UserError(f"{listing} is neither a list of rows nor COCO captions (images, annotations)")
    return tree


def _coco_rows(listing: Path, tree: Mapping[str, Any]) -> list[Any]:
    try:
        names = {image["id"]: image["file_name"] for image in tree["images"]}
        pairs = [(names.get(each["image_id"]), each["caption"]) for each in tree["annotations"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{listing} looks like COCO but its annotations have no {error}; give the captions file"
        ) from error
    return [{"image": name, "caption": caption} for name, caption in pairs]


def _column(listing: Path, row: Mapping[str, Any], known: tuple[str, ...]) -> str:
    lowered = {str(key).strip().lower(): key for key in row}
    for name in known:
        if name in lowered:
            return lowered[name]
    raise UserError(
        f"{listing} has columns {', '.join(map(str, row))}; one must be called {' or '.join(known[:4])}"
    )
