"""Made sounds without speech, to judge by. Training has its own (``edge_ser_train.method.outliers``), made in other ways."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array
from edge_ser_train.evaluate.conditions import RATE_HZ

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


def _telephone(n: int, rng: np.random.Generator) -> Float64Array:
    """Two tones at once, on and off, as lines that ring or are busy have them."""
    pitches_hz = rng.choice([(350, 440), (480, 620), (425, 425), (440, 480), (400, 450)])
    on_s, off_s = rng.choice([(0.5, 0.5), (0.25, 0.25), (0.375, 0.375), (1, 0.6), (2, 1), (0.2, 0.3)])
    t = np.arange(n) / RATE_HZ
    heard = (t + rng.uniform(0, on_s + off_s)) % (on_s + off_s) < on_s
    return np.asarray(heard * np.sin(2 * np.pi * pitches_hz[:, None] * t).sum(axis=0) + 1e-4 * rng.standard_normal(n))


def _alarm(n: int, rng: np.random.Generator) -> Float64Array:
    """A harsh tone whose pitch goes up and down by an octave three to five times a second."""
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2.5, 5) * np.arange(n) / RATE_HZ)
    phase = 2 * np.pi * np.cumsum(rng.uniform(500, 800) * 2 ** (rng.uniform(0.8, 1.4) * swing)) / RATE_HZ
    return np.asarray(0.5 * np.sign(np.sin(phase)) + np.sin(phase) + 1e-3 * rng.standard_normal(n))


def _barks(n: int, rng: np.random.Generator) -> Float64Array:
    """A dog: hoarse pulses of .1 to .25 s whose pitch falls, through three resonances."""
    from scipy.signal import lfilter

    sound, at = 1e-3 * rng.standard_normal(n), int(rng.uniform(0, 0.3) * RATE_HZ)
    pitch_hz, peaks_hz = rng.uniform(250, 700), rng.uniform([500, 1200, 2200], [900, 2000, 3500])
    while at < n:
        u = np.linspace(0, 1, int(rng.uniform(0.09, 0.25) * RATE_HZ))
        bark = 2 * (np.cumsum(pitch_hz * (1.2 - 0.6 * u) * rng.uniform(0.9, 1.1)) / RATE_HZ % 1) - 1
        bark += 0.5 * rng.standard_normal(len(u))
        for peak_hz in peaks_hz:
            r = np.exp(-np.pi * 150 / RATE_HZ)
            bark = lfilter([1 - r], [1, -2 * r * np.cos(2 * np.pi * peak_hz / RATE_HZ), r * r], bark)
        bark *= rng.uniform(0.6, 1) / np.abs(bark).max() * np.sin(np.pi * u).clip(0) ** 0.5
        sound[at : at + len(u)] += bark[: n - at]
        at += len(u) + int(rng.uniform(0.1, 0.6) * RATE_HZ)
    return sound


def _tune(n: int, rng: np.random.Generator) -> Float64Array:
    """A melody of one voice with vibrato: a sine, a square, a saw or an organ."""
    scale, root, beat_s = np.array([0, 2, 4, 5, 7, 9, 11, 12]), rng.integers(55, 74), rng.uniform(0.15, 0.4)
    kind, step, notes = int(rng.integers(4)), 3, [np.zeros(0)]
    while sum(map(len, notes)) < n:
        step = int(np.clip(step + rng.integers(-2, 3), 0, 7))
        t = np.arange(int(beat_s * rng.choice([1, 1, 2]) * RATE_HZ)) / RATE_HZ
        turns = np.cumsum(440 * 2 ** ((root + scale[step] - 69) / 12) * (1 + 0.006 * np.sin(2 * np.pi * 5.5 * t))) / RATE_HZ
        sine = np.sin(2 * np.pi * turns)
        organ = sine + 0.5 * np.sin(4 * np.pi * turns) + 0.25 * np.sin(6 * np.pi * turns)
        wave = (sine, 0.5 * np.sign(sine), 2 * (turns % 1) - 1, organ)[kind]
        notes.append(wave * np.minimum(1, t / 0.02) * np.minimum(1, (t[-1] - t) / 0.03) * np.exp(-t * rng.uniform(0, 3)))
    return np.concatenate(notes)[:n] + 1e-3 * rng.standard_normal(n)


def _sweeps(n: int, rng: np.random.Generator) -> Float64Array:
    """A tone that runs through octaves again and again."""
    period_s, low_hz, high_hz = rng.uniform(0.2, 2), rng.uniform(100, 800), rng.uniform(1000, 5000)
    u = np.arange(n) / RATE_HZ % period_s / period_s
    u = 1 - u if rng.random() < 0.5 else u
    pitch_hz = low_hz * (high_hz / low_hz) ** u if rng.random() < 0.5 else low_hz + (high_hz - low_hz) * u
    return np.asarray(np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ) + 1e-3 * rng.standard_normal(n))


def _birds(n: int, rng: np.random.Generator) -> Float64Array:
    """Verses of chirps and trills of 2 to 6 kHz."""
    sound, at = 1e-3 * rng.standard_normal(n), 0
    while at < n:
        pitch_hz = rng.uniform(2000, 5500)
        for _ in range(int(rng.integers(1, 8))):
            t = np.arange(int(rng.uniform(0.03, 0.15) * RATE_HZ)) / RATE_HZ
            bend = rng.uniform(-0.3, 0.3) * t / t[-1] + 0.1 * np.sin(2 * np.pi * rng.uniform(10, 40) * t)
            chirp = np.sin(2 * np.pi * np.cumsum(pitch_hz * (1 + bend)) / RATE_HZ) * np.sin(np.pi * t / t[-1])
            sound[at : at + len(t)] += chirp[: max(0, n - at)]
            at += len(t) + int(rng.uniform(0.02, 0.08) * RATE_HZ)
        at += int(rng.uniform(0.1, 0.7) * RATE_HZ)
    return sound


def _dishes(n: int, rng: np.random.Generator) -> Float64Array:
    """Things struck one to six times a second, each ringing in three to eight modes."""
    sound = 1e-3 * rng.standard_normal(n)
    for at in np.cumsum(rng.exponential(RATE_HZ / rng.uniform(1.5, 6), 60)).astype(int):
        t, struck = np.arange(max(0, min(RATE_HZ // 2, n - at))) / RATE_HZ, rng.uniform(0.2, 1)
        for _ in range(int(rng.integers(3, 9))):
            ringing = np.exp(-t * rng.uniform(8, 60)) * np.sin(2 * np.pi * rng.uniform(900, 7000) * t)
            sound[at : at + len(t)] += struck * rng.uniform(0.2, 1) * ringing
    return sound


def _drill(n: int, rng: np.random.Generator) -> Float64Array:
    """A saw of a pitch that drifts, louder and softer up to nine times a second, in noise."""
    t = np.arange(n) / RATE_HZ
    turns = np.cumsum(rng.uniform(80, 300) * (1 + 0.15 * np.interp(t, np.arange(0, 7, 0.5), rng.uniform(-1, 1, 14)))) / RATE_HZ
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(1, 9) * t)
    return np.asarray((2 * (turns % 1) - 1) * beat + rng.uniform(0.1, 0.8) * _coloured(n, rng.uniform(0, 1), rng))


SOUNDS: dict[str, Callable[[int, np.random.Generator], Float64Array]] = {
    "silence with a floor": _silence, "noise": _noise, "rain": _rain, "a tone": _tone, "a siren": _sweep, "a motor": _engine,
    "music": _music, "keys": _clicks, "a telephone line": _telephone, "an alarm": _alarm, "barks": _barks, "a tune": _tune,
    "sweeps": _sweeps, "birds": _birds, "dishes": _dishes, "a drill": _drill,
}  # fmt: skip
"""The kinds by name."""


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
