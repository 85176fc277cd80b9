"""A microphone: what speech looks like to the network through it, and how to bring that nearer to its training.

    features of a minute of speech -> SpeechStatistics, with the model's encoder -> Microphone, kept in a profile
    Microphone + the model's speech_vector, ordinary_vector -> an offset that the engine adds to every encoder vector

With the model that ships a minute of others' talk brings 3.6 points of UA on nEMO, and nothing shown on RAVDESS or at home.
A microphone, a room and a language move the encoder's vectors as a whole; that move is what is taken back. It is constant, so a
calibrated stream answers what the calibrated whole utterance answers, bit for bit, in the same time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edge_ser.arrays import BoolArray, Float32Array, Float64Array, UInt16Array
from edge_ser.errors import ConfigError
from edge_ser.frontend.features import LOGMEL_V1, FrontEndConfig
from edge_ser.geometry import ENCODER_FRAMES, ENCODER_STRIDE

Speech = Literal["ordinary", "mixed"]
"""What was said into a microphone: everyday talk, or speech of every emotion in like parts, as models are trained on."""

SPEECH_RANGE_DB = 30.0
"""A frame counts as speech down to this far below the loudest frame."""
MARGIN_S = 0.4
"""Room before and behind speech that counts as part of it, in seconds: what the Segmenter leaves around an utterance."""
MIN_SPEECH_S = 10.0
"""Speech a microphone must be measured on, in seconds; the mean of less depends on what was said."""
PIECE_VECTORS = 16
"""Encoder vectors, 0.16 s each, that are judged for speech together: of much fewer a model's detector is less sure."""
STRETCH_S = 60
"""A recording is counted in stretches of this length, in seconds, so that the speech in one tells what its pauses are."""

STRENGTH = 0.75
"""Share of the way that a calibration goes.

A minute shows the microphone, but also who spoke and how: the whole way would take that away as well. Chosen on CREMA-D's dev
actors, as recorded and through simulated microphones."""

_SILENT_STD_DB = 1.0  # speech varies by 10 dB and more in most bins, digital silence and pure tones by next to nothing
_MAX_VALUE = 1e6  # of an encoder vector's; real ones stay below 100


def silence_db(front_end: FrontEndConfig) -> float:
    """Return the level, in dB, up to which a feature is digital silence: the front end's floor and its rounding.

    >>> round(silence_db(LOGMEL_V1), 1)
    -100.0
    """
    return 10 * math.log10(front_end.floor) + 1e-3


def speech_frames(features: Float32Array, front_end: FrontEndConfig = LOGMEL_V1) -> BoolArray:
    """Return which frames of ``features`` [T, n_bins], in dB, hold speech: bool [T].

    Those whose mean over the bins lies within 30 dB of the loudest frame's and above digital silence.

    >>> speech_frames(np.array([[-20.0, -30.0], [-60.0, -70.0], [-45.0, -55.0]], dtype=np.float32)).tolist()
    [True, False, True]
    """
    if len(features) == 0:
        return np.zeros(0, dtype=np.bool_)
    level = features.mean(axis=1, dtype=np.float64)
    found: BoolArray = (level >= level.max() - SPEECH_RANGE_DB) & (level > silence_db(front_end))
    return found


def speech_vectors(features: Float32Array, front_end: FrontEndConfig = LOGMEL_V1) -> BoolArray:
    """Return which encoder vectors of ``features`` [T, n_bins], in dB, stand for speech: bool [N].

    Those at least half of whose 49 frames lie within ``MARGIN_S`` of a frame of speech. What is judged is utterances with some
    room around them, so that room counts, and longer pauses do not.

    >>> features = np.full((161, 128), -20, dtype=np.float32)
    >>> features[40:] = -90
    >>> speech_vectors(features).tolist()
    [True, True, True, True, False, False, False, False]
    """
    if len(features) < ENCODER_FRAMES:
        return np.zeros(0, dtype=np.bool_)
    margin = round(MARGIN_S * front_end.rate_hz / front_end.hop_samples)
    near = np.convolve(speech_frames(features, front_end), np.ones(2 * margin + 1))[margin : margin + len(features)] > 0.5
    so_far = np.concatenate([[0], near.cumsum()])
    starts = np.arange(0, len(features) - ENCODER_FRAMES + 1, ENCODER_STRIDE)
    found: BoolArray = so_far[starts + ENCODER_FRAMES] - so_far[starts] > ENCODER_FRAMES / 2
    return found


@dataclass(frozen=True)
class Encoder:
    """The part of a model that a microphone is measured with."""

    front_end: FrontEndConfig
    weights_sha256: str
    """Of the training run; files of the same run share a profile."""
    size: int
    """Length of an encoder vector."""
    vectors: Callable[[Float32Array], Float32Array]
    """Encoder vectors [N, size] of features [T, n_bins], T >= 49."""


class SpeechStatistics:
    """What an encoder makes of the speech in any number of recordings, in constant memory.

    :meth:`edge_ser.EmotionRecognizer.statistics` makes one.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.n_frames = 0
        """Speech frames added so far."""
        self.n_vectors = 0
        """Encoder vectors that stand for speech."""
        self._sum = np.zeros(encoder.front_end.n_bins, dtype=np.float64)
        self._squares = np.zeros(encoder.front_end.n_bins, dtype=np.float64)
        self._vector_sum = np.zeros(encoder.size, dtype=np.float64)
        self._vector_squares = np.zeros(encoder.size, dtype=np.float64)

    def add(self, features: Float32Array, vectors: Float32Array | None = None) -> None:
        """Count in the speech of one recording, features [T, n_bins] in dB, and its encoder vectors where they are known.

        The loudest frame is looked for among these T; of a recording in pieces, a :class:`SpeechListener` takes care.
        """
        front_end = self.encoder.front_end
        if features.ndim != 2 or features.shape[1] != front_end.n_bins:
            raise ConfigError(
                f"features have shape {features.shape}; expected (T, {front_end.n_bins}), as {front_end.name} gives them"
            )
        speech = features[speech_frames(features, front_end)].astype(np.float64)
        count = speech_vectors(features, front_end)
        if vectors is None:
            none = np.empty((len(count), self.encoder.size), dtype=np.float32)
            vectors = self.encoder.vectors(features) if count.any() else none
        self._count(speech, vectors[count])

    def _count(self, speech: Float64Array, vectors: Float32Array) -> None:
        self.n_frames += len(speech)
        self._sum += speech.sum(axis=0)
        self._squares += np.square(speech).sum(axis=0)
        self.n_vectors += len(vectors)
        self._vector_sum += vectors.sum(axis=0, dtype=np.float64)
        self._vector_squares += np.square(vectors, dtype=np.float64).sum(axis=0)

    def include(self, other: SpeechStatistics) -> None:
        """Count in what another one of the same encoder has counted."""
        self.n_frames += other.n_frames
        self.n_vectors += other.n_vectors
        self._sum += other._sum
        self._squares += other._squares
        self._vector_sum += other._vector_sum
        self._vector_squares += other._vector_squares

    @property
    def speech_s(self) -> float:
        """Length of the speech added so far, in seconds."""
        return self.n_frames * self.encoder.front_end.hop_samples / self.encoder.front_end.rate_hz

    @property
    def vector_s(self) -> float:
        """Length of the speech that encoder vectors stand for, in seconds."""
        return self.n_vectors * ENCODER_STRIDE * self.encoder.front_end.hop_samples / self.encoder.front_end.rate_hz

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

    @property
    def vector(self) -> Float32Array:
        """Mean encoder vector of the speech, float32 [size]; zero before there is one."""
        mean: Float32Array = (self._vector_sum / max(1, self.n_vectors)).astype(np.float32)
        return mean

    def over_time(self, step: float) -> UInt16Array:
        """Return mean and standard deviation of the speech's encoder vectors in units of ``step``, [2 · size].

        It is what a model's speech detector judges an utterance by; zero before there is a vector.
        """
        n = max(1, self.n_vectors)
        mean = self._vector_sum / n
        std = np.sqrt(np.maximum(self._vector_squares / n - np.square(mean), 0))
        found: UInt16Array = np.rint(np.concatenate([mean, std]) / step).clip(0, 65535).astype(np.uint16)
        return found

    def _mean(self) -> Float64Array:
        if self.n_frames == 0:
            raise ConfigError("no speech was found in the recordings: they are empty or digital silence; expected some speech")
        return self._sum / self.n_frames

    def result(self, speech: Speech = "ordinary") -> Microphone:
        """Return the microphone as ``speech`` showed it; ConfigError when that was too little, or none."""
        widest = float(self.std.max())
        if widest < _SILENT_STD_DB:
            raise ConfigError(
                f"microphone: no bin varies by more than {widest:.2g} dB; that is silence or a steady tone: "
                "check the microphone and record speech"
            )
        return Microphone(self.encoder.weights_sha256, self.vector, self.n_vectors, speech)


class SpeechListener:
    """One recording that comes in pieces, counted in stretches of a minute, in bounded memory.

    ``is_speech`` judges every 2.6 s of what is loud enough: what is none, such as noise and tones, is counted in ``rest``.

    >>> from edge_ser import EmotionRecognizer
    >>> statistics, rest = (EmotionRecognizer().statistics() for _ in range(2))
    >>> listener = SpeechListener(statistics, rest, lambda piece: True)
    >>> for level in (-40.0, -90.0):  # speech and a pause, which is none beside it
    ...     listener.push(np.full((600, 128), level, dtype=np.float32))
    >>> listener.flush()
    >>> statistics.n_frames, rest.n_frames
    (600, 0)
    """

    def __init__(
        self, statistics: SpeechStatistics, rest: SpeechStatistics, is_speech: Callable[[SpeechStatistics], bool]
    ) -> None:
        self._statistics, self._rest, self._is_speech = statistics, rest, is_speech
        front_end = statistics.encoder.front_end
        self._stretch_frames = STRETCH_S * front_end.rate_hz // front_end.hop_samples
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
            for piece in _pieces(np.concatenate(self._waiting), self._statistics.encoder):
                (self._statistics if self._is_speech(piece) else self._rest).include(piece)
            self._waiting, self._n_waiting = [], 0


def _pieces(features: Float32Array, encoder: Encoder) -> Iterator[SpeechStatistics]:
    """Yield the statistics of about every ``PIECE_VECTORS`` encoder vectors in a row that stand for speech, and of its frames."""
    found = np.flatnonzero(speech_vectors(features, encoder.front_end))
    if len(found) == 0:
        return
    speech, vectors = speech_frames(features, encoder.front_end), encoder.vectors(features)
    pieces = np.array_split(found, max(1, round(len(found) / PIECE_VECTORS)))
    starts = [0, *((piece[0] + 1) * ENCODER_STRIDE for piece in pieces[1:]), len(features)]  # the middle of its first 49 frames
    for piece, start, end in zip(pieces, starts, starts[1:], strict=False):
        statistics = SpeechStatistics(encoder)
        statistics._count(features[start:end][speech[start:end]].astype(np.float64), vectors[piece])
        yield statistics


@dataclass(frozen=True, eq=False)
class Microphone:
    """What speech looks like to one model through one microphone, in one room; measured by :class:`SpeechStatistics`.

    Raises ConfigError when it cannot be one: arrays of another type, values that are no encoder vector's, or less than 10 s
    of speech.
    """

    weights_sha256: str
    """The model it was measured with."""
    vector: Float32Array
    """Mean encoder vector of the speech, float32 [encoder_size]."""
    n_vectors: int
    """How many those were, one every 0.16 s."""
    speech: Speech = "ordinary"
    """What was said: the training speech is taken as its encoder vectors are in such talk."""

    def __post_init__(self) -> None:
        if not isinstance(self.weights_sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.weights_sha256):
            raise ConfigError(f"microphone: weights_sha256 is {self.weights_sha256!r}; expected 64 hexadecimal digits")
        values = self.vector
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 1:
            given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
            raise ConfigError(f"microphone: vector is {given}; expected float32 (encoder_size,)")
        if not ((values >= 0) & (values <= _MAX_VALUE)).all():  # also true of NaN
            raise ConfigError(
                f"microphone: vector holds NaN, negative numbers or some beyond {_MAX_VALUE:g}; expected an encoder vector"
            )
        if type(self.n_vectors) is not int or self.speech not in get_args(Speech):
            raise ConfigError(
                f"microphone: n_vectors is {self.n_vectors!r} and speech {self.speech!r}; expected a whole number, and "
                f"{' or '.join(get_args(Speech))}"
            )
        seconds = self.n_vectors * ENCODER_STRIDE * LOGMEL_V1.hop_samples / LOGMEL_V1.rate_hz
        if seconds < MIN_SPEECH_S:
            raise ConfigError(
                f"microphone: measured on {seconds:.1f} s of speech; expected at least {MIN_SPEECH_S:g} s, better a minute: "
                "record more"
            )

    def require(self, weights_sha256: str, size: int) -> None:
        """Raise ConfigError unless it was measured with the model that has these weights."""
        if weights_sha256 != self.weights_sha256:
            raise ConfigError(
                f"the microphone was measured with another model (weights {self.weights_sha256[:12]}…, this model's are "
                f"{weights_sha256[:12]}…); measure it with this one: edge-ser calibrate"
            )
        if self.vector.shape != (size,):
            raise ConfigError(f"microphone: vector has {len(self.vector)} numbers; expected {size}; the file was edited")

    def offset(self, speech_vector: Float32Array, ordinary_vector: Float32Array) -> Float32Array:
        """Return what brings encoder vectors from here nearer to the training set's, float32 [encoder_size].

        ``speech_vector`` and ``ordinary_vector`` are the mean encoder vectors of the training speech and of its ordinary part:

        offset = STRENGTH · (m - vector), with m the one that fits :attr:`speech`.

        >>> zero, one = np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.float32)
        >>> Microphone(64 * "0", one, 100, "mixed").offset(speech_vector=zero, ordinary_vector=one).tolist()
        [-0.75, -0.75]
        """
        aim = ordinary_vector if self.speech == "ordinary" else speech_vector
        offset: Float32Array = np.float32(STRENGTH) * (aim - self.vector)
        return offset
