"""What everyday devices hear of a clip: short pieces of speech, quiet ends, rooms, levels, codecs. Samples in, samples out.

Changes of features (``edge_ser_train.method.augment``) can't say these: a tail that rings on into the silence, digital zeros, a
quantiser. Every clip is heard a few times before training begins, and features are changed at every step on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.frontend.features import FrontEndConfig

RATE_HZ = 16000
_SILENCE = 1e-9


def quiet_ends(x: Float32Array) -> tuple[int, int]:
    """Return how many frames of features x [T, n_bins] (dB) lie before the speech, and how many behind it.

    Loudness is the mean over the bins but the lowest sixteenth, where rooms hum; speech is what exceeds a quarter of the way from
    the quiet (the 5th percentile) to the loud (the 95th).
    """
    loudness = x[:, x.shape[1] // 16 :].mean(axis=1)
    low, high = np.percentile(loudness, [5, 95])
    heard = np.flatnonzero(loudness >= low + 0.25 * (high - low))
    return int(heard[0]), int(len(x) - 1 - heard[-1])


def speech_span(x: Float32Array, front_end: FrontEndConfig) -> tuple[int, int]:
    """Return the first sample of the speech in features x [T, n_bins] (dB), and the one behind its last."""
    before, behind = quiet_ends(x)
    return before * front_end.hop_samples, (len(x) - 1 - behind) * front_end.hop_samples + front_end.frame_samples


def coloured_noise(n: int, rng: np.random.Generator) -> Float32Array:
    """Return n samples of noise, power 1: a slope of 0 to -9 dB an octave and a smooth random colour on top."""
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    colour = np.interp(np.linspace(0, 5, len(hz)), np.arange(6), rng.normal(0, 4, 6))
    shape = np.maximum(hz, 40) ** -rng.uniform(0, 1.5) * 10 ** (colour / 20)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * shape, n)
    scaled: Float32Array = (noise / noise.std()).astype(np.float32)
    return scaled


def reverberate(samples: Float32Array, decay_s: float, ratio_db: float, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] in a room: noise that decays by 60 dB in ``decay_s`` behind a direct path ``ratio_db`` stronger."""
    from scipy.signal import fftconvolve

    t = np.arange(1, int(decay_s * RATE_HZ) + 1) / RATE_HZ
    tail = rng.standard_normal(len(t)) * 10 ** (-3 * t / decay_s)
    tail *= 10 ** (-ratio_db / 20) / max(_SILENCE, float(np.linalg.norm(tail)))
    heard = fftconvolve(samples, np.concatenate([[1.0], tail]).astype(np.float32))[: len(samples)]
    return np.asarray(heard, dtype=np.float32)


def _piece(samples: Float32Array, span: tuple[int, int], rng: np.random.Generator) -> tuple[Float32Array, int, int]:
    """Return .4 to 1.3 s of the speech, and how many samples of room lie before and behind it: 1.2 to 3.2 s together."""
    start, stop = span
    n = min(int(rng.uniform(0.4, 1.3) * RATE_HZ), stop - start)
    first = int(rng.integers(start, stop - n + 1))
    piece = _faded(samples[first : first + n])
    room = max(0, int(rng.uniform(1.2, 3.2) * RATE_HZ) - len(piece))
    before = int(rng.integers(0, room + 1))
    return piece, before, room - before


def _ends(samples: Float32Array, span: tuple[int, int], rng: np.random.Generator) -> tuple[Float32Array, int, int]:
    """Return the speech with 0 to .25 s around it, and 0 to 1.4 s of room before and behind it, one time in three none."""
    near = [int(s * RATE_HZ) for s in rng.uniform(0, 0.25, 2)]
    piece = _faded(samples[max(0, span[0] - near[0]) : span[1] + near[1]])
    before, behind = (int(s * RATE_HZ) for s in rng.uniform(0, 1.4, 2) * (rng.random(2) < 2 / 3))
    return piece, before, behind


def _own_floor(samples: Float32Array, span: tuple[int, int], n: int, rng: np.random.Generator) -> Float32Array:
    """Return n samples of what samples [n] hold outside the speech in ``span``: grains of 60 ms, laid over each other by half.

    Zeros where there is less than a grain of it.
    """
    grain, half = RATE_HZ * 6 // 100, RATE_HZ * 3 // 100
    ends = [part for part in (samples[: span[0]], samples[span[1] :]) if len(part) > grain]
    floor = np.zeros(n + 2 * grain, dtype=np.float32)
    if ends:
        window = np.sin(np.pi * (np.arange(grain) + 0.5) / grain).astype(np.float32)  # powers of two halves sum to 1
        for at in range(0, n + grain, half):
            part = ends[int(rng.integers(len(ends)))]
            first = int(rng.integers(0, len(part) - grain))
            floor[at : at + grain] += window * part[first : first + grain] * rng.choice([-1, 1])
    return floor[grain : grain + n]


def _faded(piece: Float32Array) -> Float32Array:
    """Return samples [n] with edges of 5 ms faded, half a cosine."""
    piece, n = piece.copy(), min(RATE_HZ // 200, len(piece) // 2)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)).astype(np.float32)
    piece[:n] *= ramp
    piece[len(piece) - n :] *= ramp[::-1]
    return piece


def _floor(n: int, level: float, rng: np.random.Generator) -> Float32Array:
    """Return n samples of what a device hears beside the speech, whose level (root mean square) is ``level``."""
    kind, floor = rng.random(), np.zeros(n, dtype=np.float32)
    if kind < 0.25:
        return floor  # digital silence
    quiet_db = rng.uniform(3, 30) if kind < 0.75 else rng.uniform(30, 65)
    floor += level * 10 ** (-quiet_db / 20) * coloured_noise(n, rng)
    if rng.random() < 0.2:  # the mains, a fan
        pitch_hz, harmonics = rng.choice([50, 60, rng.uniform(80, 400)]), np.arange(1, int(rng.integers(2, 8)))[:, None]
        hum = np.sin(2 * np.pi * (pitch_hz * harmonics * np.arange(n) / RATE_HZ + rng.random(harmonics.shape)))
        floor += (level * 10 ** (-rng.uniform(10, 35) / 20) * (hum / harmonics).sum(axis=0)).astype(np.float32)
    if rng.random() < 0.25:  # a button, a table
        for _ in range(int(rng.integers(1, 4))):
            length = int(rng.uniform(0.002, 0.04) * RATE_HZ)
            at = int(rng.integers(0, max(1, n - length)))
            burst = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
            floor[at : at + length] += (level * 10 ** (rng.uniform(-15, 10) / 20) * burst[: n - at]).astype(np.float32)
    return floor


def _gain_control(samples: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] with their envelope compressed by a quarter to nine tenths: what automatic gain control does."""
    from scipy.signal import lfilter

    decay = np.exp(-1 / (rng.uniform(0.03, 0.6) * RATE_HZ))
    power = lfilter([1 - decay], [1, -decay], np.square(samples, dtype=np.float64))
    envelope = np.sqrt(np.maximum(power, 10 ** (-rng.uniform(20, 50) / 10) * power.max() + _SILENCE**2))
    changed: Float32Array = (samples * (envelope / envelope.max()) ** -rng.uniform(0.25, 0.9)).astype(np.float32)
    return changed


def _narrow_band(samples: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return samples [n] after 8 kHz and mu-law, one time in three with up to a tenth of its packets of 20 ms lost."""
    import soxr

    narrow = soxr.resample(samples, RATE_HZ, RATE_HZ // 2)
    peak = max(_SILENCE, float(np.abs(narrow).max()))
    loudest = peak / rng.uniform(0.05, 1)
    compressed = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / loudest) / np.log(256)
    coded = np.rint(compressed * 127) / 127
    expanded = loudest * np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255
    if rng.random() < 1 / 3:
        lost = np.repeat(rng.random(-(-len(expanded) // 160)) < rng.uniform(0, 0.1), 160)[: len(expanded)]
        expanded[lost] = 0
    back: Float32Array = soxr.resample(expanded.astype(np.float32), RATE_HZ // 2, RATE_HZ)
    return np.resize(back, len(samples)) if len(back) < len(samples) else back[: len(samples)]


def heard_elsewhere(
    samples: Float32Array, span: tuple[int, int], others: Sequence[Float32Array], rng: np.random.Generator
) -> Float32Array:
    """Return a clip's samples [n], whose speech lies in ``span``, as an everyday device might have heard them.

    Half the time that is a short piece of the speech, a third of the time all of it with other ends, else the whole clip. One
    time in four the ends are the clip's own floor. Then come a room, another floor, voices of ``others``, gain control, clipping,
    a narrow band and a level.
    """
    kind = rng.random()
    if kind < 0.5:
        piece, before, behind = _piece(samples, span, rng)
    elif kind < 0.85:
        piece, before, behind = _ends(samples, span, rng)
    else:
        piece, before, behind = samples, 0, 0
    level = max(_SILENCE, float(np.sqrt(np.mean(np.square(piece, dtype=np.float64)))))
    own_floor = rng.random() < 0.25
    if own_floor:
        ends = [_own_floor(samples, span, n, rng) for n in (before, behind)]
    else:
        ends = [np.zeros(n, dtype=np.float32) for n in (before, behind)]
    sound = np.concatenate([ends[0], piece, ends[1]])
    if rng.random() < 0.6:
        if rng.random() < 0.75:
            sound = reverberate(sound, rng.uniform(0.05, 0.5), rng.uniform(0, 12), rng)
        else:
            sound = reverberate(sound, rng.uniform(0.2, 0.9), rng.uniform(-6, 6), rng)
    if not own_floor and (kind < 0.85 or rng.random() < 0.4):
        sound = sound + _floor(len(sound), level, rng)
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(1, 6))):
            other = others[int(rng.integers(len(others)))]
            other = np.roll(np.resize(other, len(sound)), int(rng.integers(len(sound))))
            loudness = max(_SILENCE, float(np.sqrt(np.mean(np.square(other, dtype=np.float64)))))
            sound = sound + np.float32(level / loudness * 10 ** (-rng.uniform(12, 30) / 20)) * other
    if rng.random() < 0.15:
        sound = _gain_control(sound, rng)
    peak = max(_SILENCE, float(np.abs(sound).max()))
    if rng.random() < 0.1:
        sound = np.clip(sound, -peak * (limit := rng.uniform(0.15, 0.8)), peak * limit)
    if rng.random() < 0.15:
        sound = _narrow_band(sound, rng)
    peak = max(_SILENCE, float(np.abs(sound).max()))
    peak_db = rng.uniform(-25, 0) if rng.random() < 0.85 else rng.uniform(-60, -25)
    scaled = sound * (10 ** (peak_db / 20) / peak)
    heard = scaled.astype(np.float32)
    return np.asarray(np.rint(heard * 32768) / 32768 if rng.random() < 0.7 else heard, dtype=np.float32)
