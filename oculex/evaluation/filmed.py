"""Episodes as short films, for people to look at: what a robot did, played again by physics from its recorded actions.

A pure function of records and sources: a list of {"set", "film", "told", "success", "steps"}, where "film" is the data
URI of an MP4.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from oculex.contracts import Source, UserError
from oculex.evaluation.control import CONTROL, Simulates, episode
from oculex.evaluation.records import Table
from oculex.simulation.remote import Simulator

FILMS = 8
"""Over all sets; half of them of episodes that succeeded, where there are as many."""
SIDE = 256
"""Pixels a side, an even number."""
RATE = 6
"""Steps a second, about as fast as they were."""
_STAY = 4
"""Times that the last picture is shown."""


def filmed(table: Table, sources: Mapping[str, Source]) -> list[dict[str, Any]]:
    """The same episodes for the same records; empty where no robot acted, or PyAV is not installed."""
    sets = {name: s for name, s in sources.items() if isinstance(s, Simulates)}
    sets = {name: s for name, s in sets.items() if len(table.where(set=name, task=CONTROL.name, control=""))}
    if not sets or not _writes():
        return []
    out = []
    with Simulator() as simulator:
        for name, source in sets.items():
            layouts = {episode(layout): layout for layout in map(source.layout, range(source.episodes))}
            for row in _chosen(table, name, max(1, FILMS // len(sets))):
                layout, did = layouts[table["item"][row]], json.loads(table["output"][row])
                actions = [np.array(action) for action in did["actions"]]
                seen = simulator.call("film", source.config(), layout, actions, SIDE)
                out.append(
                    {
                        "set": name,
                        "film": "data:video/mp4;base64," + base64.b64encode(film(seen)).decode(),
                        "told": did["told"],
                        "success": table["status"][row] == "right",
                        "steps": len(actions),
                    }
                )
    return out


def film(frames: np.ndarray, rate: int = RATE) -> bytes:
    """An MP4 (H.264) of uint8 [T, H, W, 3] with even sides, whose last picture stays a while.

    Raises UserError where PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError("films are written by PyAV; pip install 'oculex[media]'") from error
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options={"crf": "24", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in (*frames, *[frames[-1]] * _STAY):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
    return file.getvalue()


def _writes() -> bool:
    from importlib.util import find_spec

    return find_spec("av") is not None


def _chosen(table: Table, name: str, most: int) -> list[int]:
    """Episodes in an order drawn from their names alone."""
    rows = table.where(set=name, task=CONTROL.name, control="").tolist()
    rows.sort(key=lambda row: hashlib.blake2b(str(table["item"][row]).encode()).digest())
    won = [row for row in rows if table["status"][row] == "right"]
    lost = [row for row in rows if table["status"][row] != "right"]
    taken = {*won[: max(most // 2, most - len(lost))], *lost[: max(most - most // 2, most - len(won))]}
    return [row for row in rows if row in taken]
