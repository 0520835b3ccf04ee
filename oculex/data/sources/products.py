"""P9D's annotations (CTP, Zhu et al. 2023): a JSON file of products by item number, in nine industries.

``train.json`` holds {industry: {item: {"title", "cate_name"}}}; ``test.json``, ``query.json`` and ``gallery.json`` hold
{item: {"title", "cate_name", "industry_name"}}. An item's picture is ITEM.jpg, in a folder beside the file or beside its
folder. ``PATH#INDUSTRY`` is one industry, PATH all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, UserError
from oculex.data.sources.captions import TRIED, CaptionedImages, Files, image_root
from oculex.data.sources.files import openable, some, texts

MOST = 1 << 30
"""Bytes of a file; the published one, of a million products, has a few hundred million."""
_PEEK = 1 << 16
_BEGINS = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')
"""One name, and below it names too."""


def holds_products(listing: Path) -> bool:
    """Whether a JSON file begins as one of P9D's."""
    try:
        with listing.open(encoding="utf-8-sig") as file:
            start = file.read(_PEEK)
    except (OSError, UnicodeDecodeError):
        return False
    return bool(_BEGINS.match(start)) and '"title"' in start and '"cate_name"' in start


def products(listing: Path, industry: str = "") -> CaptionedImages:
    """The products of a file, or of one of its industries. Raises UserError where it has none of that name."""
    found: dict[Files, list[str]] = {}
    bad: list[BadSample] = []
    industries: dict[str, None] = {}
    for own, item, fields in _items(_tree(openable(listing)), listing):
        industries[own] = None
        if industry in ("", own):
            key = f"{listing.name} {item}"
            try:
                if not isinstance(fields, Mapping):
                    raise BadSample(key, "has no fields")
                kept = texts(fields.get("title"), key)
                if not kept:
                    raise BadSample(key, "has no title")
                found.setdefault((("image", f"{item}.jpg"),), []).extend(kept)
            except BadSample as error:
                bad.append(error)
    if not found:
        what = f"products of {industry!r}; it has {some(industries)}" if industry else "products with titles"
        raise UserError(f"{listing} has no {what}")
    names = [files[0][1] for files in islice(found, TRIED)]
    source = CaptionedImages(listing, _root(listing, names), found, bad)
    source.name = f"{listing}#{industry}" if industry else str(listing)
    return source


def _root(listing: Path, names: list[str]) -> Path:
    """P9D keeps its annotations in json/ and its pictures in folders beside that."""
    try:
        return image_root(listing, names)
    except UserError:
        for folder in sorted(each for each in listing.parent.parent.iterdir() if each.is_dir()):
            if any((folder / name).is_file() for name in names):
                return folder
        raise


def _tree(listing: Path) -> Mapping[str, Any]:
    try:
        if listing.stat().st_size > MOST:
            raise UserError(f"{listing} is larger than {MOST >> 20} MiB; this is no list of products")
        with listing.open(encoding="utf-8-sig") as file:
            tree = json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {listing}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error
    if not isinstance(tree, Mapping):
        raise UserError(f"{listing} holds no products by their numbers")
    return tree


def _items(tree: Mapping[str, Any], listing: Path) -> Iterator[tuple[str, str, Any]]:
    """(industry, item, its fields) of either layout."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and not {"title", "industry_name"} & value.keys():
            yield from ((name, item, fields) for item, fields in value.items())
        else:
            own = value.get("industry_name", "") if isinstance(value, Mapping) else ""
            yield str(own), name, value
