"""Sound without speech in place of some clips of a batch: no class is right for it (outlier exposure, Hendrycks et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edge_ser.arrays import BoolArray, Float32Array, Float64Array
from edge_ser_train.corpora.clips import NO_CLASS
from edge_ser_train.method.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from edge_ser_train.method.losses import Loss, Losses

_SOUNDS = 4  # stream of random numbers, by step; the dataset and the loop have the others
_WAVE = 8192  # samples of a period that tones are read from


def outliers(step: int, n_clips: int, config: TrainConfig) -> BoolArray:
    """Return which of a step's ``n_clips`` give their places to sound without speech: ``loss.outliers`` of them, rounded."""
    where = np.zeros(n_clips, dtype=np.bool_)
    where[: round(config.loss.outliers * n_clips)] = True
    return np.random.default_rng([config.seed, _SOUNDS, step, 1]).permutation(where)


def sounds_of(step: int, config: TrainConfig) -> np.random.Generator:
    """Return the random numbers that a step's sounds are drawn with."""
    return np.random.default_rng([config.seed, _SOUNDS, step])


def no_speech(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] of -85 to -10 dBFS without speech, of one of :data:`KINDS`; one time in ten next to none."""
    if rng.random() < 0.1:
        return np.asarray(rng.integers(-2, 3, n_samples) * (rng.random(n_samples) < rng.random()) / 32768, dtype=np.float32)
    shares = np.array([share for _, share in KINDS.values()])
    kind, _ = list(KINDS.values())[int(rng.choice(len(KINDS), p=shares / shares.sum()))]
    sound = kind(n_samples, rate_hz, rng)
    if kind is not _noise:
        sound += 10 ** (-rng.uniform(0, 60) / 20) * _noise(n_samples, rate_hz, rng)
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
    sound, length = np.full(n_samples, 1e-9), rng.uniform(0.12, 0.8)
    for start in np.arange(-rng.uniform(0, length), n_samples / rate_hz, length):
        first = int(max(0.0, start) * rate_hz)
        for _ in range(int(rng.integers(1, 5))):
            pitch_hz, decay_s = 65 * 2 ** (int(rng.integers(0, 60)) / 12), rng.uniform(0.05, 2)
            since = np.arange(first, min(n_samples, first + int(7 * decay_s * rate_hz))) / rate_hz - start
            envelope = np.minimum(1, np.maximum(0, since) / 0.01) * np.exp(-since / decay_s)
            sound[first : first + len(since)] += envelope * _harmonics(pitch_hz * since, pitch_hz, 11, rate_hz, rng)
    unit: Float64Array = sound / sound.std()
    return unit


def _clicks(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return keys, knocks and taps, regular or not, dull or ringing: samples [n] of power 1."""
    sound = np.full(n_samples, 1e-9)
    places = rng.integers(0, n_samples, int(rng.integers(1, 25)))
    if rng.random() < 0.5:
        places = np.arange(int(rng.integers(0, rate_hz // 2)), n_samples, int(rng.uniform(0.05, 1) * rate_hz))
    rings = rng.random() < 0.4
    decay = 10 ** (rng.uniform(-2.5, -0.7) if rings else rng.uniform(-3.3, -1.5)) * rate_hz
    since = np.arange(int(6 * decay) + 1)
    for at in places:
        burst = rng.standard_normal(len(since))
        if rings:
            modes_hz = 300 * 25 ** rng.random((int(rng.integers(1, 10)), 1))
            burst = 0.1 * burst + (rng.random(modes_hz.shape) * np.sin(2 * np.pi * modes_hz * since / rate_hz)).sum(axis=0)
        burst *= np.exp(-since / decay)
        sound[at : at + len(burst)] += rng.uniform(0.2, 1) * burst[: n_samples - at]
    unit: Float64Array = sound / sound.std()
    return unit


def _glide(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return a tone whose pitch climbs, falls, jumps or wanders, as alarms, horns and birds do: samples [n] of power 1."""
    turns = 0.1 * 80 ** rng.random() * np.arange(n_samples) / rate_hz + rng.random()
    places = rng.uniform(-1, 1, int(turns[-1]) + 2)
    way = [
        2 * np.abs(2 * (turns % 1) - 1) - 1,
        2 * (turns % 1) - 1,
        1 - 2 * (turns % 1),
        np.sign(turns % 1 - 0.5),
        np.interp(turns, np.arange(places.size), places),
    ][int(rng.integers(5))]
    pitch_hz = 120 * 32 ** rng.random() * 2 ** (rng.uniform(0.02, 1) * way)
    sound = _harmonics(np.cumsum(pitch_hz) / rate_hz, float(pitch_hz.max()), 6, rate_hz, rng) + 1e-9
    unit: Float64Array = sound / sound.std()
    return unit


def _harmonics(turns: Float64Array, highest_hz: float, most: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return 1 to ``most`` harmonics, below half the rate, of what has turned so often [n]: samples [n]."""
    n = np.arange(1, 1 + max(1, min(int(rng.integers(1, most + 1)), int(rate_hz / 2 / highest_hz))))
    spectrum = np.zeros(_WAVE // 2 + 1, dtype=np.complex128)
    spectrum[n] = np.exp(2j * np.pi * rng.random(len(n))) / n ** rng.uniform(0.5, 2.5)
    wave: Float64Array = np.fft.irfft(spectrum, _WAVE) * _WAVE / 2
    return wave[(turns * _WAVE).astype(np.int64) % _WAVE]


def _beeps(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return a steady tone, or two at once, that goes on and off, as machines and telephones call: samples [n] of power 1."""
    t = np.arange(n_samples) / rate_hz
    period, share, faded = 0.06 * 60 ** rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.001, 0.02)
    into = (t + rng.uniform(0, period)) % period
    gate = np.minimum(1, np.maximum(0, np.minimum(into, share * period - into)) / faded)
    pitch_hz = 150 * 27 ** rng.random()
    tone = _harmonics(pitch_hz * t, pitch_hz, 5, rate_hz, rng)
    if rng.random() < 0.5:
        pitch_hz *= rng.uniform(1.02, 2)
        tone = tone + _harmonics(pitch_hz * t, pitch_hz, 2, rate_hz, rng)
    sound = gate * tone + 1e-9 * rng.standard_normal(n_samples)  # where the gate stays shut
    unit: Float64Array = sound / sound.std()
    return unit


def _calls(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return calls that bend, clear or hoarse, resonant or not, as animals, horns and hinges make: samples [n] of power 1."""
    t = np.arange(n_samples) / rate_hz
    turns = t / (0.06 * 30 ** rng.random()) + rng.random()
    call, into = turns.astype(np.int64), np.minimum(1, turns % 1 / rng.uniform(0.2, 0.95))
    heard, higher = rng.random((2, call[-1] + 1))
    gate = np.sin(np.pi * into).clip(0) ** rng.uniform(0.2, 2) * (heard > rng.uniform(0, 0.5))[call]
    bend = rng.uniform(-1.5, 1.5) * into + rng.uniform(0, 0.5) * higher[call]
    bend += rng.uniform(0, 0.3) * np.sin(2 * np.pi * 3 * 15 ** rng.random() * t)
    pitch_hz = 150 * 30 ** rng.random() * 2**bend
    sound = _harmonics(np.cumsum(pitch_hz) / rate_hz, float(pitch_hz.max()), 24, rate_hz, rng)
    sound = gate * (sound + rng.choice([0, rng.random()]) * rng.standard_normal(n_samples))
    if rng.random() < 0.6:
        hz, peaks_hz = np.fft.rfftfreq(n_samples, 1 / rate_hz), 300 * 15 ** rng.random((int(rng.integers(1, 5)), 1))
        gain = (1 / (1 + np.square((hz - peaks_hz) / rng.uniform(40, 400, peaks_hz.shape)))).sum(axis=0)
        sound = np.fft.irfft(np.fft.rfft(sound) * (0.02 + gain), n_samples)
    sound = sound + 1e-9 * rng.standard_normal(n_samples)  # where no call is heard
    unit: Float64Array = sound / sound.std()
    return unit


def _motor(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return harmonics of a pitch that drifts, which beat up to 12 times a second, in noise: samples [n] of power 1."""
    t = np.arange(n_samples) / rate_hz
    drift = np.interp(t, np.linspace(0, t[-1], 8), rng.uniform(-1, 1, 8))
    pitch_hz = 25 * 16 ** rng.random() * 2 ** (rng.uniform(0, 0.5) * drift)
    tone = _harmonics(np.cumsum(pitch_hz) / rate_hz, float(pitch_hz.max()), 60, rate_hz, rng)
    beat = 1 + rng.uniform(0, 1) * np.sin(2 * np.pi * rng.uniform(0.5, 12) * t)
    sound = beat * tone / tone.std() + 10 ** (rng.uniform(-40, 5) / 20) * _noise(n_samples, rate_hz, rng)
    unit: Float64Array = sound / sound.std()
    return unit


def _beat(n_samples: int, rate_hz: int, rng: np.random.Generator) -> Float64Array:
    """Return drums at 70 to 180 beats a minute under notes: samples [n] of power 1."""
    sound = rng.uniform(0, 1.5) * _notes(n_samples, rate_hz, rng)
    step = int(rate_hz * 30 / rng.uniform(70, 180))
    length = int(0.25 * rate_hz)
    t = np.arange(length) / rate_hz
    drum = np.sin(2 * np.pi * np.cumsum(rng.uniform(45, 90) * (1 + 2 * np.exp(-t / 0.02))) / rate_hz) * np.exp(
        -t / rng.uniform(0.03, 0.2)
    )
    hiss = np.diff(rng.standard_normal(length + 1)) * np.exp(-t / rng.uniform(0.01, 0.08))
    often = rng.uniform(0.2, 0.9, 2)
    for at in range(0, n_samples, step):
        for hit, share, level in ((drum, often[0], 3.0), (hiss, often[1], 1.0)):
            if rng.random() < share:
                sound[at : at + length] += level * rng.uniform(0.3, 1) * hit[: n_samples - at]
    unit: Float64Array = sound / sound.std()
    return unit


KINDS: dict[str, tuple[Callable[[int, int, np.random.Generator], Float64Array], float]] = {
    "noise and hum": (_noise, 4), "notes": (_notes, 2), "clicks": (_clicks, 2), "a glide": (_glide, 4), "beeps": (_beeps, 1.5),
    "a beat": (_beat, 2), "calls": (_calls, 4), "a motor": (_motor, 1.5),
}  # fmt: skip
"""Sound without speech, and how often it comes; ``evaluate --rejection`` has its own, made in other ways."""


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
