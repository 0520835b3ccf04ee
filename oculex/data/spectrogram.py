"""Sound as a picture: Kaldi's log mel filter bank, as torchaudio.compliance.kaldi.fbank computes it."""

from __future__ import annotations

from functools import cache

import numpy as np

FRAME_MS, SHIFT_MS = 25, 10
_LOW = 20.0
"""Hertz where the first filter begins; the last ends at half the sample rate."""
_PREEMPHASIS = 0.97


def log_mel(wave: np.ndarray, rate: int, bins: int) -> np.ndarray:
    """float32 [frames, bins] of a waveform [n]: whole frames of 25 ms, every 10 ms.

    Of each frame the mean is taken off, then 0.97 of the sample before, then a Hann window laid on; the log is of
    the power in triangular filters, evenly spaced on the scale 1127 ln(1 + f / 700). A waveform shorter than a frame
    has none.
    """
    length, shift = rate * FRAME_MS // 1000, rate * SHIFT_MS // 1000
    if len(wave) < length:
        return np.zeros((0, bins), np.float32)
    wave = wave.astype(np.float32) - np.float32(wave.mean())
    frames = np.lib.stride_tricks.sliding_window_view(wave, length)[::shift]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    frames = (frames - _PREEMPHASIS * before) * np.hanning(length).astype(np.float32)
    padded = 1 << (length - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, padded)) ** 2
    energies = power[:, : padded // 2] @ _filters(rate, padded, bins).T
    return np.log(np.maximum(energies, np.finfo(np.float32).eps)).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


@cache
def _filters(rate: int, padded: int, bins: int) -> np.ndarray:
    """float64 [bins, padded / 2]: triangles on the mel scale."""
    low, high = _mel(_LOW), _mel(rate / 2)
    edges = low + (high - low) / (bins + 1) * np.arange(bins + 2)
    left, centre, right = (edges[n : n + bins, None] for n in range(3))
    at = _mel(rate / padded * np.arange(padded // 2))[None]
    return np.maximum(0.0, np.minimum((at - left) / (centre - left), (right - at) / (right - centre)))
