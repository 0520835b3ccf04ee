"""Questions, answers and conversations about images, as their authors publish them.

LLaVA (Liu et al. 2023): a list of ``id``, ``image`` and ``conversations``, turns from human and gpt, where <image>
stands for the picture; a conversation without a picture is a sample without one, and one about a list of them has
``images``. POPE (Li et al. 2023): a row a line with ``question_id``, ``image``, ``text`` and ``label``. VQA v2 (Goyal
et al. 2017): a file of questions, and one of annotations with ten people's answers each. Pictures lie beside the file
or in a folder there; all questions about a picture are one sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.sources.captions import TRIED, image_root
from oculex.data.sources.files import digest, is_file, openable, read_inside, stamp, texts

_LOOKED_AT = 1 << 16
_LARGEST = 2 << 30
"""Bytes; LLaVA 1.5's mixture has one gigabyte."""
PLACE = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}

Row = tuple[str, str, dict[str, Any]]
"""Key of the row, name of its picture ("": none), and what is told of it: a conversation, or one of ``questions``."""


class TalkedAbout:
    """One sample per conversation, or per picture with all its ``questions``. A row that lacks something is a sample that
    raises BadSample."""

    classes: tuple[str, ...] = ()

    def __init__(self, name: str, listings: Sequence[Path]) -> None:
        """Raises UserError where a file cannot be read, has no such rows, or its pictures are not found."""
        self.name, self.listings = name, list(listings)
        self.samples: dict[str, tuple[str, dict[str, Any]]] = {}
        self.bad: list[BadSample] = []
        for listing in self.listings:
            for row in kind_of(listing)(listing):  # type: ignore[misc]
                self.bad.append(row) if isinstance(row, BadSample) else self._take(row)
        self.keys = list(self.samples)
        if not self.keys:
            first = f"; first: {self.bad[0]}" if self.bad else ""
            raise UserError(f"{name} has neither conversations nor questions with answers{first}")
        shown = [picture for picture, _ in self.samples.values() if picture]
        self.root = image_root(self.listings[0], shown[:TRIED]) if shown else self.listings[0].parent

    def _take(self, row: Row) -> None:
        key, picture, told = row
        if "conversation" in told:
            if key in self.samples:
                self.bad.append(BadSample(key, "is there twice; give each conversation an id of its own"))
            else:
                self.samples[key] = picture, told
        else:
            _, known = self.samples.setdefault(printable(picture), (picture, {"questions": []}))
            known["questions"].append(told)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        shown = ([picture, *told.get("images", ())] for picture, told in self.samples.values())
        pictures = dict.fromkeys(picture for each in shown for picture in each if picture)
        return digest([*map(stamp, self.listings), *((p, *stamp(self.root / p)[1:]) for p in pictures)])

    def __len__(self) -> int:
        return len(self.keys) + len(self.bad)

    def __getitem__(self, index: int, /) -> Sample:
        if index >= len(self.keys):
            raise self.bad[index - len(self.keys)]
        picture, told = self.samples[self.keys[index]]
        if several := told.get("images"):
            told = told | {"images": [read_inside(self.root, name) for name in several]}
        image = {"image": read_inside(self.root, picture)} if picture and not several else {}
        return {"id": self.keys[index], **image, **told}


def kind_of(path: Path) -> Callable[[Path], Iterator[Row | BadSample]] | None:
    """The reader of a JSON file that begins like one of these; None for any other."""
    try:
        with openable(path).open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return None
    if b'"conversations"' in head:
        return _llava
    if b'"question_id"' not in head:
        return None
    if b'"label"' in head and b'"text"' in head:
        return _pope
    return _vqa if b'"question"' in head else None


def _llava(listing: Path) -> Iterator[Row | BadSample]:
    tree = _tree(listing)
    for number, row in enumerate(tree if isinstance(tree, list) else [], 1):
        key = f"{listing.stem}#{number}"
        try:
            if not isinstance(row, Mapping) or not isinstance(row.get("conversations"), list):
                raise BadSample(key, "has no list of conversations")
            if row.get("id") not in (None, ""):
                key = printable(str(row["id"]), 200)
            picture = row.get("image") or ""
            names = [picture] if isinstance(picture, str) else picture
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                kind = type(picture).__name__
                raise BadSample(
                    key, f"its image is of the type {kind}; pictures are read by name, one or a list of them"
                )
            told = [_turn(turn, key) for turn in row["conversations"]]
            several = {"images": names} if len(names) > 1 else {}
            yield key, names[0] if names else "", {"conversation": told, **several}
        except BadSample as bad:
            yield bad


def _turn(turn: Any, key: str) -> dict[str, str]:
    """{"role", "text"}: where <image> stands in the text is dropped, for systems put the picture first."""
    role = ROLES.get(turn.get("from", turn.get("role"))) if isinstance(turn, Mapping) else None
    if role is None:
        raise BadSample(key, f"has a turn that is from none of {', '.join(ROLES)}")
    said = texts(turn.get("value", turn.get("content")), key)
    if len(said) != 1:
        raise BadSample(key, "has a turn without a text")
    return {"role": role, "text": said[0].replace(PLACE, "").strip()}


def _pope(listing: Path) -> Iterator[Row | BadSample]:
    kind = next((each for each in ("random", "popular", "adversarial") if each in listing.stem), "exist")
    for number, line in enumerate(_text(listing).splitlines(), 1):
        if not line.strip():
            continue
        key = f"{listing.name} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadSample(key, f"is not JSON: {str(error)[:60]}")
            continue
        cells = [row.get(name) for name in ("image", "text", "label")] if isinstance(row, Mapping) else []
        told = [cell for cell in cells if isinstance(cell, str) and cell]
        if len(told) < 3:
            yield BadSample(key, "has no image, text and label")
            continue
        yield key, told[0], {"question": told[1], "answer": told[2], "kind": kind}


def _vqa(listing: Path) -> Iterator[Row | BadSample]:
    """The annotations lie beside the questions, under their authors' name for them."""
    beside = listing.with_name(listing.name.replace("OpenEnded_", "").replace("questions", "annotations"))
    if beside == listing or not is_file(beside):
        raise UserError(f"{listing} has questions; their answers must lie beside it in {beside.name}")
    asked, answered = _tree(listing), _tree(beside)
    try:
        answers: dict[Any, Any] = {each["question_id"]: each for each in answered["annotations"]}
        rows = [(each["question_id"], each["image_id"], each["question"]) for each in asked["questions"]]
        split = str(asked.get("data_subtype") or answered.get("data_subtype") or "")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{listing} and {beside.name} are no VQA files: {str(error)[:60]}") from error
    for number, image, question in rows:
        key = f"{listing.stem} question {printable(str(number), 40)}"
        try:
            found = answers[number]
            told = {
                "question": texts(question, key)[0],
                "answer": texts(found["multiple_choice_answer"], key)[0],
                "kind": str(found.get("answer_type", "")),
                "answers": [texts(each["answer"], key)[0] for each in found["answers"]],
            }
            yield key, f"COCO_{split}_{int(image):012d}.jpg", told
        except BadSample as bad:
            yield bad
        except (KeyError, TypeError, IndexError, ValueError, AttributeError):
            yield BadSample(key, f"has no answers in {beside.name}")


def _text(listing: Path) -> str:
    if openable(listing).stat().st_size > _LARGEST:
        raise UserError(f"{listing} is larger than {_LARGEST >> 30} GiB; cut it into parts")
    try:
        return listing.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error


def _tree(listing: Path) -> Any:
    try:
        return json.loads(_text(listing))
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {listing}: {str(error)[:100]}") from error
