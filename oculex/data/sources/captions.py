"""Images, and video, audio, depth and infrared files, named by a captions file: CSV, TSV, JSONL, a JSON list, COCO's
captions JSON, or MiniGPT-4's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.files import MAX_TABLE, digest, is_file, openable, read_inside, some, stamp, texts

IMAGE_COLUMNS = ("image", "filename", "file_name", "image_path", "filepath", "file", "path", "img")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "title", "sentence", "description")
MEDIA_COLUMNS = ("video", "audio", "depth", "infrared")
"""Files beside the image, or instead of it, by the sample's key."""
KINDS = (".csv", ".tsv", ".jsonl", ".json")
_MAX_FIELD = 1 << 20
_MAX_LINE = 16 << 20
TRIED = 10
"""Names that are looked for to find the folder of the images; one missing picture is not a missing folder."""

Row = tuple[str, Mapping[str, Any], Any]
"""Where it stands ("line 7"), the names of its files by key, its caption or captions."""
Files = tuple[tuple[str, str], ...]
"""(key, name) of a sample's files."""


class CaptionedImages:
    """One sample per image, or set of files, with all its captions. Files must lie below the captions file's folder.

    A row that names no image or has no caption is a sample of its own, which raises BadSample.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self, listing: Path, root: Path, captions: Mapping[Files, list[str]], bad: Sequence[BadSample]
    ) -> None:
        self.name, self.listing, self.root, self.bad = str(listing), listing, root, bad
        self.files, self.captions = list(captions), list(captions.values())

    @classmethod
    def of(cls, listing: Path) -> CaptionedImages:
        """Raises UserError where columns are missing or no row has an image and a caption."""
        grouped: dict[Files, list[str]] = {}
        bad: list[BadSample] = []
        for place, cells, value in _rows(openable(listing)):
            key = f"{listing.name} {place}"
            try:
                if isinstance(value, BadSample):
                    raise value
                files = tuple(
                    (k, name) for k, name in cells.items() if isinstance(name, str) and name.strip()
                )
                if not files:
                    raise BadSample(key, f"names no {' or '.join(cells) or 'image'}")
                kept = texts(value, key)
                if not kept:
                    raise BadSample(key, f"{printable(files[0][1], 100)} has no caption")
                grouped.setdefault(files, []).extend(kept)
            except BadSample as error:
                bad.append(error)
        if not grouped:
            first = f"; first: {bad[0]}" if bad else ""
            raise UserError(f"{listing} has no captions; every row needs an image and a text{first}")
        return cls(
            listing, image_root(listing, [files[0][1] for files in islice(grouped, TRIED)]), grouped, bad
        )

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names = (name for files in self.files for _, name in files)
        return digest(chain([stamp(self.listing)], ((name, *stamp(self.root / name)[1:]) for name in names)))

    def __len__(self) -> int:
        return len(self.files) + len(self.bad)

    def __getitem__(self, index: int, /) -> Sample:
        if index >= len(self.files):
            raise self.bad[index - len(self.files)]
        files = self.files[index]
        read = {key: read_inside(self.root, name) for key, name in files}
        return {
            "id": printable(" + ".join(name for _, name in files)),
            **read,
            "captions": self.captions[index],
        }


def captions_file(folder: Path) -> Path | None:
    """The captions file of a folder, or of its "annotations" as COCO lays it out; None where there is none.

    Of several tables the one whose name begins with "captions" counts; UserError where that is not one.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS and is_file(path))
    if len(found) > 1:
        named = [path for path in found if path.name.lower().startswith("captions")]
        if len(named) != 1:
            raise UserError(
                f"{folder} has several tables ({some(p.name for p in found)}); give the one with captions"
            )
        found = named
    if not found and (folder / "annotations").is_dir():
        return captions_file(folder / "annotations")
    return found[0] if found else None


def image_root(listing: Path, names: list[str]) -> Path:
    """Images lie beside the captions file, or in one of the folders below it; a link that leads out is not followed."""
    base = listing.parent
    top = base.parent if base.name == "annotations" else base
    folders = [base / "images", *sorted(base.iterdir()), *(sorted(top.iterdir()) if top != base else [])]
    inside = [each for each in folders if each.is_dir() and each.resolve().is_relative_to(top.resolve())]
    for name in names:
        for root in [base, *inside]:
            if is_file(root / name):
                return root
    raise UserError(
        f"{listing} names {names[0]!r}, which is neither beside it nor in a folder there such as images/; "
        "keep the pictures in one of them"
    )


def _rows(listing: Path) -> Iterator[Row]:
    kind = listing.suffix.lower()
    read = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json}[kind]
    try:
        with listing.open(encoding="utf-8-sig", newline="") as file:
            yield from read(listing, file)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{listing} is not UTF-8 text ({error.reason}); convert it, such as with iconv -f latin1 -t utf-8"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {listing}: {error.strerror}") from error


def _csv(listing: Path, file: TextIO) -> Iterator[Row]:
    """Cells by position: a hostile header of a million names then costs nothing per row."""
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(_lines(listing, file), delimiter="\t" if listing.suffix.lower() == ".tsv" else ",")
    try:
        header = next(reader, [])
        files, caption = _columns(listing, header)
        at = {key: header.index(column) for key, column in files.items()}
        text, empty = header.index(caption), True
        for row in filter(None, reader):
            cells = {key: row[i] if i < len(row) else None for key, i in at.items()}
            yield f"line {reader.line_num}", cells, row[text] if text < len(row) else None
            empty = False
    except csv.Error as error:
        raise UserError(f"cannot read {listing}, line {reader.line_num}: {error}") from error
    if empty:
        raise UserError(f"{listing} has no rows below its header")


def _jsonl(listing: Path, file: TextIO) -> Iterator[Row]:
    columns: tuple[dict[str, Any], Any] | None = None
    for number, line in enumerate(_lines(listing, file), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield place, {}, BadSample(f"{listing.name} {place}", f"is not JSON: {str(error)[:60]}")
            continue
        if isinstance(row, Mapping):
            columns = columns or _columns(listing, list(row))
            yield place, {key: row.get(column) for key, column in columns[0].items()}, row.get(columns[1])
        else:
            yield place, {}, BadSample(f"{listing.name} {place}", "is not a row of named columns")


def _json(listing: Path, file: TextIO) -> Iterator[Row]:
    if listing.stat().st_size > MAX_TABLE:
        raise UserError(f"{listing} is larger than {MAX_TABLE >> 20} MiB; convert it to JSONL, a row a line")
    try:
        tree = json.load(file)
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error
    if isinstance(tree, Mapping) and {"images", "annotations"} <= tree.keys():
        yield from _coco(listing, tree)
        return
    if isinstance(tree, Mapping) and isinstance(tree.get("annotations"), list):
        yield from _aligned(tree["annotations"])
        return
    if not isinstance(tree, list):
        raise UserError(f"{listing} is neither a list of rows nor COCO captions (images, annotations)")
    rows = [(number, row) for number, row in enumerate(tree, 1) if isinstance(row, Mapping)]
    if not rows:
        raise UserError(f"{listing} has no rows of named columns")
    files, caption = _columns(listing, list(rows[0][1]))
    for number, row in rows:
        yield f"row {number}", {key: row.get(column) for key, column in files.items()}, row.get(caption)


def _coco(listing: Path, tree: Mapping[str, Any]) -> Iterator[Row]:
    try:
        names = {image["id"]: image["file_name"] for image in tree["images"]}
        rows = [(names.get(each["image_id"]), each["caption"]) for each in tree["annotations"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{listing} looks like COCO but its annotations have no {error}; give the captions file"
        ) from error
    for number, (name, caption) in enumerate(rows, 1):
        yield f"annotation {number}", {"image": name}, caption


def _aligned(rows: Sequence[Any]) -> Iterator[Row]:
    """MiniGPT-4's filter_cap.json: a picture's name is its number, as JPEG."""
    for number, row in enumerate(rows, 1):
        known = row if isinstance(row, Mapping) else {}
        name = known.get("image_id")
        yield f"annotation {number}", {"image": None if name is None else f"{name}.jpg"}, known.get("caption")


def _lines(listing: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise UserError(
                f"{listing}, line {number}: longer than {_MAX_LINE >> 20} MiB; this is no table of captions"
            )
        yield line


def _columns(listing: Path, columns: Sequence[Any]) -> tuple[dict[str, Any], Any]:
    """Columns of files by key, and the column of captions; an image may be missing where there are other files."""
    media = {key: column for key in MEDIA_COLUMNS if (column := _named(columns, (key,))) is not None}
    image, caption = _named(columns, IMAGE_COLUMNS), _named(columns, CAPTION_COLUMNS)
    for found, known in ((image or media, IMAGE_COLUMNS), (caption, CAPTION_COLUMNS)):
        if not found:
            raise UserError(
                f"{listing} has columns {some(columns)}; one must be called {' or '.join(known[:4])}"
            )
    return ({} if image is None else {"image": image}) | media, caption


def _named(columns: Sequence[Any], known: tuple[str, ...]) -> Any:
    lowered = {str(column).strip().lower(): column for column in columns}
    return next((lowered[name] for name in known if name in lowered), None)
