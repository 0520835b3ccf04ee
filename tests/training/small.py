"""Runs on little data that take a second, and what is compared of them."""

import itertools
import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from oculex import runs
from oculex.evaluation import protocol  # noqa: F401  so that a forked process has it
from oculex.training import checkpoint, folder, logs, loop
from oculex.training.folder import RunFolder, read_lines

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "white": (250, 250, 250)}
SMALL = ["image_tower=vit", "image_size=16", "patch=8", "width=32", "layers=[1]", "heads=2", "embedding=16",
         "text_width=32", "text_layers=1", "text_heads=2", "tokenizer=corpus:300", "vocabulary=300", "batch=16",
         "precision=32-true", "data.workers=0",
         "checkpoint.every=5", "logging.every=1", "optimizer.lr=3e-3"]  # fmt: skip
TIMES = ("seconds", "samples_per_s", "data_wait")


def squares(folder: Path, count: int = 60, seed: int = 0) -> Path:
    """Plain squares whose caption tells the colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = ["image,caption"]
    for index in range(count):
        name, rgb = list(COLOURS.items())[index % 4]
        pixels = np.clip(np.array(rgb) + rng.normal(0, 20, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows += [f"{index}.png,a {name} square", f"{index}.png,something {name}"]
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def train(data, out, *changes, budget="20steps"):
    sources = [str(data)] if isinstance(data, Path) else list(data)
    return runs.train("clip", data=sources, out=out, budget=budget, changes=[*SMALL, *changes], quiet=True)


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_lines(folder.metrics)]


def weights(folder, name="weights"):
    return checkpoint.tensors(checkpoint.latest(folder), name)


def lines(path):
    """The lines of a metrics or evaluations file without what depends on the clock."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_lines(path)]


def assert_same_to_the_bit(got: RunFolder, wanted: RunFolder) -> None:
    assert lines(got.metrics) == lines(wanted.metrics)
    assert lines(got.evaluations) == lines(wanted.evaluations)
    last, other = checkpoint.latest(got), checkpoint.latest(wanted)
    assert sorted(p.name for p in last.iterdir()) == sorted(p.name for p in other.iterdir())
    for file in other.glob("*.safetensors"):
        ours = checkpoint.tensors(last, file.stem)
        for name, value in checkpoint.tensors(other, file.stem).items():
            assert value.equal(ours[name]), f"{file.stem}: {name}"


# ------------------------------------------------------------------------------- processes that are killed


def _half_a_file(original, entries, path, *rest):
    original(entries, path, *rest)
    os.truncate(path, os.path.getsize(path) // 2)


def _half_a_line(original, path, value):
    with path.open("a") as file:
        file.write('{"step": 7, "lo')


POINTS = {
    "in a step": (loop, "backward", None),
    "while weights are written": (checkpoint, "save_file", _half_a_file),
    "while a checkpoint is flushed": (checkpoint, "_flush", None),
    "before old checkpoints go": (checkpoint, "tidy", None),
    "in an evaluation": (runs, "evaluate_system", None),
    "while a line is written": (logs, "append_line", _half_a_line),
    "while lines are cut": (folder, "write_text", None),
}
"""Where a run may die: the function that is about to be called, and what it leaves half done."""


def die(point: str, at: int) -> None:
    """kill -9 at the ``at``-th call of a point."""
    module, name, half = POINTS[point]
    original, calls = getattr(module, name), itertools.count(1)

    def called(*arguments, **named):
        if next(calls) == at:
            if half is not None:
                half(original, *arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(module, name, called)


def victim(data, out, changes, budget, point=None, at=0) -> None:
    """Begins or goes on with a run, and dies where it is told to."""
    if point is not None:
        die(point, at)
    if (out / "recipe.json").exists():
        runs.resume(out, quiet=True)
    else:
        train(data, out, *changes, budget=budget)
