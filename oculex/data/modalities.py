"""Views of what is no picture, shaped so that an image tower can look at it (LanguageBind, Zhu et al. 2024, section 3.1
and its code)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oculex.contracts import BadSample
from oculex.data.decode_media import RATE, frames, metres, thermal, waveform
from oculex.data.spectrogram import log_mel

_NEAREST = 0.01
"""Metres; what is nearer, or unknown, counts as this."""


def depth_view(depth: bytes | np.ndarray, size: int, most: float, key: str) -> np.ndarray:
    """float32 [1, size, size] in 0..1: metres up to ``most``, as shares of it; the shorter side resized, the middle
    square."""
    shares = metres(depth, key).clip(_NEAREST, most) / np.float32(most)
    return _square(torch.from_numpy(shares)[None], size).numpy()


def infrared_view(
    infrared: bytes | np.ndarray, size: int, kelvin: tuple[float, float], key: str
) -> np.ndarray:
    """float32 [1, size, size] in 0..1, from the lower to the upper of ``kelvin``; the middle square."""
    return _square(torch.from_numpy(thermal(infrared, kelvin, key))[None], size).numpy()


def video_view(
    video: bytes | np.ndarray, count: int, size: int, rng: np.random.Generator | None, key: str
) -> np.ndarray:
    """uint8 [count, 3, size, size]: frames evenly in time, the shorter side resized, one random square of all; without
    ``rng`` the middle one."""
    found = torch.from_numpy(np.ascontiguousarray(frames(video, count, key).transpose(0, 3, 1, 2)))
    at = (0.5, 0.5) if rng is None else (rng.random(), rng.random())
    return np.ascontiguousarray(_square(found, size, at).numpy())


def audio_view(
    audio: bytes | np.ndarray,
    bins: int,
    length: int,
    normal: tuple[float, float],
    rng: np.random.Generator | None,
    key: str,
) -> np.ndarray:
    """float32 [3, bins, length]: log mel spectrograms of three stretches, one each of the beginning, the middle and the
    end; of a sound no longer than a stretch three times the whole, repeated to its length.

    ``normal`` (mean m, deviation s): values are (x - m) / 2 s, as the audio spectrogram transformer has them (Gong et al.
    2021). Without ``rng`` the stretches are the first of their thirds.
    """
    mel = log_mel(waveform(audio, key), RATE, bins)
    if not len(mel):
        raise BadSample(key, "its sound is shorter than 25 ms")
    if len(mel) > length:
        thirds = np.array_split(np.arange(len(mel) - length + 1), 3)
        starts = [_start(part, rng) for part in thirds]
    else:
        starts, mel = [0, 0, 0], np.tile(mel, (length // len(mel) + 1, 1))
    stretches = np.stack([mel[start : start + length].T for start in starts])
    return ((stretches - normal[0]) / (2 * normal[1])).astype(np.float32)


def _start(part: np.ndarray, rng: np.random.Generator | None) -> int:
    """Of a third, which is empty where the sound is hardly longer than a stretch: then the first."""
    if not len(part):
        return 0
    return int(part[0] if rng is None else part[rng.integers(len(part))])


def _square(maps: Tensor, size: int, at: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """[N, H, W] or [N, C, H, W]: the shorter side resized to ``size`` (bicubic, antialiased), then a square, ``at``
    shares of what is to spare from the top and from the left."""
    height, width = maps.shape[-2:]
    short = min(height, width)
    resized = (int(size * height / short), int(size * width / short))
    if resized != (height, width):
        flat = maps[None] if maps.ndim == 3 else maps
        flat = F.interpolate(flat, resized, mode="bicubic", antialias=True, align_corners=False)
        maps = flat[0] if maps.ndim == 3 else flat
    top, left = (round(share * (side - size)) for share, side in zip(at, resized, strict=True))
    return maps[..., top : top + size, left : left + size]
