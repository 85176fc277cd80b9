"""Sound without speech in place of some clips of a batch: no class is right for it (outlier exposure, Hendrycks et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_ser.arrays import BoolArray, Float32Array
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
    """Return samples [n] of -70 to -10 dBFS without speech: coloured noise, half the time with a hum or whistle, or swelling."""
    hz = np.fft.rfftfreq(n_samples, 1 / rate_hz)
    colour = np.interp(np.linspace(0, 5, len(hz)), np.arange(6), rng.normal(0, 5, 6))
    shape = np.maximum(hz, 20) ** (-rng.uniform(0, 1)) * 10 ** (colour / 20)
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(n_samples)) * shape, n_samples)
    t = np.arange(n_samples) / rate_hz
    if rng.random() < 0.5:
        n, pitch_hz = np.arange(1, 1 + int(rng.integers(1, 9)))[:, None], 50 * 80 ** rng.random()
        n = n[n[:, 0] * pitch_hz < rate_hz / 2]
        tone = (np.sin(2 * np.pi * (n * pitch_hz * t + rng.random(n.shape))) / n ** rng.uniform(0.5, 2)).sum(axis=0)
        sound = sound / sound.std() + 10 ** (rng.uniform(-10, 40) / 20) * tone
    if rng.random() < 0.5:  # slower than syllables, which come at 2 to 8 Hz
        sound *= 10 ** (rng.uniform(0, 15) / 20 * np.sin(2 * np.pi * (rng.uniform(0.05, 1) * t + rng.random())))
    scaled: Float32Array = (sound / sound.std() * 10 ** (rng.uniform(-70, -10) / 20)).astype(np.float32)
    return scaled


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
