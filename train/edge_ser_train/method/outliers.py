"""Sound without speech in place of some clips of a batch: no class is right for it (outlier exposure, Hendrycks et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_ser.arrays import BoolArray, Float32Array, Float64Array
from edge_ser_train.corpora.clips import NO_CLASS
from edge_ser_train.method.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from edge_ser_train.method.losses import Loss, Losses

_SOUNDS = 4  # stream of random numbers, by step; the dataset and the loop have the others


def outliers(step: int, n_clips: int, config: TrainConfig) -> BoolArray:
    """Return which of a step's ``n_clips`` give their places to sound without speech: ``loss.outliers`` of them, rounded."""
    where = np.zeros(n_clips, dtype=np.bool_)
    where[: round(config.loss.outliers * n_clips)] = True
    return np.random.default_rng([config.seed, _SOUNDS, step, 1]).permutation(where)


def sounds_of(step: int, config: TrainConfig) -> np.random.Generator:
    """Return the random numbers that a step's sounds are drawn with."""
    return np.random.default_rng([config.seed, _SOUNDS, step])


def no_speech(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] of -85 to -10 dBFS without speech: noise, hums, notes, clicks; one time in eight next to none."""
    kind = rng.random()
    if kind < 0.125:
        return np.asarray(rng.integers(-2, 3, n_samples) * (rng.random(n_samples) < rng.random()) / 32768, dtype=np.float32)
    sound = _noise(n_samples, rate_hz, rng)
    if kind > 0.75:
        sound *= 10 ** (-rng.uniform(0, 50) / 20)
        sound += _notes(n_samples, rate_hz, rng) if kind < 0.9 else _clicks(n_samples, rate_hz, rng)
    scaled: Float32Array = (sound / sound.std() * 10 ** (rng.uniform(-85, -10) / 20)).astype(np.float32)
    return np.rint(scaled * np.float32(32768)) / np.float32(32768) if rng.random() < 0.5 else scaled


def _noise(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return coloured noise [n], half the time with a hum or whistle, half the time swelling."""
    hz = np.fft.rfftfreq(n_samples, 1 / rate_hz)
    colour = np.interp(np.linspace(0, 5, len(hz)), np.arange(6), rng.normal(0, 5, 6))
    shape = np.maximum(hz, 20) ** (-rng.uniform(0, 1)) * 10 ** (colour / 20)
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(n_samples)) * shape, n_samples)
    t = np.arange(n_samples) / rate_hz
    if rng.random() < 0.5:
        n, pitch_hz = np.arange(1, 1 + int(rng.integers(1, 9)))[:, None], 50 * 80 ** rng.random()
        n = n[n[:, 0] * pitch_hz < rate_hz / 2]
        tone = (np.sin(2 * np.pi * (n * pitch_hz * t + rng.random(n.shape))) / n ** rng.uniform(0.5, 2)).sum(axis=0)
        sound = sound / sound.std() + 10 ** (rng.uniform(-10, 60) / 20) * tone
    if rng.random() < 0.5:  # slower than syllables, which come at 2 to 8 Hz
        sound *= 10 ** (rng.uniform(0, 15) / 20 * np.sin(2 * np.pi * (rng.uniform(0.05, 1) * t + rng.random())))
    unit: Float64Array = sound / sound.std()
    return unit


def _notes(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return notes of steady pitch on a scale of semitones, struck or held, one to four at once: samples [n] of power 1."""
    t, sound = np.arange(n_samples) / rate_hz, np.full(n_samples, 1e-9)
    length = rng.uniform(0.12, 0.8)
    for start in np.arange(-rng.uniform(0, length), t[-1], length):
        for _ in range(int(rng.integers(1, 5))):
            pitch_hz = 65 * 2 ** (int(rng.integers(0, 60)) / 12)
            n = np.arange(1, 1 + int(rng.integers(1, 12)))[:, None]
            n = n[n[:, 0] * pitch_hz < rate_hz / 2]
            since = np.maximum(0, t - start)
            envelope = (t >= start) * np.minimum(1, since / 0.01) * np.exp(-since / rng.uniform(0.05, 2))
            harmonics = np.sin(2 * np.pi * (n * pitch_hz * t + rng.random(n.shape))) / n ** rng.uniform(0.5, 2)
            sound += envelope * harmonics.sum(axis=0)
    unit: Float64Array = sound / sound.std()
    return unit


def _clicks(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return keys, knocks and taps, regular or not: samples [n] of power 1."""
    sound = np.full(n_samples, 1e-9)
    places = rng.integers(0, n_samples, int(rng.integers(1, 25)))
    if rng.random() < 0.5:
        places = np.arange(int(rng.integers(0, rate_hz // 2)), n_samples, int(rng.uniform(0.05, 1) * rate_hz))
    decay = rng.uniform(0.0005, 0.03) * rate_hz
    for at in places:
        burst = rng.standard_normal(int(6 * decay) + 1) * np.exp(-np.arange(int(6 * decay) + 1) / decay)
        sound[at : at + len(burst)] += rng.uniform(0.2, 1) * burst[: n_samples - at]
    unit: Float64Array = sound / sound.std()
    return unit


def outlier_loss(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [B, n_classes] to all classes alike."""
    return -logits.log_softmax(dim=1).mean()


def with_outliers(loss: Loss) -> Loss:
    """Return the loss of the rows that have a class, plus :func:`outlier_loss` of those without, weighted by their share."""

    def both(logits: Tensor, z: Tensor, y: Tensor, centres: Tensor, omega: Tensor, lambda_center: float) -> Losses:
        silent = y == NO_CLASS
        clips = loss(logits[~silent], z[~silent], y[~silent], centres, omega, lambda_center)
        lost = logits[silent]
        return clips._replace(total=clips.total + len(lost) / len(y) * outlier_loss(lost))

    return both
