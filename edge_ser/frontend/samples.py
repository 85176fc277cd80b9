"""Samples in memory: which arrays are taken as audio, what their values mean, and how channels become one.

Shapes: (n,), (n, channels) with 1 to 64 channels, or (channels, n), as torchaudio gives it, where n is above 64: no array is
both. Values: int16 and int32 of full scale 2^15 and 2^31; float16, float32 and float64 of full scale 1.0; any byte order. All
other integers are refused, since nothing tells their full scale. Lists, and what converts itself by ``__array__`` (a CPU
tensor), are taken as the array they convert to.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.errors import AudioError, AudioWarning

MAX_CHANNELS = 64
_RATE_RANGE_HZ = (1000, 768_000)
_MAX_PEAK = 8.0  # decoded lossy audio overshoots 1.0 a little; int16 values in a float array overshoot it by far
_INTEGER_SCALE = {np.dtype(np.int16): 2.0**-15, np.dtype(np.int32): 2.0**-31}
_CUT_OFF_S = 0.01  # less is a header that counts otherwise
_QUIET_PEAK = 10 ** (-50 / 20)  # a hundred steps of 16 bits
_FLOAT32 = np.dtype(np.float32)
_FLOATS = (np.dtype(np.float16), _FLOAT32, np.dtype(np.float64))
_CANCELLED = 0.1  # of the power of an average of unrelated channels
_HEARD_S = 10.0
_HEARD_POWER = 1e-6  # -60 dB below full scale


def is_array(given: Any) -> bool:
    """Return whether ``given`` is an array, or converts itself to one."""
    return isinstance(given, (np.ndarray, list)) or hasattr(given, "__array__")


def checked_samples(given: Any) -> AnyArray:
    """Return samples (n,) or (n, channels) of an accepted dtype; AudioError for what are none, see the top of this module."""
    samples: AnyArray = given
    if not isinstance(given, np.ndarray):
        try:
            samples = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:  # a GPU tensor, one that needs a gradient, a ragged list
            reason = " ".join(str(error).split()).rstrip(".")
            raise AudioError(
                f"{type(given).__name__} gives no numpy array: {reason}; expected samples in main memory, such as a numpy array "
                "or tensor.detach().cpu()"
            ) from None
    dtype = samples.dtype.newbyteorder("=")
    if dtype not in _INTEGER_SCALE and dtype not in _FLOATS:
        raise AudioError(f"samples are {samples.dtype}; expected int16, int32, float16, float32 or float64")
    if samples.ndim not in (1, 2):
        raise AudioError(f"samples have shape {samples.shape}; expected (n,), (n, channels) or (channels, n)")
    if samples.ndim == 2:
        if 1 <= samples.shape[0] <= MAX_CHANNELS < samples.shape[1]:
            samples = samples.T
        if not 1 <= samples.shape[1] <= MAX_CHANNELS:
            raise AudioError(f"samples have shape {samples.shape}; expected (n, channels) with 1 to {MAX_CHANNELS} channels")
    return samples


def checked_rate(rate: Any, name: str) -> int:
    """Return the sampling rate of ``name`` in Hz; AudioError for an impossible one."""
    low, high = _RATE_RANGE_HZ
    whole = isinstance(rate, (int, np.integer)) or (isinstance(rate, (float, np.floating)) and float(rate).is_integer())
    if isinstance(rate, bool) or not whole or not low <= rate <= high:
        raise AudioError(f"{name} has a rate of {rate!r}; expected a whole number of Hz from {low} to {high}")
    return int(rate)


def are_small(samples: AnyArray) -> bool:
    """Return whether these are float32 samples and it is plain that none is NaN or beyond the highest peak."""
    return samples.dtype is _FLOAT32 and bool(np.dot(samples, samples) <= _MAX_PEAK**2)


def full_scale(samples: AnyArray) -> Float32Array:
    """Return samples of any accepted dtype as float32, integers divided by their full scale."""
    scale = _INTEGER_SCALE.get(samples.dtype.newbyteorder("="))
    floats: Float32Array
    if scale is not None:
        floats = np.multiply(samples, np.float32(scale), dtype=np.float32)
    else:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity and is refused as such
            floats = samples.astype(np.float32, copy=False)
    return floats


def mono(block: Float32Array, position: int, name: str) -> tuple[Float32Array, float]:
    """Return the channels' average, float32 [n], of a block that starts at sample ``position``, and its highest magnitude.

    AudioError if it is no audio.
    """
    average = block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32)
    peak = max(float(average.max()), -float(average.min()))
    if peak <= _MAX_PEAK:  # not true of NaN
        return average, peak
    rows = block if block.ndim == 1 else np.abs(block).max(axis=1)
    finite = np.isfinite(rows)
    if finite.all():
        raise AudioError(
            f"{name} has samples of magnitude {float(np.abs(block).max()):.6g}; float samples are expected within -1 to 1 "
            "(divide int16 values by 32768)"
        )
    first = position + int(np.argmin(finite))
    raise AudioError(f"{name} has NaN or infinite samples, the first at sample {first}; expected finite samples")


class ChannelBalance:
    """Warns with AudioWarning, once, when the channels of ``name`` cancel each other in their average.

    Judged over ten seconds at a time: a microphone wired the wrong way round leaves a hundredth of the speech, and the answer
    would be about that.
    """

    def __init__(self, name: str, rate_hz: int) -> None:
        self._name, self._enough = name, round(rate_hz * _HEARD_S)
        self._n, self._energy, self._average_energy, self._warned = 0, 0.0, 0.0, False

    def add(self, block: Float32Array, average: Float32Array) -> None:
        """Count a block, float32 [n, channels] or [n], and the channels' average [n]."""
        if block.ndim == 1 or block.shape[1] == 1 or self._warned:
            return
        self._n += len(block)
        self._energy += float(np.vdot(block, block))  # of all channels
        self._average_energy += block.shape[1] ** 2 * float(np.vdot(average, average))  # as much if they are unrelated
        if self._n >= self._enough:
            self.judge()

    def judge(self) -> None:
        """Warn if what was counted since the last time cancels."""
        if self._energy > _HEARD_POWER * self._n and self._average_energy < _CANCELLED * self._energy:
            self._warned = True
            warnings.warn(
                f"the channels of {self._name} cancel each other (opposite phase): the answer is about what little their average "
                "holds; give one channel alone, as ffmpeg's -af 'pan=mono|c0=c0' does",
                AudioWarning,
                stacklevel=2,
            )
        self._n, self._energy, self._average_energy = 0, 0.0, 0.0


def warn_if_quiet(name: str, peak: float) -> None:
    """Warn with AudioWarning when the loudest sample of ``name``, of full scale 1, is hardly more than the steps of 16 bits."""
    if 0 < peak < _QUIET_PEAK:
        warnings.warn(
            f"{name} is very quiet: its loudest sample lies at {20 * math.log10(peak):.0f} dB of full scale; the answer is about "
            "what little is left of the voice: raise the microphone's gain",
            AudioWarning,
            stacklevel=2,
        )


def warn_if_cut_off(name: str, duration_s: float, announced_times: float) -> None:
    """Warn with AudioWarning when ``name`` has ``duration_s``, and its header announces more: ``announced_times`` as much."""
    announced_s = duration_s * announced_times
    if announced_s >= duration_s + _CUT_OFF_S:
        whole = "its last page is missing" if math.isinf(announced_s) else f"its header announces {announced_s:.2f} s"
        warnings.warn(
            f"{name} is cut off: {whole}, {duration_s:.2f} s are there; the answer is about those: record or copy it again",
            AudioWarning,
            stacklevel=2,
        )
