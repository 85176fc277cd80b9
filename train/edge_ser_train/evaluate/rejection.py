"""How much sound without speech is answered `no_speech`, and how much speech."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array
from edge_ser.engines.statistics import statistics_of_vectors
from edge_ser.errors import AudioWarning
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.features import extract
from edge_ser.model.manifest import FLOAT_STEP
from edge_ser.prediction import speech_probability
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import progress
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.tables import select
from edge_ser_train.evaluate.conditions import RATE_HZ, command, random_of
from edge_ser_train.evaluate.evaluation import open_run_or_model
from edge_ser_train.metrics import area_under_roc

SOUNDS_A_KIND = 125


def _coloured(n: int, slope: float, rng: np.random.Generator) -> Float64Array:
    spectrum = np.fft.rfft(rng.standard_normal(n)) * np.maximum(1, np.arange(n // 2 + 1)) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, n)
    return np.asarray(noise / noise.std())


def _silence(n: int, rng: np.random.Generator) -> Float64Array:
    """A room of -75 to -55 dBFS."""
    return 10 ** (rng.uniform(-75, -55) / 20) * _coloured(n, rng.uniform(0.5, 2), rng)


def _noise(n: int, rng: np.random.Generator) -> Float64Array:
    """White, pink or brown."""
    return _coloured(n, float(rng.integers(0, 3)), rng)


def _rain(n: int, rng: np.random.Generator) -> Float64Array:
    """Noise that swells and sinks at random, slower than twice a second."""
    swell = np.interp(np.arange(n), np.arange(0, n + RATE_HZ, RATE_HZ // 2), rng.uniform(-12, 0, n // (RATE_HZ // 2) + 3))
    return np.asarray(_coloured(n, rng.uniform(0, 1), rng) * 10 ** (swell / 20))


def _tone(n: int, rng: np.random.Generator) -> Float64Array:
    return np.asarray(np.sin(2 * np.pi * rng.uniform(80, 4000) * np.arange(n) / RATE_HZ + rng.uniform(0, 6)))


def _sweep(n: int, rng: np.random.Generator) -> Float64Array:
    """A siren: a tone whose pitch goes up and down once or twice in three seconds."""
    t = np.arange(n) / RATE_HZ
    pitch_hz = rng.uniform(400, 900) * 2 ** (0.5 * np.sin(2 * np.pi * t * rng.uniform(0.2, 0.7)))
    return np.asarray(np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ) + 0.3 * np.sin(4 * np.pi * np.cumsum(pitch_hz) / RATE_HZ))


def _engine(n: int, rng: np.random.Generator) -> Float64Array:
    """A motor: harmonics of 25 to 120 Hz, all in phase, and noise."""
    t, pitch_hz = np.arange(n) / RATE_HZ, rng.uniform(25, 120)
    harmonics = np.arange(1, 30)[:, None]
    return np.asarray((np.cos(2 * np.pi * harmonics * pitch_hz * t) / harmonics).sum(axis=0) + 0.3 * _coloured(n, 1, rng))


def _music(n: int, rng: np.random.Generator) -> Float64Array:
    """Chords of three plucked strings (Karplus-Strong) twice a second, and a beat of noise."""
    from scipy.signal import lfilter

    sound, beat = np.zeros(n), RATE_HZ // 2
    root = rng.integers(40, 60)
    for start in range(0, n, beat):
        chord = root + rng.choice([0, 5, 7, 9]) + np.array([0, rng.choice([3, 4]), 7])
        for note in chord:
            period = int(RATE_HZ / (440 * 2 ** ((note - 69) / 12)))
            plucked = np.zeros(n - start)
            plucked[: min(period, n - start)] = rng.standard_normal(min(period, n - start))
            sound[start:] += lfilter([1], np.concatenate([[1], np.zeros(period - 1), [-0.497, -0.497]]), plucked)
        hit = min(RATE_HZ // 10, n - start)
        sound[start : start + hit] += rng.standard_normal(hit) * np.exp(-np.arange(hit) / 300)
    return sound


def _clicks(n: int, rng: np.random.Generator) -> Float64Array:
    """Keys: two to ten a second, each a few milliseconds of a resonance."""
    sound, rate = 1e-4 * rng.standard_normal(n), rng.uniform(2, 10)
    for at in np.cumsum(rng.exponential(RATE_HZ / rate, 200)).astype(int):
        length = min(400, n - at)
        if length > 0:
            t = np.arange(length) / RATE_HZ
            sound[at : at + length] += np.exp(-t * 800) * np.sin(2 * np.pi * rng.uniform(800, 4000) * t)
    return sound


SOUNDS: dict[str, Callable[[int, np.random.Generator], Float64Array]] = {
    "silence with a floor": _silence, "noise": _noise, "rain": _rain, "a tone": _tone, "a siren": _sweep, "a motor": _engine,
    "music": _music, "keys": _clicks,
}  # fmt: skip
"""Made sounds without speech. Training has its own (``edge_ser_train.method.outliers``), made in other ways."""


def made_sounds(kind: str) -> list[Float32Array]:
    """Return SOUNDS_A_KIND sounds of a kind, 1 to 5 s each, peaks of -40 to -1 dBFS but for silence; always the same."""
    found = []
    for i in range(SOUNDS_A_KIND):
        rng = np.random.default_rng([list(SOUNDS).index(kind), i])
        sound = SOUNDS[kind](int(rng.uniform(1, 5) * RATE_HZ), rng)
        if SOUNDS[kind] is not _silence:
            sound = sound * 10 ** (rng.uniform(-40, -1) / 20) / np.abs(sound).max()
        found.append(sound.astype(np.float32))
    return found


def rejection(path: Path, data: Path, corpus: str, split: str) -> list[dict[str, Any]]:
    """Return what is answered `no_speech`, and how well the probability of speech parts sound from these clips.

    A row each for the clips as recorded and as commands; for every kind of made sound and all of them; and for every other
    corpus below ``data``, whatever is felt in it.
    """
    subject, recognizer = open_run_or_model(path), None if path.is_dir() else EmotionRecognizer(path)

    def measured(name: str, sounds: list[Float32Array]) -> Float64Array:
        """Return the probability of speech of each sound."""
        if recognizer is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AudioWarning)  # they are made to be quiet
                return np.array([recognizer.predict((x, RATE_HZ)).speech for x in progress(sounds, name)])
        vectors = subject.encode([extract(x, subject.front_end) for x in progress(sounds, name)])
        return np.array([speech_probability(statistics_of_vectors(v, FLOAT_STEP), subject.speech, FLOAT_STEP) for v in vectors])

    def row(name: str, p: Float64Array) -> dict[str, Any]:
        no_speech = float(np.mean(p < subject.speech["threshold"]))
        return {"corpus": corpus, "split": split, "sound": name, "n": len(p), "no_speech": no_speech}

    clips = select(subject.training.read(data, corpus), split, subject.labels)
    recorded = [_samples(clip) for clip in clips]
    known = measured(f"{corpus} {split}", recorded)
    short = measured("commands", [command(x, random_of(c.key)) for x, c in zip(recorded, clips, strict=True)])
    made = {kind: measured(kind, made_sounds(kind)) for kind in SOUNDS}
    rows = [row("speech as recorded", known), row("speech as commands", short)]
    for kind, p in (*made.items(), ("all of these sounds", np.concatenate(list(made.values())))):
        rows.append(row(kind, p) | {"auc": area_under_roc(-p, -known)})
    others = sorted(folder.name for folder in data.iterdir() if (folder / "labels.csv").is_file() and folder.name != corpus)
    for name in others:
        rows.append(row(f"speech of {name}", measured(name, [_samples(clip) for clip in subject.training.read(data, name)])))
    return rows


def _samples(clip: Clip) -> Float32Array:
    with AudioReader(clip.path, RATE_HZ) as reader:
        return reader.samples()


def format_rejection(rows: list[dict[str, Any]]) -> str:
    """Return what :func:`rejection` found as a table."""
    lines = [f"{'':<24} {'n':>5}  {'no_speech':>9}  area under the ROC curve"]
    for row in rows:
        area = f"{row['auc']:>24.1%}" if "auc" in row else ""
        lines.append(f"{row['sound']:<24} {row['n']:>5}  {row['no_speech']:>9.1%}  {area}".rstrip())
    return "\n".join(lines)
