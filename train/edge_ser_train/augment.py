"""Random changes of training features, each clip its own, on the dB features themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.features import ENCODER_FRAMES
from edge_ser_train.config import AugmentConfig

Float32Array = npt.NDArray[np.float32]


def _stretch(x: Float32Array, positions: npt.NDArray[np.floating[Any]]) -> Float32Array:
    """Sample the rows of x [n, m] at fractional ``positions`` [k] by linear interpolation, clamped to the ends."""
    positions = np.clip(positions, 0, len(x) - 1)
    low = positions.astype(np.intp)
    high = np.minimum(low + 1, len(x) - 1)
    fraction = (positions - low).astype(np.float32)[:, None]
    return x[low] * (1 - fraction) + x[high] * fraction


def stretched_lengths(lengths: npt.NDArray[np.int64], config: AugmentConfig, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw how long each clip of ``lengths`` frames is to be made; at least 49 frames.

    Drawn before batches are formed, so that clips which end up equally long meet in one batch.
    """
    factors = rng.uniform(1 - config.time_stretch, 1 + config.time_stretch, size=len(lengths))
    return np.maximum(ENCODER_FRAMES, np.rint(lengths * factors)).astype(np.int64)


def augment(x: Float32Array, n_frames: int, fill: Float32Array, config: AugmentConfig, rng: np.random.Generator) -> Float32Array:
    """Return a changed copy [n_frames, n_bins] of features x [T, n_bins] (dB).

    Time stretch to ``n_frames`` (speaking rate), frequency warp (vocal tract length), level offset, then SpecAugment masks
    (Park et al. 2019), which are filled with ``fill`` [n_bins], the training mean.
    """
    if n_frames != len(x):
        x = _stretch(x, np.linspace(0, len(x) - 1, n_frames))
    if config.freq_warp:
        factor = rng.uniform(1 - config.freq_warp, 1 + config.freq_warp)
        x = _stretch(x.T, np.arange(x.shape[1]) * factor).T
    x = x + np.float32(rng.uniform(-config.gain_db, config.gain_db))
    for _ in range(config.freq_masks):
        width = int(rng.integers(0, config.freq_mask_bins + 1))
        start = int(rng.integers(0, x.shape[1] - width + 1))
        x[:, start : start + width] = fill[start : start + width]
    for _ in range(config.time_masks):
        width = int(rng.integers(0, min(config.time_mask_frames, len(x) // 2) + 1))
        start = int(rng.integers(0, len(x) - width + 1))
        x[start : start + width] = fill
    return x
