"""A microphone: what speech sounds like through it, and how to bring that nearer to what the model was trained on.

    features of a minute of speech -> SpeechStatistics -> Microphone, kept in a profile
    Microphone + the model's speech_mean, speech_std -> Correction: features' = features · gain + offset, per bin

A correction looks at one frame at a time, so a corrected stream equals the corrected whole utterance bit for bit.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edge_ser.errors import ConfigError, did_you_mean
from edge_ser.features import FRONT_ENDS, LOGMEL_V1, FrontEndConfig, bin_centres_hz

Float32Array = npt.NDArray[np.float32]
Speech = Literal["ordinary", "mixed"]
"""What was said into a microphone: everyday talk, or speech of every emotion in like parts, as models are trained on."""

SPEECH_RANGE_DB = 30.0
"""A frame counts as speech down to this far below the loudest frame."""
MIN_SPEECH_S = 10.0
"""Speech a microphone must be measured on, in seconds; the mean of less depends on what was said."""
STRETCH_S = 60
"""A recording is counted in stretches of this length, in seconds, so that the speech in one tells what its pauses are."""

STRENGTH = 0.5
"""Share of the way that a correction goes, in dB and in the logarithm of the spread.

A minute shows the microphone, but also who spoke and how: the whole way would take that away as well. Chosen on CREMA-D's dev
actors, as recorded and through simulated microphones."""
GAIN_RANGE = (0.5, 2.0)
"""Bounds of a correction's gain; a bin with nothing in it would give any."""
ORDINARY = ((0.0, 1000.0, 8000.0), (-0.4, -4.0, -2.7), (0.95, 0.77, 0.68))
"""Ordinary speech beside that of all emotions, at three frequencies in Hz: its level in dB, and the share of the spread it has.

Measured on the neutral speech of CREMA-D's training actors; straight lines between the three meet every bin within 1.1 dB."""

_MAX_DB = 1000.0
_SILENT_STD_DB = 1.0  # speech varies by 10 dB and more in most bins, digital silence and pure tones by next to nothing


def silence_db(front_end: FrontEndConfig) -> float:
    """Return the level, in dB, up to which a feature is digital silence: the front end's floor and its rounding.

    >>> round(silence_db(LOGMEL_V1), 1)
    -100.0
    """
    return 10 * math.log10(front_end.floor) + 1e-3


def speech_frames(features: Float32Array, front_end: FrontEndConfig = LOGMEL_V1) -> npt.NDArray[np.bool_]:
    """Return which frames of ``features`` [T, n_bins], in dB, hold speech: bool [T].

    Those whose mean over the bins lies within 30 dB of the loudest frame's and above digital silence.

    >>> speech_frames(np.array([[-20.0, -30.0], [-60.0, -70.0], [-45.0, -55.0]], dtype=np.float32)).tolist()
    [True, False, True]
    """
    if len(features) == 0:
        return np.zeros(0, dtype=np.bool_)
    level = features.mean(axis=1, dtype=np.float64)
    found: npt.NDArray[np.bool_] = (level >= level.max() - SPEECH_RANGE_DB) & (level > silence_db(front_end))
    return found


class SpeechStatistics:
    """Mean and standard deviation per bin over the speech frames of any number of recordings, in constant memory.

    Several threads may add to it. One made with a ``microphone`` goes on where that was measured.

    >>> statistics = SpeechStatistics()
    >>> for level in (-40.0, -20.0):
    ...     statistics.add(np.full((600, 128), level, dtype=np.float32))
    >>> statistics.n_frames, float(statistics.mean[0]), float(statistics.std[0])
    (1200, -30.0, 10.0)
    >>> again = SpeechStatistics(microphone=statistics.result())
    >>> again.n_frames, float(again.mean[0]), float(again.std[0])
    (1200, -30.0, 10.0)
    """

    def __init__(self, front_end: FrontEndConfig = LOGMEL_V1, microphone: Microphone | None = None) -> None:
        self.front_end = front_end
        self.n_frames = 0
        """Speech frames so far."""
        self._sum = np.zeros(front_end.n_bins, dtype=np.float64)
        self._squares = np.zeros(front_end.n_bins, dtype=np.float64)
        self._adding = threading.Lock()
        if microphone is not None:
            microphone.require(front_end)
            self.n_frames = microphone.n_frames
            mean, std = microphone.mean.astype(np.float64), microphone.std.astype(np.float64)
            self._sum += self.n_frames * mean
            self._squares += self.n_frames * (np.square(std) + np.square(mean))

    def add(self, features: Float32Array) -> None:
        """Count in the speech frames of one recording, features [T, n_bins] in dB.

        The loudest frame is looked for among these T; of a recording in pieces, a :class:`SpeechListener` takes care.
        """
        n_bins = self.front_end.n_bins
        if features.ndim != 2 or features.shape[1] != n_bins:
            raise ConfigError(
                f"features have shape {features.shape}; expected (T, {n_bins}), as {self.front_end.name} gives them"
            )
        speech = features[speech_frames(features, self.front_end)].astype(np.float64)
        with self._adding:
            self.n_frames += len(speech)
            self._sum += speech.sum(axis=0)
            self._squares += np.square(speech).sum(axis=0)

    @property
    def speech_s(self) -> float:
        """Length of the speech so far, in seconds."""
        return self.n_frames * self.front_end.hop_samples / self.front_end.rate_hz

    @property
    def mean(self) -> Float32Array:
        """Mean of every bin over the speech frames, in dB, float32 [n_bins]; ConfigError before there are any."""
        return self._mean().astype(np.float32)

    @property
    def std(self) -> Float32Array:
        """Standard deviation of every bin over the speech frames, in dB, float32 [n_bins]; ConfigError before there are any."""
        variance = self._squares / max(1, self.n_frames) - np.square(self._mean())
        std: Float32Array = np.sqrt(np.maximum(variance, 0)).astype(np.float32)
        return std

    def _mean(self) -> npt.NDArray[np.float64]:
        if self.n_frames == 0:
            raise ConfigError("no speech was found in the recordings: they are empty or digital silence; expected some speech")
        return self._sum / self.n_frames

    def result(self, speech: Speech = "ordinary") -> Microphone:
        """Return the microphone as ``speech`` showed it; ConfigError when that was too little, or none."""
        with self._adding:
            return Microphone(self.front_end.name, self.mean, self.std, self.n_frames, speech)


class SpeechListener:
    """One recording that comes in pieces, counted in stretches of a minute, in bounded memory.

    >>> statistics = SpeechStatistics()
    >>> listener = SpeechListener(statistics)
    >>> for level in (-40.0, -90.0):  # speech and a pause, which is none beside it
    ...     listener.push(np.full((600, 128), level, dtype=np.float32))
    >>> listener.flush()
    >>> statistics.n_frames
    600
    """

    def __init__(self, statistics: SpeechStatistics) -> None:
        self._statistics = statistics
        self._stretch_frames = STRETCH_S * statistics.front_end.rate_hz // statistics.front_end.hop_samples
        self._waiting: list[Float32Array] = []
        self._n_waiting = 0

    def push(self, features: Float32Array) -> None:
        """Take the next frames, [T, n_bins] in dB; they are kept, so hand over a copy of what is going to change."""
        self._waiting.append(features)
        self._n_waiting += len(features)
        if self._n_waiting >= self._stretch_frames:
            self.flush()

    def flush(self) -> None:
        """End the recording: count what waits."""
        if self._waiting:
            self._statistics.add(np.concatenate(self._waiting))
            self._waiting, self._n_waiting = [], 0


@dataclass(frozen=True, eq=False)
class Correction:
    """What is done to every frame: features · gain + offset, float32."""

    offset: Float32Array
    """Added to every bin, in dB, [n_bins]."""
    gain: Float32Array
    """Multiplies every bin, [n_bins]."""

    def apply(self, features: Float32Array, out: Float32Array | None = None) -> Float32Array:
        """Return the corrected features [T, n_bins]; ``out=features`` corrects in place.

        >>> ones = np.ones(2, dtype=np.float32)
        >>> Correction(offset=3 * ones, gain=2 * ones).apply(np.array([[0.0, -2.0]], dtype=np.float32)).tolist()
        [[3.0, -1.0]]
        """
        scaled = np.multiply(features, self.gain, out=out)
        return np.add(scaled, self.offset, out=scaled)


@dataclass(frozen=True, eq=False)
class Microphone:
    """What speech is like through one microphone, in one room; measured by :class:`SpeechStatistics`.

    Raises ConfigError when it cannot be one: an unknown front end, arrays of another type or length, values that are no
    decibels, less than 10 s of speech, or the statistics of silence.
    """

    front_end: str
    """Name of the front end it was measured with; it fits models of the same."""
    mean: Float32Array
    """Mean of every bin over the speech frames, in dB, float32 [n_bins]."""
    std: Float32Array
    """Standard deviation of every bin over the speech frames, in dB, float32 [n_bins]."""
    n_frames: int
    """Speech frames it was measured on."""
    speech: Speech = "ordinary"
    """What was said: the training speech is taken at the level and spread it has for such talk."""

    def __post_init__(self) -> None:
        front_end = FRONT_ENDS.get(self.front_end) if isinstance(self.front_end, str) else None
        if front_end is None:
            hint = did_you_mean(str(self.front_end), FRONT_ENDS)
            raise ConfigError(f"microphone: front_end is {self.front_end!r}{hint}; expected one of {', '.join(FRONT_ENDS)}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape != (front_end.n_bins,):
                given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
                raise ConfigError(f"microphone: {name} is {given}; expected float32 ({front_end.n_bins},) for {self.front_end}")
            if not (np.abs(values) <= _MAX_DB).all():  # also true of NaN
                raise ConfigError(
                    f"microphone: {name} holds NaN, infinity or numbers beyond {_MAX_DB:g} dB; expected levels in dB"
                )
        if type(self.n_frames) is not int or self.speech not in get_args(Speech):
            raise ConfigError(
                f"microphone: n_frames is {self.n_frames!r} and speech {self.speech!r}; expected a whole number, and "
                f"{' or '.join(get_args(Speech))}"
            )
        seconds = self.n_frames * front_end.hop_samples / front_end.rate_hz
        if seconds < MIN_SPEECH_S:
            raise ConfigError(
                f"microphone: measured on {seconds:.1f} s of speech; expected at least {MIN_SPEECH_S:g} s, better a minute: "
                "record more"
            )
        if (self.std < 0).any():
            raise ConfigError("microphone: std holds negative numbers; expected standard deviations in dB")
        if self.std.max() < _SILENT_STD_DB:
            raise ConfigError(
                f"microphone: no bin varies by more than {self.std.max():.2g} dB; that is silence or a steady tone: "
                "check the microphone and record speech"
            )

    def require(self, front_end: FrontEndConfig) -> None:
        """Raise ConfigError unless it was measured with ``front_end``."""
        if front_end.name != self.front_end:
            raise ConfigError(
                f"the microphone was measured with the front end {self.front_end}, the model works on {front_end.name}; "
                "measure it with the model's front end"
            )

    def expected(self, speech_mean: Float32Array, speech_std: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Return mean and standard deviation, float32 [n_bins] in dB, that such talk has in the model's training speech."""
        if self.speech == "mixed":
            return speech_mean, speech_std
        hz, level_db, share = ORDINARY
        bins_hz = bin_centres_hz(FRONT_ENDS[self.front_end])
        mean = speech_mean + np.interp(bins_hz, hz, level_db).astype(np.float32)
        return mean, speech_std * np.interp(bins_hz, hz, share).astype(np.float32)

    def correction(self, front_end: FrontEndConfig, speech_mean: Float32Array, speech_std: Float32Array) -> Correction:
        """Return what brings this microphone's speech nearer to the model's.

        ``speech_mean`` and ``speech_std``, float32 [n_bins] in dB, are those of the model, which works on ``front_end``;
        ConfigError for another front end. With the mean m and the deviation s that such talk has there:

        features' = (features - mean) · g + mean + STRENGTH · (m - mean), with g = (s / std)^STRENGTH kept within GAIN_RANGE.

        >>> mean, std = np.full(128, -50, dtype=np.float32), np.full(128, 8, dtype=np.float32)
        >>> microphone = Microphone("logmel-v1", mean, std, n_frames=3000, speech="mixed")
        >>> round(float(microphone.correction(LOGMEL_V1, mean + 10, std).offset[0]), 3)
        5.0
        """
        self.require(front_end)
        mean, std = self.expected(speech_mean, speech_std)
        # A bin that never varied has no ratio; the bound stands in for it.
        ratio = std / np.maximum(self.std, np.float32(1e-3))
        gain = np.clip(ratio ** np.float32(STRENGTH), *GAIN_RANGE).astype(np.float32)
        return Correction(self.mean * (1 - gain) + np.float32(STRENGTH) * (mean - self.mean), gain)
