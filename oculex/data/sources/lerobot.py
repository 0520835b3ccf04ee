"""Robot episodes in LeRobot's layout, versions 2.0 and 2.1: a sample is one step.

``meta/info.json`` has the features, the rate and the patterns of the paths; ``meta/tasks.jsonl`` what robots were told;
``meta/episodes.jsonl`` how long each episode is. An episode is one Parquet file, and one MP4 of each camera, or pictures
in a column. The first camera that is named is what the robot sees.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oculex.contracts import BadSample, Sample, UserError, printable
from oculex.data.actions import ActionSpace
from oculex.data.decode_media import frame_at
from oculex.data.order import Permutation
from oculex.data.sources.files import MAX_BYTES, MAX_TABLE, digest, is_file, openable, some, stamp, texts

_KEPT = 8
"""Episodes' tables held decoded."""
_MOST_STEPS = 1 << 20
"""Steps of an episode."""
_FIELD = re.compile(r"\{(episode_chunk|episode_index|video_key)(:0\d{1,2}d)?\}")
_LEFT_OUT = 0x1E80


def is_lerobot(folder: Path) -> bool:
    return is_file(folder / "meta" / "info.json")


class LeRobotEpisodes:
    """Steps in order of their episodes. ``divide`` holds out whole episodes, for neighbouring steps look alike."""

    classes: tuple[str, ...] = ()

    def __init__(self, root: Path, episodes: Sequence[int] | None = None) -> None:
        self.name, self.root = str(root), root
        info = _tree(root / "meta" / "info.json")
        version = str(info.get("codebase_version", "")).removeprefix("v")
        if not version.startswith("2."):
            raise UserError(
                f"{root} is LeRobot's version {version or 'unknown'}; 2.0 and 2.1 are read (LeRobot 0.3 writes them)"
            )
        try:
            self._features = dict(info["features"])
            self._paths = str(info["data_path"]), str(info.get("video_path") or "")
            self._chunk, self._rate = int(info.get("chunks_size", 1000)), float(info["fps"])
            width = int(self._features["action"]["shape"][0])
            tasks = {int(row["task_index"]): row["task"] for row in _lines(root / "meta" / "tasks.jsonl")}
            lengths = {
                int(row["episode_index"]): int(row["length"])
                for row in _lines(root / "meta" / "episodes.jsonl")
            }
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{root}: its meta files lack {printable(str(error), 60)}; write them with LeRobot"
            ) from error
        if not lengths or min(lengths.values()) < 1 or max(lengths.values()) > _MOST_STEPS or self._chunk < 1:
            raise UserError(f"{root}: its episodes have no steps, or more than {_MOST_STEPS:,}")
        self._tasks, self._lengths = tasks, lengths
        kinds = {name: str(dict(each).get("dtype")) for name, each in self._features.items()}
        self.camera = next((name for name, kind in kinds.items() if kind in ("video", "image")), "")
        """Key of what is seen; empty: the robot is blind."""
        self._filmed = kinds.get(self.camera) == "video"
        self._episodes = sorted(lengths) if episodes is None else list(episodes)
        self._starts = np.concatenate([[0], np.cumsum([lengths[n] for n in self._episodes])]).astype(np.int64)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._space: ActionSpace | None = None
        self._width = width

    @property
    def actions(self) -> ActionSpace:
        """Bounds are the least and the largest action of all episodes, held out or not: as the files' own statistics
        tell, or else as the episodes do."""
        if self._space is None:
            told = self._told()
            found = [told] if told is not None else [self._actions(n) for n in sorted(self._lengths)]
            self._space = ActionSpace.fitted(
                np.concatenate(found), _names(self._features["action"], self._width)
            )
        return self._space

    def divide(self, share: float) -> tuple[LeRobotEpisodes, LeRobotEpisodes | None]:
        """(training part, held-out part) of whole episodes; one at least is held out where ``share`` is not 0."""
        count = len(self._episodes)
        held = min(max(round(share * count), int(share > 0)), count - 1)
        place = Permutation(count, _LEFT_OUT)
        order = [self._episodes[place(n)] for n in range(count)]
        parts = [LeRobotEpisodes(self.root, sorted(each)) for each in (order[held:], order[:held]) if each]
        for part in parts:
            part._space = self.actions
        return parts[0], parts[1] if held else None

    def fingerprint(self) -> str:
        files = [self._file(n) for n in self._episodes]
        if self._filmed:
            files += [_named(self._paths[1], n, self._chunk, self.camera) for n in self._episodes]
        return digest([stamp(self.root / "meta" / "info.json"), *(stamp(self.root / each) for each in files)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int, /) -> Sample:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        episode, step = self._episodes[place], index - int(self._starts[place])
        key = f"{episode}.{step}"
        table = self._table(episode)
        if isinstance(table, str):
            raise BadSample(key, table)
        action = self._vector(table, step, key)
        told = self._tasks.get(int(table["task_index"][step].as_py()))
        sample: dict[str, Any] = {"id": key, "action": action}
        if told is not None and (said := texts(told, key)):
            sample["instruction"] = said[0]
        if self.camera:
            sample["image"] = self._seen(table, episode, step, key)
        return sample

    def _seen(self, table: Any, episode: int, step: int, key: str) -> bytes | np.ndarray:
        if not self._filmed:
            value = table[self.camera][step].as_py()
            value = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(value, bytes):
                raise BadSample(key, f"its {self.camera} has no picture")
            return value
        path = self._inside(_named(self._paths[1], episode, self._chunk, self.camera), key)
        return frame_at(path, step, self._rate, key)

    def _vector(self, table: Any, step: int, key: str) -> np.ndarray:
        try:
            action = np.array(table["action"][step].as_py(), np.float32)
        except (TypeError, ValueError) as error:
            raise BadSample(key, "its action is no list of numbers") from error
        if action.shape != (self._width,) or not np.isfinite(action).all():
            raise BadSample(key, f"its action is not {self._width} numbers")
        return action

    def _told(self) -> np.ndarray | None:
        """[n, D]: least and largest actions by meta/stats.json (2.0) or meta/episodes_stats.jsonl (2.1)."""
        whole, each = (self.root / "meta" / name for name in ("stats.json", "episodes_stats.jsonl"))
        if not is_file(whole) and not is_file(each):
            return None
        rows = [_tree(whole)] if is_file(whole) else [row.get("stats", {}) for row in _lines(each)]
        try:
            found = np.array([row["action"][bound] for row in rows for bound in ("min", "max")], np.float32)
        except (KeyError, TypeError, ValueError):
            return None
        return (
            found if found.ndim == 2 and found.shape[1] == self._width and np.isfinite(found).all() else None
        )

    def _actions(self, episode: int) -> np.ndarray:
        table = self._table(episode)
        if isinstance(table, str):
            return np.empty((0, self._width), np.float32)
        found = []
        for step in range(self._lengths[episode]):
            try:
                found.append(self._vector(table, step, ""))
            except BadSample:
                continue  # named when it is trained on
        return np.array(found, np.float32).reshape(-1, self._width)

    def _table(self, episode: int) -> Any:
        """An episode's columns, or why there are none."""
        import pyarrow.parquet as pq

        if episode not in self._cache:
            columns = ["action", "task_index", *([self.camera] if self.camera and not self._filmed else [])]
            try:
                path = self._inside(self._file(episode), str(episode))
                if path.stat().st_size > MAX_BYTES:
                    raise BadSample(str(episode), f"is larger than {MAX_BYTES >> 20} MiB")
                table = pq.read_table(path, columns=columns)
                if len(table) != self._lengths[episode]:
                    raise BadSample(
                        str(episode), f"has {len(table)} steps, meta says {self._lengths[episode]}"
                    )
                self._cache[episode] = table
            except Exception as error:  # pyarrow raises its own kinds, OSError and MemoryError
                self._cache[episode] = f"episode {episode} cannot be read: {str(error)[:100]}"
            while len(self._cache) > _KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(episode)
        return self._cache[episode]

    def _file(self, episode: int) -> str:
        return _named(self._paths[0], episode, self._chunk, self.camera)

    def _inside(self, name: str, key: str) -> Path:
        try:
            path = (self.root / name).resolve(strict=True)
            if not path.is_relative_to(self.root.resolve()) or not path.is_file():
                raise BadSample(key, f"{name} leads out of its folder, or is not a file")
        except (OSError, ValueError, RuntimeError) as error:
            raise BadSample(
                key, f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from error
        return path

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}


def _named(pattern: str, episode: int, chunk: int, camera: str) -> str:
    """A path by LeRobot's pattern, whose fields alone are filled in: a pattern from outside formats nothing else."""
    values = {"episode_chunk": episode // chunk, "episode_index": episode, "video_key": camera}

    def fill(found: re.Match[str]) -> str:
        value, width = values[found[1]], found[2]
        return f"{value:0{int(width[2:-1])}d}" if width and isinstance(value, int) else str(value)

    return _FIELD.sub(fill, pattern)


def _names(feature: Any, width: int) -> list[str]:
    """Names of the action's dimensions, where the file has as many."""
    given = feature.get("names")
    if isinstance(given, dict):
        given = next(iter(given.values()), None)
    return (
        [printable(str(name), 60) for name in given]
        if isinstance(given, list) and len(given) == width
        else []
    )


def _tree(path: Path) -> dict[str, Any]:
    try:
        if openable(path).stat().st_size > MAX_TABLE:
            raise UserError(f"{path} is larger than {MAX_TABLE >> 20} MiB")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no object with {some(('features', 'fps', 'data_path'))}")
    return tree


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        if openable(path).stat().st_size > MAX_TABLE:
            raise UserError(f"{path} is larger than {MAX_TABLE >> 20} MiB")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {str(error)[:100]}") from error
