"""What happens to recordings outside the studio: levels, rooms, noise, quiet ends, short parts, lines. Samples in, samples out.

Every function takes and returns mono float32 samples at 16 kHz; what is random comes from the generator it is given.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.frontend.containers import for_libsndfile, scratch
from edge_ser.frontend.features import LOGMEL_V1, extract
from edge_ser_train.method.sounds import quiet_ends

RATE_HZ = 16000


def level(samples: Float32Array, db: float) -> Float32Array:
    """Return samples [n] recorded ``db`` louder, without clipping: what a gain knob does."""
    return np.multiply(samples, 10 ** (db / 20), dtype=np.float32)


def coloured_noise(n_samples: int, exponent: float, rng: np.random.Generator, low_hz: float = 0) -> Float32Array:
    """Return noise [n_samples] whose power falls as 1 / f^exponent: 0 is white, 1 pink, 2 brown; none lies below ``low_hz``."""
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    spectrum *= np.maximum(1, np.arange(len(spectrum))) ** (-exponent / 2)
    spectrum[: round(n_samples * low_hz / RATE_HZ)] = 0
    return _float32(np.fft.irfft(spectrum, n_samples))


def add_noise(samples: Float32Array, noise: Float32Array, snr_db: float) -> Float32Array:
    """Return samples [n] with ``noise`` [n] at a signal-to-noise ratio over the whole clip."""
    gain = np.sqrt(_power(samples) / max(_power(noise), 1e-20) * 10 ** (-snr_db / 10))
    return _float32(samples + gain * noise)


def babble(samples: Float32Array, voices: Sequence[Float32Array], snr_db: float, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with six talkers, drawn from ``voices``, each over and over and each as loud as the others."""
    together = np.zeros(len(samples), dtype=np.float32)
    for which in rng.integers(len(voices), size=6):
        voice = voices[which]
        one = np.resize(np.roll(voice, rng.integers(len(voice))), len(samples))
        together += one / np.sqrt(max(_power(voice), 1e-20))
    return add_noise(samples, together, snr_db)


def in_room(samples: Float32Array, reverberation_s: float, direct_db: float, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with a room's tail, [n + m]: noise that falls by 60 dB in the reverberation time.

    ``direct_db`` is the power of the direct sound against that of the tail.
    """
    from scipy.signal import fftconvolve

    t = np.arange(1, round(RATE_HZ * reverberation_s)) / RATE_HZ
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / reverberation_s)
    tail *= np.sqrt(10 ** (-direct_db / 10) / np.square(tail).sum())
    return _float32(fftconvolve(samples, np.append(1, tail)))


def distant(samples: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] from across a room, as loud as before: reverberation time 0.6 s, direct-to-reverberant ratio -3 dB."""
    heard = in_room(samples, 0.6, -3, rng)[: len(samples)]
    return _float32(heard * np.sqrt(_power(samples) / max(_power(heard), 1e-20)))


def with_offset(samples: Float32Array, offset: float) -> Float32Array:
    """Return samples [n] at half their level, with a constant added: what a microphone's bias leaves."""
    return _float32(samples / 2 + offset)


def clipped(samples: Float32Array, share: float) -> Float32Array:
    """Return samples [n] cut off at a share of their peak, as loud as before at the peak: what too much gain does."""
    limit = share * np.abs(samples).max()
    return _float32(samples.clip(-limit, limit) / share)


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
    with io.BytesIO() if sys.platform == "win32" else scratch([]) as file:
        soundfile.write(for_libsndfile(file), samples, RATE_HZ, format=container, subtype=kind, compression_level=level)
        back: Float32Array = soundfile.read(for_libsndfile(file), dtype="float32")[0]
    return back


def speech_bounds(samples: Float32Array) -> tuple[int, int]:
    """Return at which sample the speech of samples [n] begins and at which it ends, by :func:`quiet_ends`."""
    config = replace(LOGMEL_V1, max_frames=len(samples))
    before, behind = quiet_ends(extract(samples, config))
    stop = min(len(samples), max(len(samples), config.min_samples) - behind * config.hop_samples)
    return min(before * config.hop_samples, stop - 1), stop


def cut(samples: Float32Array) -> Float32Array:
    """Return samples [n] with 0.2 s of what lay around the speech: what a push of a button, or a hasty detector, leaves."""
    start, stop = speech_bounds(samples)
    around = RATE_HZ // 5
    return samples[max(0, start - around) : stop + around]


def speech_part(samples: Float32Array, seconds: float, rng: np.random.Generator) -> Float32Array:
    """Return a random part of the speech of samples [n], so long or all there is."""
    start, stop = speech_bounds(samples)
    n = min(stop - start, round(RATE_HZ * seconds))
    begin = int(rng.integers(start, stop - n + 1))
    return samples[begin : begin + n]


def own_floor(samples: Float32Array, n_samples: int, rng: np.random.Generator) -> Float32Array:
    """Return noise [n_samples] with the level and the spectrum of the quietest tenth of a second of samples [n]."""
    from scipy.signal import fftconvolve

    width = min(len(samples), RATE_HZ // 10)
    energy = np.cumsum(np.append(0, np.square(samples, dtype=np.float64)))
    at = int(np.argmin(energy[width:] - energy[:-width]))
    quiet = samples[at : at + width]
    noise = fftconvolve(rng.standard_normal(n_samples + width - 1), quiet * np.hanning(width), mode="valid")
    return _float32(noise * np.sqrt(_power(quiet) / max(_power(noise), 1e-20)))


def between_floors(samples: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with 1 s of their own floor on both sides."""
    return np.concatenate([own_floor(samples, RATE_HZ, rng), samples, own_floor(samples, RATE_HZ, rng)])


def command(samples: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return what a device records of a short command: 0.4 to 1.3 s of the speech somewhere in 1.2 to 3.2 s of noise.

    Three times in five in a room: reverberation time 0.05 to 0.5 s, direct-to-reverberant ratio 0 to 12 dB. The noise is of any
    colour from white to brown above 50 Hz, 3 to 30 dB below the speech; the peak lies at -25 to 0 dB of full scale.
    """
    said = speech_part(samples, rng.uniform(0.4, 1.3), rng)
    n_said = len(said)
    power = _power(said)
    if rng.random() < 0.6:
        said = in_room(said, rng.uniform(0.05, 0.5), rng.uniform(0, 12), rng)
    heard = np.zeros(max(n_said, round(RATE_HZ * rng.uniform(1.2, 3.2))), dtype=np.float32)
    at = int(rng.integers(0, len(heard) - n_said + 1))
    heard[at : at + len(said)] = said[: len(heard) - at]
    noise = coloured_noise(len(heard), rng.uniform(0, 2), rng, low_hz=50)
    heard += noise * np.sqrt(power / _power(noise) * 10 ** (-rng.uniform(3, 30) / 10))
    return _float32(heard * (10 ** (rng.uniform(-25, 0) / 20) / max(np.abs(heard).max(), 1e-10)))


def lose_packets(samples: Float32Array, share: float, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with a share of their packets of 20 ms silent, two in a row on average (Gilbert's channel)."""
    packet = RATE_HZ // 50
    kept: Float32Array = samples.copy()
    lost = False
    for start in range(0, len(samples), packet):
        lost = rng.random() < (0.5 if lost else 0.5 * share / (1 - share))
        if lost:
            kept[start : start + packet] = 0
    return kept


def _float32(samples: AnyArray) -> Float32Array:
    floats: Float32Array = samples.astype(np.float32)
    return floats


def _power(samples: Float32Array) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


_SILENCE = np.zeros(RATE_HZ, dtype=np.float32)
AS_RECORDED = "as recorded"
BABBLE = "babble of six others, 10 dB SNR"
CONDITIONS: dict[str, Callable[[Float32Array, np.random.Generator], Float32Array]] = {
    AS_RECORDED: lambda samples, rng: samples,
    "command": command,
    "1 s of zeros behind": lambda samples, rng: np.concatenate([samples, _SILENCE]),
    "1 s of zeros on both sides": lambda samples, rng: np.concatenate([_SILENCE, samples, _SILENCE]),
    "1 s of its floor on both sides": between_floors,
    "cut 0.2 s around the speech": lambda samples, rng: cut(samples),
    "0.5 s of speech alone": lambda samples, rng: speech_part(samples, 0.5, rng),
    "level +12 dB": lambda samples, rng: level(samples, 12),
    "level -12 dB": lambda samples, rng: level(samples, -12),
    "level -40 dB": lambda samples, rng: level(samples, -40),
    "DC offset .05, half the level": lambda samples, rng: with_offset(samples, 0.05),
    "clipped at 20 % of the peak": lambda samples, rng: clipped(samples, 0.2),
    "distant microphone": distant,
    "pink noise, 20 dB SNR": lambda samples, rng: add_noise(samples, coloured_noise(len(samples), 1, rng), 20),
    "telephone (8 kHz, G.711)": lambda samples, rng: telephone(samples),
    "telephone, 10 % of packets lost": lambda samples, rng: lose_packets(telephone(samples), 0.1, rng),
    "Opus, 6 kbit/s": lambda samples, rng: coded(samples, "OPUS", 1.0),
    "Opus, 16 kbit/s": lambda samples, rng: coded(samples, "OPUS", 0.96),
    "MP3, 23 kbit/s": lambda samples, rng: coded(samples, "MPEG_LAYER_III", 0.9),
}


def under_conditions(samples: Float32Array, key: str, voices: Sequence[Float32Array]) -> dict[str, Float32Array]:
    """Return what a clip, samples [n], becomes under every condition; babble is made of ``voices``, other clips.

    ``key`` is what the clip is called: what is random depends on it alone, so every model hears the same.
    """
    changed = {name: change(samples, random_of(key)) for name, change in CONDITIONS.items()}
    return changed | {BABBLE: babble(samples, voices, 10, random_of(key))}


def random_of(key: str) -> np.random.Generator:
    """Return the random numbers of a clip by what it is called."""
    return np.random.default_rng(zlib.crc32(key.encode()))
