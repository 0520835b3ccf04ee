"""Sound, video, depth and thermal files to arrays. What is wrong with a file from outside becomes BadSample."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from oculex.contracts import BadSample, UserError
from oculex.data import screen
from oculex.data.decode import MAX_PIXELS

RATE = 16_000
"""Samples of sound per second, to which every file is resampled."""
MAX_SECONDS = 60.0
"""Of sound that is read of a file; what comes later is left out."""
MAX_FRAMES = 36_000
"""Frames of a file that are decoded to find those that are wanted; more are refused."""
MAX_FRAME_PIXELS = 3840 * 2160
_DEEP = ("I;16", "I;16B", "I;16L", "I")
"""Pillow's names for grey of more than 8 bits."""


def frames(video: bytes | np.ndarray, count: int, key: str) -> np.ndarray:
    """uint8 [count, H, W, 3]: frames evenly spaced from the first to the last (numpy's linspace, as decord's users ask).

    A file is decoded once and only what is wanted of it is kept, so memory does not grow with its length; where its
    header does not say how many frames it has they are counted first. A shorter video repeats frames.
    """
    if isinstance(video, np.ndarray):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
            raise BadSample(key, f"a video array must be uint8 [T, H, W, 3], got {video.dtype} {video.shape}")
        return video[_evenly(len(video), count)]
    with _opened(video, key, "video") as (container, stream):
        total = _count(container, stream, key)
        wanted = _evenly(total, count)
        kept: dict[int, np.ndarray] = {}
        container.seek(0, stream=stream)
        last = None
        for number, frame in enumerate(container.decode(stream)):
            if number > MAX_FRAMES:
                raise BadSample(key, f"has more than {MAX_FRAMES:,} frames; cut it")
            last = frame
            if number in wanted:
                kept[number] = _pixels(frame, key)
            if number >= wanted[-1]:
                break
        if last is None:
            raise BadSample(key, "has no frame")
        end = _pixels(last, key)  # a header may promise more frames than there are
        found = [kept.get(int(number), end) for number in wanted]
        if len({frame.shape for frame in found}) > 1:
            raise BadSample(key, "its frames are of different sizes")
        return np.stack(found)


def frame_at(path: Path, number: int, rate: float, key: str) -> np.ndarray:
    """uint8 [H, W, 3]: frame ``number`` of a file with ``rate`` frames a second; decoding begins at the key frame before.

    BadSample where the file has no such frame or cannot be read.
    """
    av = _av()
    wanted = number / rate
    with _named(key, "video"), av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # workers are the threads
        if stream.width * stream.height > MAX_FRAME_PIXELS:
            raise BadSample(key, f"frames of {stream.width} x {stream.height} pixels are over the limit")
        container.seek(int(wanted / stream.time_base), stream=stream)
        for count, frame in enumerate(container.decode(stream)):
            if frame.time is not None and frame.time >= wanted - 0.5 / rate:
                return _pixels(frame, key)
            if count > MAX_FRAMES:
                break
        raise BadSample(key, f"its video has no frame {number}")


def every_frame(video: bytes, most: int, key: str) -> np.ndarray:
    """uint8 [T, H, W, 3]: all frames of a file that has at most ``most``; BadSample where it has more or none."""
    with _opened(video, key, "video") as (container, stream):
        if stream.width * stream.height > MAX_FRAME_PIXELS:
            raise BadSample(key, f"frames of {stream.width} x {stream.height} pixels are over the limit")
        found = []
        for frame in container.decode(stream):
            found.append(_pixels(frame, key))
            if len(found) > most:
                raise BadSample(key, f"has more than {most:,} frames")
        if not found or len({each.shape for each in found}) > 1:
            raise BadSample(key, "has no frame, or frames of different sizes")
        return np.stack(found)


def waveform(audio: bytes | np.ndarray, key: str) -> np.ndarray:
    """float32 [n], one channel at ``RATE``, of at most ``MAX_SECONDS``; BadSample where there is no sound."""
    most = int(MAX_SECONDS * RATE)
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating) or not len(audio):
            raise BadSample(key, f"a sound array must be floats [n], got {audio.dtype} {audio.shape}")
        wave = audio[:most]
    else:
        wave = _sound(audio, most, key)
    if not np.isfinite(wave).all():
        raise BadSample(key, "its sound has values that are no numbers")
    return wave.astype(np.float32, copy=False)


def _sound(audio: bytes, most: int, key: str) -> np.ndarray:
    av = _av()
    with _opened(audio, key, "audio") as (container, stream):
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        parts, length = [], 0
        for frame in container.decode(stream):
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray()[0])
                length += len(parts[-1])
            if length >= most:
                break
        else:
            parts += [part.to_ndarray()[0] for part in resampler.resample(None)]
        if not sum(map(len, parts)):
            raise BadSample(key, "has no sound")
        return np.concatenate(parts)[:most]


def metres(depth: bytes | np.ndarray, key: str) -> np.ndarray:
    """float32 [H, W], metres, 0 where unknown; a file is grey of 16 bits in millimetres, where 65535 is unknown too."""
    if isinstance(depth, np.ndarray):
        return _plane(depth, key)
    deep, bits = _grey(depth, key)
    if bits == 8:
        raise BadSample(key, "a depth file must be grey of 16 bits, in millimetres; this one has 8")
    return np.where(deep == 65535, 0.0, deep / 1000.0).astype(np.float32)


def thermal(infrared: bytes | np.ndarray, kelvin: tuple[float, float], key: str) -> np.ndarray:
    """float32 [H, W] in 0..1, from the lower to the upper of ``kelvin``; a file of 8 bits has no unit and stays."""
    if isinstance(infrared, np.ndarray):
        temperature = _plane(infrared, key)
    else:
        grey, bits = _grey(infrared, key)
        if bits == 8:
            return (grey / 255.0).astype(np.float32)
        temperature = grey / 100.0
    return ((temperature - kelvin[0]) / (kelvin[1] - kelvin[0])).clip(0.0, 1.0).astype(np.float32)


def _plane(array: np.ndarray, key: str) -> np.ndarray:
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or 0 in array.shape:
        raise BadSample(key, f"a map must be floats [H, W], got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise BadSample(key, "its map has values that are no numbers")
    return array.astype(np.float32, copy=False)


def _grey(content: bytes, key: str) -> tuple[np.ndarray, int]:
    """Values [H, W] and bits of a grey picture; one in colour is turned grey."""
    with _named(key, "image"):
        if content[:2] in (b"II", b"MM"):
            screen.tiff(content)
        picture = Image.open(io.BytesIO(content), formats=("PNG", "TIFF", "JPEG", "BMP"))
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels are over the limit of {MAX_PIXELS:,}")
        picture.load()
        if picture.mode in _DEEP:
            return np.asarray(picture).astype(np.float64), 16
        return np.asarray(picture.convert("L")).astype(np.float64), 8


def _evenly(total: int, count: int) -> np.ndarray:
    return np.linspace(0, total - 1, count).astype(int)


def _count(container: Any, stream: Any, key: str) -> int:
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise BadSample(key, f"frames of {stream.width} x {stream.height} pixels are over the limit")
    total = stream.frames or sum(
        1 for _ in zip(range(MAX_FRAMES + 1), container.decode(stream), strict=False)
    )
    if not 0 < total <= MAX_FRAMES:
        raise BadSample(key, f"has {total:,} frames; from 1 to {MAX_FRAMES:,} can be read")
    return total


def _pixels(frame: Any, key: str) -> np.ndarray:
    if frame.width * frame.height > MAX_FRAME_PIXELS:  # a stream may change its size on the way
        raise BadSample(key, f"a frame of {frame.width} x {frame.height} pixels is over the limit")
    return frame.to_ndarray(format="rgb24")


@contextlib.contextmanager
def _opened(content: bytes, key: str, kind: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of a kind."""
    av = _av()
    if not isinstance(content, bytes):
        raise BadSample(key, f"{kind} must be bytes or an array, got {type(content).__name__}")
    with _named(key, kind), av.open(io.BytesIO(content), metadata_errors="ignore") as container:
        streams = getattr(container.streams, kind)
        if not streams:
            raise BadSample(key, f"has no {kind}")
        streams[0].thread_type = "NONE"  # workers are the threads
        yield container, streams[0]


@contextlib.contextmanager
def _named(key: str, kind: str) -> Iterator[None]:
    try:
        yield
    except (BadSample, UserError):
        raise
    except Exception as error:  # decoders raise a dozen kinds, and each means the same here
        raise BadSample(key, f"not a readable {kind}: {type(error).__name__}: {str(error)[:80]}") from error


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError("sound and video are read by PyAV; pip install 'oculex[media]'") from error
    av.logging.set_level(av.logging.PANIC)
    return av
