"""A profile of a microphone: what speech sounds like through it, and how to bring that to what the model was trained on.

    features of a few minutes of speech -> SpeechStatistics -> Profile (a small JSON file)
    Profile + the model's speech_mean, speech_std -> Correction: features' = features · gain + offset, per bin

A correction looks at one frame at a time, so a corrected stream equals the corrected whole utterance bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser.errors import ConfigError, did_you_mean
from edge_ser.features import FRONT_ENDS, LOGMEL_V1, FrontEndConfig

Float32Array = npt.NDArray[np.float32]

FORMAT = "edge-ser-profile"
FORMAT_VERSION = 1

SPEECH_RANGE_DB = 30.0
"""A frame counts as speech down to this far below the loudest frame."""
MIN_SPEECH_S = 10.0
"""Speech a profile must be measured on, in seconds; the mean of less depends on what was said."""
STD_RATIO_RANGE = (0.5, 2.0)
"""Bounds of the ratio of standard deviations where ``scale`` is on; a bin with nothing in it would give any."""

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

    >>> statistics = SpeechStatistics()
    >>> for level in (-40.0, -20.0):
    ...     statistics.add(np.full((600, 128), level, dtype=np.float32))
    >>> statistics.n_frames, float(statistics.mean[0]), float(statistics.std[0])
    (1200, -30.0, 10.0)
    >>> statistics.result().front_end
    'logmel-v1'
    """

    def __init__(self, front_end: FrontEndConfig = LOGMEL_V1) -> None:
        self.front_end = front_end
        self.n_frames = 0
        """Speech frames so far."""
        self._sum = np.zeros(front_end.n_bins, dtype=np.float64)
        self._squares = np.zeros(front_end.n_bins, dtype=np.float64)

    def add(self, features: Float32Array) -> None:
        """Count in the speech frames of one recording, features [T, n_bins] in dB.

        The loudest frame is looked for among these T, so hand a long recording over in stretches that each hold speech.
        """
        n_bins = self.front_end.n_bins
        if features.ndim != 2 or features.shape[1] != n_bins:
            raise ConfigError(
                f"features have shape {features.shape}; expected (T, {n_bins}), as {self.front_end.name} gives them"
            )
        speech = features[speech_frames(features, self.front_end)].astype(np.float64)
        self.n_frames += len(speech)
        self._sum += speech.sum(axis=0)
        self._squares += np.square(speech).sum(axis=0)

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

    def result(self, scale: bool = False) -> Profile:
        """Return the profile of the microphone; ConfigError when it heard too little speech, or none."""
        return Profile(self.front_end.name, self.mean, self.std, self.n_frames, scale)


@dataclass(frozen=True, eq=False)
class Correction:
    """What is done to every frame: features · gain + offset, float32."""

    offset: Float32Array
    """Added to every bin, in dB, [n_bins]."""
    gain: Float32Array | None = None
    """Multiplies every bin, [n_bins]; None: nothing does."""

    def apply(self, features: Float32Array, out: Float32Array | None = None) -> Float32Array:
        """Return the corrected features [T, n_bins]; ``out=features`` corrects in place.

        >>> Correction(np.array([3.0, -3.0], dtype=np.float32)).apply(np.zeros((1, 2), dtype=np.float32)).tolist()
        [[3.0, -3.0]]
        """
        if self.gain is None:
            return np.add(features, self.offset, out=out)
        scaled = np.multiply(features, self.gain, out=out)
        return np.add(scaled, self.offset, out=scaled)


@dataclass(frozen=True, eq=False)
class Profile:
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
    scale: bool = False
    """Whether a correction matches the standard deviation too, or the mean alone."""

    def __post_init__(self) -> None:
        front_end = FRONT_ENDS.get(self.front_end) if isinstance(self.front_end, str) else None
        if front_end is None:
            hint = did_you_mean(str(self.front_end), FRONT_ENDS)
            raise ConfigError(f"profile: front_end is {self.front_end!r}{hint}; expected one of {', '.join(FRONT_ENDS)}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.shape != (front_end.n_bins,):
                given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
                raise ConfigError(f"profile: {name} is {given}; expected float32 ({front_end.n_bins},) for {self.front_end}")
            if not (np.abs(values) <= _MAX_DB).all():  # also true of NaN
                raise ConfigError(f"profile: {name} holds NaN, infinity or numbers beyond {_MAX_DB:g} dB; expected levels in dB")
        if type(self.n_frames) is not int or type(self.scale) is not bool:
            raise ConfigError(
                f"profile: n_frames is {self.n_frames!r} and scale {self.scale!r}; expected a whole number and true or false"
            )
        seconds = self.n_frames * front_end.hop_samples / front_end.rate_hz
        if seconds < MIN_SPEECH_S:
            raise ConfigError(
                f"profile: measured on {seconds:.1f} s of speech; expected at least {MIN_SPEECH_S:g} s, better some minutes: "
                "record more"
            )
        if (self.std < 0).any():
            raise ConfigError("profile: std holds negative numbers; expected standard deviations in dB")
        if self.std.max() < _SILENT_STD_DB:
            raise ConfigError(
                f"profile: no bin varies by more than {self.std.max():.2g} dB; that is silence or a steady tone: "
                "check the microphone and record speech"
            )

    def correction(self, front_end: FrontEndConfig, speech_mean: Float32Array, speech_std: Float32Array) -> Correction:
        """Return what brings this microphone's speech to ``speech_mean`` and, where ``scale`` is on, ``speech_std``.

        Both are float32 [n_bins], in dB: the model's, which works on ``front_end``. ConfigError for another front end.

        features' = (features - mean) · g + speech_mean, with g = 1, or speech_std / std kept within 0.5 to 2.

        >>> mean, std = np.full(128, -50, dtype=np.float32), np.full(128, 8, dtype=np.float32)
        >>> profile = Profile("logmel-v1", mean, std, n_frames=3000)
        >>> float(profile.correction(LOGMEL_V1, mean + 12, std).offset[0])
        12.0
        """
        if front_end.name != self.front_end:
            raise ConfigError(
                f"the profile was measured with the front end {self.front_end}, the model works on {front_end.name}; "
                "measure a profile with the model's front end"
            )
        if not self.scale:
            return Correction(speech_mean - self.mean)
        # A bin that never varied has no ratio; the bound stands in for it.
        gain = np.clip(speech_std / np.maximum(self.std, np.float32(1e-3)), *STD_RATIO_RANGE).astype(np.float32)
        return Correction(speech_mean - self.mean * gain, gain)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile as JSON; a reader sees the old file or the new one, never half of it.

        Raises ConfigError when the file cannot be written.
        """
        path = Path(path)
        table = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        table |= {"mean": self.mean.tolist(), "std": self.std.tolist()}
        partial = path.parent / f".{path.name}.{os.getpid()}.tmp"
        try:
            partial.write_text(json.dumps(table, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write the profile {path}: {getattr(error, 'strerror', None) or error}") from None
        finally:
            with contextlib.suppress(OSError, ValueError):
                partial.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what :meth:`save` wrote; ConfigError says what was found and what was expected."""
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the profile {path}: {error.strerror or error}") from None
        except (ValueError, RecursionError):
            raise ConfigError(f"{path} is no JSON; expected a profile that edge-ser wrote") from None
        try:
            return cls._from_table(table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def _from_table(cls, table: Any) -> Profile:
        if not isinstance(table, dict) or table.pop("format", None) != FORMAT:
            raise ConfigError(f"format is not {FORMAT!r}; expected a profile that edge-ser wrote")
        version = table.pop("format_version", None)
        if type(version) is not int or version != FORMAT_VERSION:
            raise ConfigError(
                f"profile: format_version is {version!r}; this version of edge-ser reads {FORMAT_VERSION} (upgrade edge-ser?)"
            )
        names = {f.name for f in fields(cls)}
        odd = sorted(names ^ table.keys())
        if odd:
            raise ConfigError(f"profile: {odd[0]!r} is {'missing' if odd[0] in names else 'unknown'}; the file was edited")
        for name in ("mean", "std"):
            values = table[name]
            if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
                raise ConfigError(f"profile: {name} is no list of numbers; the file was edited")
            try:
                with np.errstate(over="ignore"):  # infinity, which is refused as such
                    table[name] = np.array(values, dtype=np.float32)
            except OverflowError:
                raise ConfigError(f"profile: {name} holds a number beyond all decibels; the file was edited") from None
        return cls(**table)
