"""What happens to recordings outside the studio: other levels, noise, a telephone line, codecs. Samples in, samples out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.frontend.containers import scratch
from edge_ser.frontend.features import LOGMEL_V1, extract_blocks

RATE_HZ = 16000


def level(samples: Float32Array, db: float) -> Float32Array:
    """Return samples [n] recorded ``db`` louder, without clipping: what a gain knob does."""
    return np.multiply(samples, 10 ** (db / 20), dtype=np.float32)


def add_pink_noise(samples: Float32Array, snr_db: float, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with noise of 1/f power at a signal-to-noise ratio over the whole clip."""
    spectrum = np.fft.rfft(rng.standard_normal(len(samples)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), len(samples))
    power, noise_power = np.mean(np.square(samples, dtype=np.float64)), np.mean(np.square(noise))
    noise *= np.sqrt(power / noise_power * 10 ** (-snr_db / 10))
    return (samples + noise).astype(np.float32)


def telephone(samples: Float32Array) -> Float32Array:
    """Return samples [n] after a narrow-band call: 8 kHz, 300 to 3400 Hz, mu-law in 8 bits (ITU-T G.711)."""
    import soxr
    from scipy.signal import butter, sosfilt

    narrow = soxr.resample(samples, RATE_HZ, RATE_HZ // 2)
    narrow = sosfilt(butter(4, (300, 3400), "bandpass", fs=RATE_HZ // 2, output="sos"), narrow)
    compressed = np.sign(narrow) * np.log1p(255 * np.minimum(1, np.abs(narrow))) / np.log(256)
    coded = np.rint(compressed * 127) / 127
    expanded = np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255
    back: Float32Array = soxr.resample(expanded.astype(np.float32), RATE_HZ // 2, RATE_HZ)[: len(samples)]
    return back


def coded(samples: Float32Array, kind: Literal["OPUS", "MPEG_LAYER_III"], level: float) -> Float32Array:
    """Return samples [n] after a codec at a compression level of libsndfile's, from 0 to 1, the smallest bit rate."""
    import soundfile

    container = "OGG" if kind == "OPUS" else "MP3"
    # A descriptor: of a Python file object, libsndfile's callbacks would swallow a Ctrl-C.
    with scratch([]) as file:
        soundfile.write(os.dup(file.fileno()), samples, RATE_HZ, format=container, subtype=kind, compression_level=level)
        file.seek(0)
        back: Float32Array = soundfile.read(os.dup(file.fileno()), dtype="float32")[0]
    return back


def quiet_ends(x: Float32Array) -> tuple[int, int]:
    """Return how many frames of features x [T, n_bins] (dB) lie before the speech, and how many behind it.

    Loudness is the mean over the bins but the lowest sixteenth, where rooms hum; speech is what exceeds a quarter of the way from
    the quiet (the 5th percentile) to the loud (the 95th).
    """
    loudness = x[:, x.shape[1] // 16 :].mean(axis=1)
    low, high = np.percentile(loudness, [5, 95])
    heard = np.flatnonzero(loudness >= low + 0.25 * (high - low))
    return int(heard[0]), int(len(x) - 1 - heard[-1])


def cut(samples: Float32Array) -> Float32Array:
    """Return samples [n] with 0.2 s of what lay around the speech: what a push of a button, or a hasty detector, leaves."""
    config = LOGMEL_V1
    before, behind = quiet_ends(extract_blocks([samples], len(samples), replace(config, max_frames=len(samples))))
    room = RATE_HZ // 5
    return samples[max(0, before * config.hop_samples - room) : len(samples) - max(0, behind * config.hop_samples - room)]


CONDITIONS: dict[str, Callable[[Float32Array, np.random.Generator], Float32Array]] = {
    "as recorded": lambda samples, rng: samples,
    "level +12 dB": lambda samples, rng: level(samples, 12),
    "level -12 dB": lambda samples, rng: level(samples, -12),
    "pink noise, 20 dB SNR": lambda samples, rng: add_pink_noise(samples, 20, rng),
    "telephone (8 kHz, G.711)": lambda samples, rng: telephone(samples),
    "Opus, 6 kbit/s": lambda samples, rng: coded(samples, "OPUS", 1.0),
    "Opus, 16 kbit/s": lambda samples, rng: coded(samples, "OPUS", 0.96),
    "MP3, 23 kbit/s": lambda samples, rng: coded(samples, "MPEG_LAYER_III", 0.9),
    "cut 0.2 s around the speech": lambda samples, rng: cut(samples),
}
