"""What was drawn for texts, as the evaluation's records keep it (``oculex.evaluation.drawing``).

Records are not trusted: pictures are decoded and encoded anew, and one that is no data URI of a picture is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oculex.contracts import UserError
from oculex.evaluation import records
from oculex.evaluation.drawing import NAME, SHOWN
from oculex.report.gallery import inlined

KINDS = {"": "drawn", "repainted": "through its tokenizer", "real": "the scene itself"}
"""Of the pictures beside each text, by their control."""


def section(folder: Path) -> list[dict[str, Any]]:
    """[{"text", "pictures": [{"of", "image", "found", "right"}]}] of the newest records with drawings; empty without."""
    for path in sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            table = records.read(path).select(task=NAME)
        except UserError:
            continue  # the page says elsewhere that records cannot be read
        if len(table):
            return _entries(table)
    return []


def _entries(table: records.Table) -> list[dict[str, Any]]:
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for control, of in KINDS.items():
        for row in table.where(control=control).tolist():
            image = _image(table["output"][row])
            if image:
                key = (table["set"][row], table["item"][row])
                entry = shown.setdefault(key, {"text": table["prompt"][row], "pictures": []})
                status = table["status"][row]
                told = {
                    "found": table["parsed"][row],
                    "right": status == "right",
                    "judged": status != "rated",
                }
                entry["pictures"].append({"of": of, "image": image} | told)
    return list(shown.values())[:SHOWN]


def _image(output: str) -> str:
    try:
        said = json.loads(output)
    except json.JSONDecodeError:
        return ""
    return inlined(str(said.get("picture", ""))) if isinstance(said, Mapping) else ""
