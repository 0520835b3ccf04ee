"""Pictures with graphs in GQA's format, and a pipeline that is slow or breaks where it is told to."""

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from oculex.contracts import BadSample, Pipeline

COLOURS = ("red", "green", "blue", "black")


def png(colour=(200, 10, 10), size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def graph(n, **changes):
    """A chair, one or two lamps and a dog, which stand apart."""
    things = {
        "1": {"name": "chair", "x": 0, "y": 0, "w": 8, "h": 8, "attributes": [COLOURS[n % 4], "wooden"]},
        "2": {"name": "lamp", "x": 12, "y": 10, "w": 8, "h": 8, "attributes": [COLOURS[n // 4 % 4]]},
        "3": {"name": "dog", "x": 28, "y": 20, "w": 10, "h": 8, "attributes": ["small"]},
    }
    if n % 2:
        things["4"] = {"name": "lamp", "x": 30, "y": 0, "w": 4, "h": 4, "attributes": []}
    things["1"]["relations"] = [{"name": "left of" if n % 3 else "near", "object": "2"}]
    things["3"]["relations"] = [{"name": "behind", "object": "1"}]
    return {"width": 40, "height": 30, "objects": things} | changes


def gqa(folder: Path, graphs, pictures=None) -> Path:
    """Writes sceneGraphs.json and a picture of its own colour for each; ``pictures`` are others."""
    folder.mkdir(parents=True, exist_ok=True)
    for key in graphs:
        shown = (pictures or {}).get(key) or png((int(key) % 256, int(key) // 256, 7))
        (folder / f"{key}.jpg").write_bytes(shown)
    file = folder / "sceneGraphs.json"
    file.write_text(json.dumps(graphs))
    return file


@dataclass(frozen=True)
class Echo(Pipeline):
    """Says what is called what in each picture."""

    seconds: float = 0.0
    breaks_at: int = -1
    suffix: str = ""

    surveys: ClassVar[bool] = True

    def note(self, sample, source):
        return len(sample["graph"]["objects"])

    def gather(self, notes):
        return sum(note or 0 for note in notes)

    def make(self, source, index, known, rng):
        time.sleep(self.seconds)
        sample = source[index]
        if index == self.breaks_at:
            raise BadSample(sample["id"], "cannot be echoed")
        names = [each["names"][0] for each in sample["graph"]["objects"]]
        draw = int(rng.integers(1000))
        return [
            {
                "id": sample["id"],
                "image": sample["image"],
                "captions": [f"one of {known}: {' '.join(names)} {draw}{self.suffix}"],
            }
        ]
