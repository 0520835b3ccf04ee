"""Pictures with the boxes that were found, from RUN/boxes.json as the evaluation kept it (``oculex.evaluation.drawn``).

The file is not trusted: pictures are decoded and encoded anew, and one that is no data URI of a picture is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oculex.evaluation.drawn import COLOURS, PICTURES, SIDE
from oculex.report.gallery import inlined
from oculex.training.folder import read_json


def section(run: Path) -> list[dict[str, Any]]:
    """The pictures with their phrases; empty where the run has none."""
    path = run / "boxes.json"
    shown = []
    for entry in read_json(path)[:PICTURES] if path.is_file() else ():
        image = inlined(str(entry["image"]), SIDE)
        if image:
            phrases = [
                {
                    "phrase": str(each["phrase"]),
                    "colour": int(each["colour"]) % len(COLOURS),
                    "score": None if each["score"] is None else float(each["score"]),
                    "right": bool(each["right"]),
                }
                for each in entry["phrases"]
            ]
            shown.append({"image": image, "text": str(entry["text"]), "phrases": phrases})
    return shown
