"""What is answered about: speech-like sound of any length, or a recording of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_ser.arrays import AnyArray, Int16Array
from edge_ser.frontend.audio import AudioReader

RATE_HZ = 16000


@dataclass(frozen=True)
class Clip:
    """One recording to answer about."""

    path: Path
    seconds: float
    samples: AnyArray = field(repr=False)
    rate_hz: int


def speech_like(seconds: float) -> Int16Array:
    """Return a voice without words, the same one every time: vowels of a falling pitch in syllables, and breath; int16 [n].

    >>> len(speech_like(0.5))
    8000
    """
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch_hz = 120 + 25 * np.sin(2 * np.pi * 0.4 * t) - 8 * (t % 3)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    voice = np.zeros_like(t)
    for harmonic in range(1, 30):
        voice += np.sin(harmonic * phase) / (1 + 0.004 * (harmonic * 120 - 600 - 300 * np.sin(2 * np.pi * 1.3 * t)) ** 2 / 100)
    syllables = np.maximum(0, np.sin(2 * np.pi * 2.1 * t)) ** 0.5
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (8000 * (0.3 * voice * syllables + 0.01 * noise)).clip(-32767, 32767).astype(np.int16)


def write_clips(folder: Path, lengths_s: Sequence[float]) -> list[Clip]:
    """Write a WAV file of speech-like sound for every length; no model hears much in it, all take the time they always take."""
    import soundfile

    clips = []
    for seconds in lengths_s:
        samples, path = speech_like(seconds), folder / f"{seconds:g}s.wav"
        soundfile.write(path, samples, RATE_HZ, subtype="PCM_16")
        clips.append(Clip(path, len(samples) / RATE_HZ, samples, RATE_HZ))
    return clips


def read_clip(path: Path) -> Clip:
    """Take a recording of the user's own; AudioError if it is none."""
    with AudioReader(path) as reader:
        rate_hz = reader.source_rate_hz
    with AudioReader(path, rate_hz) as reader:
        return Clip(path, reader.duration_s, reader.samples(), rate_hz)
