"""Drawing: the model paints a picture of each text, and judges that know such pictures say what is in it.

Two judges, trained systems that the recipe names (``evaluation.judges``), never the model itself. A detector says which
objects there are and where: are all that the text names there, in their colours and shapes, and do they stand as the
text says? A dual encoder says how well picture and text fit (CLIPScore, Hessel et al. 2021, without its factor), and its
embeddings are the features of a Frechet distance between the drawings and real pictures of other scenes.

The text of a sample is its true statement of a relation where it has ``alternatives``, which names two objects; otherwise
its first caption, of which the object is known that its label names.

Records: ``item`` and ``cluster`` are the sample; ``prompt`` the text; ``output`` what the judges say {"found": [name,
score, x0, y0, x1, y1 in shares] each, as many as are asked for, "features", "seed", "judges": digests of their weights,
of the first items "picture", a data URI}; ``parsed`` the names found; ``truth`` {"objects", "relation"}; ``score``
100 max(cos, 0) of picture and text; ``status`` right where the objects asked for are found, unparsed where nothing is,
rated where it is not known what the text names, or nobody looks for objects.

``control`` wrong_image: another text's drawing; real: the sample's own picture at the drawings' size, which is what the
judges can tell at best; repainted: the same through the model's own tokenizer, which is what it can draw at best;
reference: real pictures of as many other samples, to which all distances are measured. The distance of "real" to these is
the floor: what two halves of real pictures differ by.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import (
    Draws,
    EncodesImages,
    EncodesText,
    NamesObjects,
    Repaints,
    Sample,
    Source,
    UserError,
)
from oculex.data.augment import resize_center_crop
from oculex.data.views import captions
from oculex.evaluation.embed import Embedder
from oculex.evaluation.frechet import Frechet
from oculex.evaluation.gallery import thumbnail
from oculex.evaluation.grounding import overlaps
from oculex.evaluation.measures import Statistic, contrast, mean
from oculex.evaluation.reader import Whole, digest_of
from oculex.evaluation.records import Table, concat
from oculex.evaluation.task import Context, Task, wrong_image
from oculex.world import colour_names, shape_names

NAME = "drawing"
MOST = 192
"""Pictures that are drawn."""
SEED = 0
FOUND = 0.1
"""Least score of an object that counts."""
CANDIDATES = 20
APART = 0.5
"""Of boxes that overlap more the likelier one counts, whatever their classes."""
SHOWN = 24
"""Items whose pictures are kept in the records."""
CONTROLS = ("", "wrong_image", "real", "repainted")
WORDS: Mapping[str, frozenset[str]] = {
    "colour": frozenset(colour_names()),
    "shape": frozenset(shape_names()),
}
"""Attributes that a class may name."""


@dataclass(frozen=True)
class Asked:
    """A text and what it names; the sample that it is of."""

    id: str
    text: str
    sample: Sample
    objects: tuple[str, ...]
    relation: str


class Pictures(Whole):
    """Pictures in memory."""

    classes: tuple[str, ...] = ()

    def __init__(self, pictures: Sequence[Any]) -> None:
        self.name, self.pictures = "pictures", pictures

    def fingerprint(self) -> str:
        return digest_of(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int, /) -> Sample:
        return {"id": str(index), "image": self.pictures[index]}


def run(system: Any, source: Source, context: Context) -> Table:
    asked, reference = _chosen(source, context)
    if not asked:
        return Table.empty()
    embedder = context.embedder
    painted = embedder.drawn([each.text for each in asked], SEED)
    judges = _Judges(context)
    sides = painted.shape[1:3]
    shown = {
        "": painted,
        "wrong_image": painted[wrong_image([each.id for each in asked])],
        "real": _sized([each.sample for each in asked], sides),
    }
    if isinstance(system, Repaints):
        shown["repainted"] = embedder.repainted(Pictures([each.sample["image"] for each in asked]), SEED)
    tables = [_records(asked, pictures, judges, context, name) for name, pictures in shown.items()]
    tables.append(
        _records(reference, _sized([r.sample for r in reference], sides), judges, context, "reference")
    )
    return concat(tables)


def _chosen(source: Source, context: Context) -> tuple[list[Asked], list[Asked]]:
    """What is drawn, and as many samples to compare it with: the same random ones for every model."""
    every = [
        _asked(sample, source.classes)
        for sample in context.embedder.samples(source)
        if "image" in sample and (captions(sample) or sample.get("alternatives"))
    ]
    count = min(MOST, len(every) // 2)
    order = np.random.default_rng(0).permutation(len(every))[: 2 * count]
    return [every[n] for n in order[:count]], [every[n] for n in order[count:]]


def _asked(sample: Sample, classes: Sequence[str]) -> Asked:
    name = str(sample["id"])
    for each in sample.get("alternatives") or ():
        if each["kind"] == "relation":
            named = _named(each["true"], classes)
            return Asked(name, each["true"], sample, named, each["group"] if len(named) == 2 else "")
    label = sample.get("label")
    objects = () if label is None or not classes else (classes[int(label)],)
    return Asked(name, (captions(sample) or [""])[0], sample, objects, "")


def _named(text: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Classes whose names the text holds, in its order."""
    known = "|".join(re.escape(name) for name in sorted(classes, key=len, reverse=True))
    return tuple(re.findall(rf"\b(?:{known})\b", text)) if known else ()


def _sized(samples: Sequence[Sample], sides: Sequence[int]) -> np.ndarray:
    """uint8 [n, H, W, 3]: the middle square of each picture, at the drawings' size."""
    if sides[0] != sides[1]:
        raise UserError(
            f"drawings of {sides[1]} x {sides[0]} pixels cannot be compared with pictures; draw squares"
        )
    each = [resize_center_crop(sample["image"], sides[0], key=sample["id"]) for sample in samples]
    return np.stack(each).transpose(0, 2, 3, 1)


# ------------------------------------------------------------------------------------------------- judges


class _Judges:
    """Those that the set names, opened."""

    def __init__(self, context: Context) -> None:
        own = context.embedder
        self.detector, self.clip = (
            Embedder(context.judges[name](), device=own.device, cache=own.computing.cache)
            if name in context.judges
            else None
            for name in ("detector", "clip")
        )
        if self.detector is not None and not isinstance(self.detector.system, NamesObjects):
            raise UserError(
                "evaluation.judges.detector finds no objects by name; name one such as centernet:tiny"
            )
        if self.clip is not None and not all(
            isinstance(self.clip.system, each) for each in (EncodesImages, EncodesText)
        ):
            raise UserError(
                "evaluation.judges.clip encodes no images and texts; name one such as clip:tiny_judge"
            )

    @property
    def digests(self) -> dict[str, str]:
        both = (("detector", self.detector), ("clip", self.clip))
        return {name: judge.model for name, judge in both if judge is not None}

    def found(self, pictures: Pictures) -> list[list[list[Any]]]:
        """[name, score, box in shares] of each picture's objects that count, the likeliest first."""
        if self.detector is None:
            return [[] for _ in pictures.pictures]
        names = self.detector.system.names
        return [_distinct(each, names) for each in self.detector.detected(pictures, CANDIDATES).values]

    def fits(self, pictures: Pictures, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(100 max(cos, 0) [n], unit-norm features [n, D])."""
        if self.clip is None:
            return np.zeros(len(texts)), np.zeros((len(texts), 0))
        image, text = (
            each / np.linalg.norm(each, axis=1, keepdims=True)
            for each in (self.clip.images(pictures).values, self.clip.texts(texts))
        )
        return 100 * (image * text).sum(1).clip(min=0), image


def _distinct(objects: np.ndarray, names: Sequence[str]) -> list[list[Any]]:
    likely = objects[np.isfinite(objects).all(1)]
    likely = likely[likely[:, 1] >= FOUND]
    kept: list[np.ndarray] = []
    for each in likely:
        if not kept or overlaps(each[None, 2:], np.stack(kept)[:, 2:]).max() <= APART:
            kept.append(each)
    return [
        [names[int(each[0])], round(float(each[1]), 4), *(round(float(x), 4) for x in each[2:])]
        for each in kept
    ]


def _records(
    asked: Sequence[Asked], pictures: np.ndarray, judges: _Judges, context: Context, control: str
) -> Table:
    seen = Pictures(list(pictures))
    found = [
        objects[: max(1, len(each.objects))] for objects, each in zip(judges.found(seen), asked, strict=True)
    ]
    scores, features = judges.fits(seen, [each.text for each in asked])
    outputs = []
    for n, (objects, own) in enumerate(zip(found, features, strict=True)):
        said: dict[str, Any] = {"found": objects, "features": np.round(own.astype(float), 5).tolist()}
        said |= {"seed": SEED, "judges": judges.digests}
        if n < SHOWN and control in ("", "real", "repainted"):
            said["picture"] = thumbnail(Image.fromarray(pictures[n]))
        outputs.append(json.dumps(said))
    judged = judges.detector is not None and control != "reference"
    return Table.of(
        set=context.set,
        task=NAME,
        item=[each.id for each in asked],
        cluster=[each.id for each in asked],
        model=context.embedder.model,
        prompt=[each.text for each in asked],
        control=control,
        output=outputs,
        parsed=[", ".join(name for name, *_ in objects) for objects in found],
        truth=[json.dumps({"objects": each.objects, "relation": each.relation}) for each in asked],
        score=scores,
        status=[
            _status(each.objects, [name for name, *_ in objects]) if judged else "rated"
            for each, objects in zip(asked, found, strict=True)
        ],
    )


def _status(wanted: Sequence[str], found: Sequence[str]) -> str:
    if not wanted:
        return "rated"
    if not found:
        return "unparsed"
    return "right" if all_there(wanted, found) else "wrong"


# ---------------------------------------------------------------------------------------------- measures


def all_there(wanted: Iterable[str], found: Iterable[str]) -> bool:
    """Whether each thing is found as often as it is wanted."""
    return not Counter(wanted) - Counter(found)


def attributes(names: Iterable[str], kind: str) -> list[str]:
    """The colours or the shapes among the words of classes' names."""
    return [word for name in names for word in name.split() if word in WORDS[kind]]


def stands(relation: str, objects: Sequence[str], found: Sequence[Sequence[Any]]) -> bool:
    """Whether the first object has the relation to the second, as a camera above a floor sees it: by the middles of
    their boxes where it is left or right, by their lower edges where it is nearer or farther."""
    boxes = {name: box for name, _, *box in reversed(found)}  # of several the likeliest
    if any(name not in boxes for name in objects):
        return False
    (ax0, _, ax1, ay1), (bx0, _, bx1, by1) = (boxes[name] for name in objects)
    left, nearer = ax0 + ax1 < bx0 + bx1, ay1 > by1
    return {"left of": left, "right of": not left, "in front of": nearer, "behind": not nearer}[relation]


def statistics(table: Table) -> dict[str, Statistic]:
    """``objects``, ``colour``, ``shape``: shares of the texts all of whose objects (their colours, their shapes) are
    found; ``relation`` of those that tell one, where both objects are found and stand so. ``clip_score``, and
    ``gain_over_wrong_image`` in it. ``distance``: Frechet, to the reference."""
    out: dict[str, Statistic] = {}
    reference = table.where(control="reference")
    for control in CONTROLS:
        rows = table.where(control=control)
        if not len(rows):
            continue
        prefix = f"{control}_" if control else ""
        truths = [json.loads(text) for text in table["truth"][rows]]
        said = [json.loads(text) for text in table["output"][rows]]
        judged = table["status"][rows] != "rated"
        if judged.any():
            wanted = [truth["objects"] for truth in truths]
            found = [[name for name, *_ in each["found"]] for each in said]
            out[f"{prefix}objects"] = mean((table["status"][rows] == "right")[judged], rows[judged])
            for kind in WORDS:
                told = np.array([bool(attributes(names, kind)) for names in wanted]) & judged
                right = [
                    all_there(attributes(own, kind), attributes(names, kind))
                    for own, names in zip(wanted, found, strict=True)
                ]
                if told.any():
                    out[f"{prefix}{kind}"] = mean(np.array(right)[told], rows[told])
            told = np.array([bool(truth["relation"]) for truth in truths]) & judged
            if told.any():
                right = [
                    bool(truth["relation"]) and stands(truth["relation"], truth["objects"], each["found"])
                    for truth, each in zip(truths, said, strict=True)
                ]
                out[f"{prefix}relation"] = mean(np.array(right)[told], rows[told])
        features = np.array([each["features"] for each in said], float)
        if features.shape[1]:
            out[f"{prefix}clip_score"] = mean(table["score"][rows], rows)
            others = np.array([json.loads(text)["features"] for text in table["output"][reference]], float)
            if control != "wrong_image":  # the same drawings in another order
                out[f"{prefix}distance"] = Frechet(rows, features, reference, others)
    if "wrong_image_clip_score" in out:
        out["gain_over_wrong_image"] = contrast(out["clip_score"], out["wrong_image_clip_score"])
    asked = table.where(control="")
    if (table["status"][asked] != "rated").any():
        out["unparsed"] = mean(table["status"][asked] == "unparsed", asked)
    return out


TASK = Task(
    name=NAME,
    needs=(("image",), ("captions", "caption", "alternatives")),
    capabilities=((Draws,),),
    run=run,
    statistics=statistics,
    judges=("detector", "clip"),
)
