"""Random changes of training features, each clip its own, on the dB features themselves.

Speaker: time stretch, frequency warp. Channel and room: background, reverberation, equaliser, level, noise, narrow band. Then
SpecAugment. Power adds, so rooms and noise work on power; the rest works on decibels.
"""

from __future__ import annotations

import numpy as np

from edge_ser.arrays import Float32Array, FloatArray, Int64Array
from edge_ser.frontend.features import FrontEndConfig, bin_centres_hz
from edge_ser.geometry import ENCODER_FRAMES
from edge_ser_train.method.config import AugmentConfig

_DB = np.float32(np.log(10) / 10)  # nats of power a decibel
_FLOOR_DB = np.float32(-100)  # what the front ends make of silence


def _stretch(x: Float32Array, positions: FloatArray) -> Float32Array:
    """Sample the rows of x [n, m] at fractional ``positions`` [k] by linear interpolation, clamped to the ends."""
    positions = np.clip(positions, 0, len(x) - 1)
    low = positions.astype(np.intp)
    high = np.minimum(low + 1, len(x) - 1)
    fraction = (positions - low).astype(np.float32)[:, None]
    return x[low] * (1 - fraction) + x[high] * fraction


def stretched_lengths(lengths: Int64Array, config: AugmentConfig, rng: np.random.Generator) -> Int64Array:
    """Draw how long each clip of ``lengths`` frames is to be made; at least 49 frames.

    Drawn before batches are formed, so that clips which end up equally long meet in one batch.
    """
    factors = rng.uniform(1 - config.time_stretch, 1 + config.time_stretch, size=len(lengths))
    return np.maximum(ENCODER_FRAMES, np.rint(lengths * factors)).astype(np.int64)


def augment(
    x: Float32Array, n_frames: int, fill: Float32Array, config: AugmentConfig, rng: np.random.Generator, front_end: FrontEndConfig
) -> Float32Array:
    """Return a changed copy [n_frames, n_bins] of features x [T, n_bins] (dB).

    SpecAugment masks (Park et al. 2019) are filled with ``fill`` [n_bins], the training mean.
    """
    n_bins = x.shape[1]
    if n_frames != len(x):
        x = _stretch(x, np.linspace(0, len(x) - 1, n_frames))
    if config.freq_warp:
        factor = rng.uniform(1 - config.freq_warp, 1 + config.freq_warp)
        x = _stretch(x.T, np.arange(n_bins) * factor).T
    if config.denoise and rng.random() < config.denoise:
        x = _suppress_noise(x, rng)
    if config.reverb and rng.random() < config.reverb:
        x = _reverberate(x, rng, front_end)
    if config.equaliser_db:
        curve = np.interp(np.linspace(0, 5, n_bins), np.arange(6), rng.normal(0, config.equaliser_db, 6))
        x = x + curve.astype(np.float32)
    x = np.maximum(x + np.float32(rng.uniform(-config.gain_db, config.gain_db)), _FLOOR_DB)
    if config.noise and rng.random() < config.noise:
        x = _add_noise(x, rng.uniform(config.noise_snr_db, config.noise_snr_db + 30), rng)
    if config.band_limit and rng.random() < config.band_limit:
        x = _narrow(x, rng, front_end)
    for _ in range(config.freq_masks):
        width = int(rng.integers(0, config.freq_mask_bins + 1))
        start = int(rng.integers(0, n_bins - width + 1))
        x[:, start : start + width] = fill[start : start + width]
    for _ in range(config.time_masks):
        width = int(rng.integers(0, min(config.time_mask_frames, len(x) // 2) + 1))
        start = int(rng.integers(0, len(x) - width + 1))
        x[start : start + width] = fill
    return x


def _narrow(x: Float32Array, rng: np.random.Generator, front_end: FrontEndConfig) -> Float32Array:
    """Cut what lies above 3.4 to 7 kHz by 50 to 90 dB, half the time also 12 to 48 dB an octave below 100 to 350 Hz.

    A frame's window leaks into the stop band: CREMA-D's dev clips on a telephone have 65 dB less there than in their loudest bin.
    """
    hz = bin_centres_hz(front_end)
    loss = np.where(hz > rng.uniform(3400, 7000), rng.uniform(50, 90), 0)
    if rng.random() < 0.5:
        loss += rng.uniform(12, 48) * np.log2(np.maximum(1, rng.uniform(100, 350) / np.maximum(hz, 20)))
    heard = x - loss.astype(np.float32)
    ripple = np.maximum(rng.standard_exponential(x.shape, dtype=np.float32), 1e-30)  # in float32 it is 0 once in 2^24
    leak = heard.max(axis=1, keepdims=True) - 65 + np.log(ripple) / _DB
    changed: Float32Array = np.where(loss > 0, np.maximum(heard, np.maximum(np.minimum(x, leak), _FLOOR_DB)), x)
    return changed


def _suppress_noise(x: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Lower the background by up to 60 dB: spectral subtraction (Boll 1979) of 1.5 to 3 times each bin's 20th percentile."""
    from scipy.ndimage import uniform_filter

    heard = uniform_filter(np.exp(x * _DB), (7, 3), mode="nearest")  # so that the background sinks evenly, without musical noise
    background = rng.uniform(1.5, 3) * np.percentile(heard, 20, axis=0)
    kept = np.clip(1 - background / heard, 10 ** (-rng.uniform(0, 60) / 10), 1)
    changed: Float32Array = np.maximum(x + np.log(kept) / _DB, _FLOOR_DB).astype(np.float32)
    return changed


def _reverberate(x: Float32Array, rng: np.random.Generator, front_end: FrontEndConfig) -> Float32Array:
    """Add a diffuse tail: power decays by 60 dB in the reverberation time, direct-to-reverberant ratio 0 to 15 dB."""
    from scipy.signal import lfilter

    power = np.exp(x * _DB)
    decay = 10 ** (-6 * front_end.hop_samples / front_end.rate_hz / rng.uniform(0.1, 0.8))
    share = 10 ** (-rng.uniform(0, 15) / 10)
    tail = lfilter([0.0, share * (1 - decay)], [1.0, -decay], power, axis=0)
    changed: Float32Array = (np.log(power + tail) / _DB).astype(np.float32)
    return changed


def _add_noise(x: Float32Array, snr_db: float, rng: np.random.Generator) -> Float32Array:
    """Add stationary noise with a random tilt; every bin's power fluctuates as a periodogram's does (exponentially)."""
    power = np.exp(x * _DB)
    tilt = np.exp(np.linspace(0, rng.uniform(-30, 10), x.shape[1]) * _DB)
    noise = tilt * rng.standard_exponential(x.shape, dtype=np.float32)
    noise *= power.sum() / noise.sum() * 10 ** (-snr_db / 10)
    changed: Float32Array = (np.log(power + noise) / _DB).astype(np.float32)
    return changed
