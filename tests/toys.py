"""Toy data that a system learns in seconds: pictures with captions and classes, as one Parquet file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (250, 250, 250),
           "yellow": (240, 220, 20), "black": (10, 10, 10), "pink": (250, 120, 190), "gray": (128, 128, 128)}  # fmt: skip
CAPTIONS = ("a photo of a {}.", "a {} square", "something {} on the table", "this one is all {}")
SMALL = {"image_tower": "vit", "image_size": 16, "patch": 8, "width": 32, "layers": [1], "heads": 2, "context": 16,
         "vocabulary": 300, "tokenizer": "corpus:300", "batch": 32, "precision": "32-true", "optimizer.lr": 3e-3,
         "logging.every": 20, "data.workers": 0, "data.holdout": 0.25, "evaluation.tasks": ["zeroshot"],
         "evaluation.prompts": "single"}  # fmt: skip
"""Settings under which every captioning system is small."""
TEXT = {"text_width": 32, "text_layers": 1, "text_heads": 2}


def squares(folder: Path, count: int = 240) -> Path:
    """``count`` noisy squares of eight colours, each with one of four captions and its colour as its class."""
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {"image": [], "caption": [], "label": []}
    for index in range(count):
        name, rgb = list(COLOURS.items())[index % len(COLOURS)]
        pixels = np.clip(np.array(rgb) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        rows["image"].append(file.getvalue())
        rows["caption"].append(CAPTIONS[int(rng.integers(len(CAPTIONS)))].format(name))
        rows["label"].append(index % len(COLOURS))
    features = {"label": {"names": list(COLOURS), "_type": "ClassLabel"}}
    table = pa.table(rows).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "squares.parquet")
    return folder / "squares.parquet"
