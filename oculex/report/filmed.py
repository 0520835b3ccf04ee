"""What a robot did, from RUN/films.json as the evaluation kept it (``oculex.evaluation.filmed``).

The file is not trusted: a film is decoded, frame by frame, and written anew; one that is none is left out.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from oculex.contracts import BadSample, UserError
from oculex.training.folder import read_json

_HEAD = "data:video/mp4;base64,"
_MOST = 200
"""Frames of a film."""


def section(run: Path) -> list[dict[str, Any]]:
    """The films with what was told; empty where the run has none."""
    from oculex.evaluation.filmed import FILMS

    path = run / "films.json"
    shown = []
    for entry in read_json(path)[:FILMS] if path.is_file() else ():
        written = _anew(str(entry["film"]))
        if written:
            shown.append(
                {
                    "film": written,
                    "set": str(entry["set"]),
                    "told": str(entry["told"]),
                    "success": bool(entry["success"]),
                    "steps": int(entry["steps"]),
                }
            )
    return shown


def _anew(uri: str) -> str:
    from oculex.data.decode_media import every_frame
    from oculex.evaluation.filmed import film

    if not uri.startswith(_HEAD):
        return ""
    try:
        return (
            _HEAD
            + b64encode(
                film(every_frame(b64decode(uri[len(_HEAD) :], validate=True), _MOST, "a film"))
            ).decode()
        )
    except (BadSample, UserError, binascii.Error):
        return ""
