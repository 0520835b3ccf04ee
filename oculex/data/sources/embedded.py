"""The embedded world as a source: scenes are rendered once and kept, and so is what further sensors see of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import Sample, UserError
from oculex.data.order import generator
from oculex.data.sources.files import cache_folder, digest
from oculex.data.sources.kept import Kept
from oculex.world import (
    ARRAYS,
    DOMAINS,
    SENSORS,
    Scene,
    SceneConfig,
    caption,
    class_names,
    class_of,
    make_scene,
    render_batch,
    writes,
)

SIZES = {"train": 16_000, "test": 2_000}
_CHUNK = 500
_DRAWN_BY = ("generate", "camera", "language")
"""The world's files that rendered scenes come from, with all that these import."""
_SENSED_BY = ("sensors",)
"""Those that all else comes from."""


_REMEMBERED = ("instances", "semantic", "boxes", "box_labels")
"""Keys that are small arrays, of which nothing is drawn, and that a camera has to look for: a process remembers them, so
that an epoch, or another run, spares the look."""


@lru_cache(maxsize=1 << 15)
def _looked_at(scene: Scene, size: int, key: str, config: SceneConfig) -> np.ndarray:
    return SENSORS[key](scene, size, generator(0), config)


@dataclass(frozen=True)
class WorldSpec:
    """world:key=value,... Equal specs give equal samples on every machine."""

    scenes: int = 0
    """0: 16,000 for training, 2,000 for testing."""
    size: int = 64
    """Pixels a side."""
    split: str = "train"
    seed: int = 0
    domain: str = "studio"
    tail: float = 0.0
    """Zipf exponent of the concepts' frequencies; 0: all equally often."""
    style: str = "alt"
    """Of the captions; several joined by + take turns, and so do languages: language=en+de+zh."""
    language: str = "en"
    captions: int = 3
    """Of each scene."""
    most: int = 4
    """Objects in a scene; the fewest is one."""
    keys: str = ""
    """What samples have beside image, captions and label: entries of ``SENSORS`` joined by +, made when asked for."""
    held_keys: str = field(default="", repr=False)
    """What the held-out scenes have beside these; says nothing of the scenes themselves."""

    part: str = field(default="", repr=False)
    """i/n: scenes of the i-th of n parts of the concepts alone (1/9 .. 9/9), which have no concept in common."""

    def config(self) -> SceneConfig:
        config = SceneConfig(domain=self.domain, concept_tail=self.tail, objects=(1, self.most))
        if not self.part:
            return config
        rows, columns, number = self._place()
        colours, shapes = (
            config.colours[number // columns :: rows],
            config.shapes[number % columns :: columns],
        )
        return replace(config, colours=colours, shapes=shapes)

    def _place(self) -> tuple[int, int, int]:
        """Rows (of colours) and columns (of shapes) that the concepts are cut into, as square as n allows, and which of
        these cells the part is. ValueError where there is none."""
        number, parts = (int(word) for word in self.part.split("/"))
        rows = max(n for n in range(1, parts + 1) if parts % n == 0 and n * n <= parts)
        whole = SceneConfig()
        if not 1 <= number <= parts or rows > len(whole.colours) or parts // rows > len(whole.shapes):
            raise ValueError(self.part)
        return rows, parts // rows, number - 1

    def count(self) -> int:
        return self.scenes or SIZES[self.split]

    def voices(self) -> list[tuple[str, str]]:
        """(style, language) of the captions, in turn."""
        return list(product(self.style.split("+"), self.language.split("+")))

    def sensors(self) -> list[str]:
        return [key for key in self.keys.split("+") if key]

    def held_out(self) -> WorldSpec:
        """Scenes of the test split, of the same kind."""
        keys = "+".join(filter(None, dict.fromkeys((self.keys, self.held_keys))))
        scenes = min(self.scenes, SIZES["test"]) if self.scenes else 0
        return replace(self, split="test", scenes=scenes, keys=keys, held_keys="")


def parse(spec: str) -> WorldSpec:
    """Raises UserError that names the unknown key or the value that does not fit."""
    known: dict[str, Any] = {field.name: type(field.default) for field in fields(WorldSpec)}
    values: dict[str, Any] = {}
    for pair in filter(None, spec.partition(":")[2].split(",")):
        key, _, value = pair.partition("=")
        if key not in known:
            raise UserError(f"{spec}: the world has no {key!r}; it has {', '.join(known)}")
        try:
            values[key] = known[key](value)
        except ValueError:
            raise UserError(f"{spec}: {key} must be {known[key].__name__}, got {value!r}") from None
    world = WorldSpec(**values)
    chosen: list[tuple[str, str, Collection[str]]] = [
        ("split", world.split, SIZES),
        ("domain", world.domain, DOMAINS),
    ]
    chosen += [("keys", key, SENSORS) for key in world.held_out().sensors()]
    for key, value, allowed in chosen:
        if value not in allowed:
            raise UserError(f"{spec}: {key}={value!r} is not one of {', '.join(allowed)}")
    for voice in world.voices():
        writes(*voice)
    try:
        world.config()
    except ValueError:
        raise UserError(f"{spec}: part={world.part!r} is not one of 1/n .. n/n, such as 3/9") from None
    if world.scenes < 0 or world.size < 8 or world.captions < 1 or not 1 <= world.most <= 8:
        raise UserError(f"{spec}: scenes and captions are counts, size is at least 8 pixels, most is 1 to 8")
    return world


class EmbeddedWorld:
    """Rendered scenes with captions and the subject's class."""

    def __init__(self, world: WorldSpec, name: str = "world") -> None:
        self.world, self.name = world, name
        self.classes = tuple(class_names(world.config()))

    @classmethod
    def of(cls, spec: str) -> EmbeddedWorld:
        return cls(parse(spec), spec)

    def held_out(self) -> EmbeddedWorld:
        """Scenes of the test split, of the same kind."""
        return EmbeddedWorld(self.world.held_out(), self.name)

    def shifted(self) -> dict[str, EmbeddedWorld]:
        """The same scenes in every other domain, by its name."""
        return {
            domain: EmbeddedWorld(replace(self.world, domain=domain), self.name)
            for domain in DOMAINS
            if domain != self.world.domain
        }

    def fingerprint(self) -> str:
        sensed = _version(_SENSED_BY) if self.world.keys else ""
        return digest([self.world, _version(), *filter(None, [self.world.part, sensed])])

    def __len__(self) -> int:
        return self.world.count()

    def __getitem__(self, index: int, /) -> Sample:
        images, texts, labels = self._rendered
        world = self.world
        sample = {
            "id": f"{world.split}-{index}",
            "image": images[index],
            "captions": texts[index],
            "label": labels[index],
        }
        if world.keys:
            scene, config = self.scene(index), self.config
            for key in world.sensors():
                if key in _REMEMBERED:
                    sample[key] = _looked_at(scene, world.size, key, config).copy()
                    continue
                rng = generator(world.seed, index, 0x5E)
                make = partial(SENSORS[key], scene, world.size, rng, config)
                sample[key] = self._kept[key].row(index, make) if key in ARRAYS else make()
        return sample

    @cached_property
    def config(self) -> SceneConfig:
        """What the scenes are drawn from."""
        return replace(self.world.config(), split=self.world.split)

    def scene(self, index: int) -> Scene:
        """What is behind a sample: to be seen from elsewhere, later, or by another sensor."""
        return make_scene(self.world.seed, index, self.config)

    @cached_property
    def _kept(self) -> dict[str, Kept]:
        """Where the keys that are arrays of one shape are kept: by what scenes are made of, however many they are and
        whatever else is asked of them."""
        world = self.world
        seen = replace(world, scenes=0, style="", language="", captions=0, keys="", held_keys="")
        folder = cache_folder() / "world" / f"seen-{digest([seen, world.part, _version(_SENSED_BY)])}"
        arrays = {key: ARRAYS[key] for key in world.sensors() if key in ARRAYS}
        return {
            key: Kept(folder / f"{key}.rows", dtype, shape(world.size))
            for key, (dtype, shape) in arrays.items()
        }

    @cached_property
    def _rendered(self) -> tuple[np.ndarray, list[list[str]], list[int]]:
        drawn = replace(self.world, keys="", held_keys="")  # which are kept apart, or made when asked for
        folder = cache_folder() / "world" / EmbeddedWorld(drawn).fingerprint()
        if not folder.exists():
            _build(drawn, folder)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        rows = [
            json.loads(line) for line in (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        return images, [row["captions"] for row in rows], [row["label"] for row in rows]


@lru_cache(maxsize=2)
def _version(drawn_by: tuple[str, ...] = _DRAWN_BY) -> str:
    """The cache belongs to the code that drew it; other sensors may change without a scene being drawn anew."""
    import oculex.world

    folder, todo, texts = Path(oculex.world.__file__).parent, list(drawn_by), dict[str, str]()
    while todo:
        name = todo.pop()
        path = folder / f"{name}.py"
        if name not in texts and path.is_file():
            texts[name] = path.read_text(encoding="utf-8")
            imports = re.findall(r"^\s*from oculex\.world(?:\.(\w+))? import (.*)", texts[name], re.MULTILINE)
            todo += [part for module, names in imports for part in (module, *re.findall(r"\w+", names))]
    return digest(sorted(texts.items()))


def _build(world: WorldSpec, folder: Path) -> None:
    """Renders chunk by chunk beside the final folder; a build that was stopped goes on where it was."""
    from filelock import FileLock

    part = folder.with_name(f".{folder.name}")
    try:
        part.mkdir(parents=True, exist_ok=True)
        with FileLock(str(part) + ".lock"):
            if folder.exists():
                return
            shape = (world.count(), world.size, world.size, 3)
            path = part / "images.npy"
            mode: Any = "r+" if path.exists() else "w+"
            images = np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=shape)
            starts = [s for s in range(0, world.count(), _CHUNK) if not (part / f"{s}.jsonl").exists()]
            for start, (pixels, rows) in zip(starts, _chunks(world, starts), strict=True):
                images[start : start + len(pixels)] = pixels
                images.flush()
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                (part / f"{start}.tmp").write_text(text, encoding="utf-8")
                (part / f"{start}.tmp").replace(part / f"{start}.jsonl")
            done = [part / f"{start}.jsonl" for start in range(0, world.count(), _CHUNK)]
            (part / "texts.jsonl").write_text(
                "".join(p.read_text(encoding="utf-8") for p in done), encoding="utf-8"
            )
            for path in done:
                path.unlink()
            part.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot keep rendered scenes in {folder.parent}: {error}; free space or set OCULEX_CACHE"
        ) from error
    finally:
        Path(str(part) + ".lock").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(part, ignore_errors=True)


def _chunks(world: WorldSpec, starts: list[int]) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    from rich.console import Console
    from rich.progress import track

    cores = len(os.sched_getaffinity(0))
    work = partial(_chunk, world)
    console = Console(file=sys.stderr)
    about = f"rendering {len(starts) * _CHUNK:,} scenes, once"
    alone = multiprocessing.current_process().daemon  # a loader's worker may not start processes of its own
    if len(starts) <= 1 or cores == 1 or alone:
        yield from map(work, starts)
        return
    with ProcessPoolExecutor(cores) as processes:
        made = processes.map(work, starts)
        yield from track(made, about, total=len(starts), console=console, disable=not sys.stderr.isatty())


def _chunk(world: WorldSpec, start: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    config, voices = world.config(), world.voices()
    indices = range(start, min(start + _CHUNK, world.count()))
    scenes = [make_scene(world.seed, index, replace(config, split=world.split)) for index in indices]
    pixels = render_batch(scenes, world.size, threads=1)
    rows = []
    for scene in scenes:
        rng = generator(world.seed, scene.index, 0xCA)
        texts = [caption(scene, rng, *voices[n % len(voices)]) for n in range(world.captions)]
        rows.append({"captions": texts, "label": class_of(scene, config)})
    return pixels, rows
