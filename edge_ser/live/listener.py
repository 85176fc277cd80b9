"""Live audio in, what happened out: the recogniser, the segmenter and the tone behind one ``feed``.

    Captured -> Segmenter -> SpeechStart, SpeechAudio, SpeechEnd -> Stream -> Estimate, UtteranceEvent -> ToneTracker -> ToneEvent

Events are what `edge-ser listen --jsonl` prints, one object a line (``Event.record()``); :data:`SCHEMA_VERSION` is their version.
Keys are only ever added within a version. All times ending in ``_s`` are seconds of audio since the beginning.

    ready         schema, version, model, labels, source, rate_hz
    speech_start  start_s: somebody has begun to speak there
    estimate      label, confidence, probabilities, speech, duration_s: of the utterance so far
    utterance     as estimate, of the whole; start_s, stop_s, cut, latency_ms (from the end of the speech to this answer),
                  compute_ms (from the arrival of the last audio it took to this answer)
    tone          label, confidence, probabilities: how the voice sounds of late, told when it changes
    overrun       overruns: how often audio was lost so far; told once a second at most
    end           reason (`ended`, `interrupted` or what went wrong), utterances, overruns

Every event begins with ``event``, its name, and ``time_s``, the audio heard so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy.typing as npt

from edge_ser.errors import ConfigError, EdgeSerError
from edge_ser.live.capture import Captured
from edge_ser.live.segmenter import RATE_HZ, Segmenter, SegmenterConfig, SpeechAudio, SpeechDetector, SpeechEvent, SpeechStart
from edge_ser.live.tone import ToneConfig, ToneTracker
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer

SCHEMA_VERSION = 2

_OVERRUN_S = 1.0


@dataclass(frozen=True)
class Event:
    """Something happened."""

    name: ClassVar[str]
    time_s: float
    """Audio heard so far, in seconds."""

    def record(self) -> dict[str, Any]:
        """Return the event as it is printed: the object of one line of JSON, numbers with six decimals."""
        table: dict[str, Any] = {"event": self.name}
        for field in fields(self):
            value = getattr(self, field.name)
            table |= value.record() if isinstance(value, Prediction) else {field.name: _rounded(value)}
        return table


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return round(value, 6) if isinstance(value, float) else value


@dataclass(frozen=True)
class Ready(Event):
    """The source is open; audio follows."""

    name = "ready"
    schema: int
    """:data:`SCHEMA_VERSION`"""
    version: str
    """Of edge-ser."""
    model: str
    """Path of the model file."""
    labels: tuple[str, ...]
    """The emotions, in the model's order."""
    source: str
    """The microphone's name, ``standard input`` or the recording's path."""
    rate_hz: int
    """Sampling rate of the source, in Hz."""


@dataclass(frozen=True)
class SpeechStarted(Event):
    """Somebody has begun to speak."""

    name = "speech_start"
    start_s: float
    """Where the utterance begins, pre-roll included."""


@dataclass(frozen=True)
class Estimate(Event):
    """How the utterance sounds so far."""

    name = "estimate"
    prediction: Prediction


@dataclass(frozen=True)
class UtteranceAnswered(Event):
    """How the utterance sounded."""

    name = "utterance"
    start_s: float
    stop_s: float
    cut: bool
    """Whether it was cut at the longest length and the speech goes on."""
    prediction: Prediction
    latency_ms: float
    """From the end of the speech to this answer: the hangover and what follows."""
    compute_ms: float
    """From the arrival of the last audio this answer needed: the part of the latency this device is responsible for."""


@dataclass(frozen=True)
class ToneChanged(Event):
    """How the voice sounds of late has changed."""

    name = "tone"
    label: str
    confidence: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Overrun(Event):
    """Audio was lost: the device, or this program, was too slow."""

    name = "overrun"
    overruns: int
    """How often so far."""


@dataclass(frozen=True)
class Ended(Event):
    """Nothing follows."""

    name = "end"
    reason: str
    """``ended``, ``interrupted``, or what went wrong."""
    utterances: int
    overruns: int


class Listener:
    """One microphone's listener: feed it audio, it returns the events.

    Args:
        recognizer: may serve several listeners.
        rate_hz: rate of the audio, in Hz.
        segmenter: when an utterance begins and ends.
        tone: how readily the tone changes.
        estimate_s: speech between two estimates on the way, in seconds. Shorter: the bars follow sooner, at more CPU time.
        detector: tells speech from silence; None is Silero VAD, of the extra `[vad]`.

    >>> import numpy as np
    >>> recognizer = EmotionRecognizer()
    >>> listener = Listener(recognizer, detector=lambda windows: np.abs(windows).max(axis=1) > 0.01)
    >>> tone = 0.1 * np.sin(np.arange(32000, dtype=np.float32))
    >>> events = listener.feed(np.concatenate([tone, np.zeros(16000, np.float32)]))
    >>> [event.name for event in events if event.name != "tone"]
    ['speech_start', 'estimate', 'estimate', 'estimate', 'utterance']
    """

    def __init__(
        self,
        recognizer: EmotionRecognizer,
        rate_hz: float = RATE_HZ,
        segmenter: SegmenterConfig | None = None,
        tone: ToneConfig | None = None,
        estimate_s: float = 0.5,
        detector: SpeechDetector | None = None,
    ) -> None:
        if not 0.1 <= estimate_s <= 60:
            raise ConfigError(f"estimate_s is {estimate_s}; expected 0.1 to 60 s")
        self.recognizer = recognizer
        self.segmenter = Segmenter(rate_hz, segmenter, detector)
        self.tracker = ToneTracker(tone)
        self.overruns = 0
        """How often audio was lost so far."""
        self.utterances = 0
        """Utterances answered so far."""
        self._told_overruns, self._next_overrun_s = 0, 0.0
        self._estimate_s = estimate_s
        self._stream = recognizer.stream(RATE_HZ)
        self._start = 0  # of the utterance, in samples
        self._next_s = 0.0  # its length at the next estimate

    @property
    def time_s(self) -> float:
        """Audio heard so far, in seconds."""
        return self.segmenter.duration_s

    def ready(self, source: str) -> Ready:
        """Return the event that opens the session."""
        from edge_ser._version import __version__

        labels, rate_hz = self.recognizer.labels, int(self.segmenter.rate_hz)
        return Ready(self.time_s, SCHEMA_VERSION, __version__, str(self.recognizer.path), labels, source, rate_hz)

    def ended(self, reason: str) -> Ended:
        """Return the event that closes the session."""
        return Ended(self.time_s, reason, self.utterances, self.overruns)

    def feed(self, chunk: npt.ArrayLike | bytes, arrived: float | None = None, overruns: int = 0) -> list[Event]:
        """Take the next samples, as :meth:`edge_ser.Stream.feed` does, and return what has happened.

        ``arrived`` is when they were there, on ``time.monotonic``'s clock (None: now), ``overruns`` how often audio was lost
        just before. AudioError for what is no such chunk.
        """
        arrived = time.monotonic() if arrived is None else arrived
        found = self.segmenter.feed(chunk)
        events: list[Event] = []
        self.overruns += overruns
        if self.overruns > self._told_overruns and self.time_s >= self._next_overrun_s:
            events.append(Overrun(self.time_s, self.overruns))
            self._told_overruns, self._next_overrun_s = self.overruns, self.time_s + _OVERRUN_S
        return events + self._follow(found, arrived)

    def finish(self) -> list[Event]:
        """End the audio and return what that ends."""
        return self._follow(self.segmenter.finish(), time.monotonic())

    def _follow(self, found: Iterable[SpeechEvent], arrived: float) -> list[Event]:
        events: list[Event] = []
        for event in found:
            if isinstance(event, SpeechStart):
                self._stream = self.recognizer.stream(RATE_HZ)  # by the profile as it is now
                self._start, self._next_s = event.start, self._estimate_s
                events.append(SpeechStarted(self.time_s, event.start / RATE_HZ))
            elif isinstance(event, SpeechAudio):
                self._stream.feed(event.samples)
                if self._stream.duration_s >= self._next_s:
                    estimate, self._next_s = self._stream.estimate, self._stream.duration_s + self._estimate_s
                    if estimate is not None:
                        events.append(Estimate(self.time_s, estimate))
                        self._track(estimate, False, events)
            else:
                prediction = self._stream.finish()
                compute_s = time.monotonic() - arrived
                latency_s = self.time_s - event.speech_stop / RATE_HZ + compute_s
                self.utterances += 1
                start_s, stop_s = self._start / RATE_HZ, event.stop / RATE_HZ
                events.append(
                    UtteranceAnswered(self.time_s, start_s, stop_s, event.is_cut, prediction, 1000 * latency_s, 1000 * compute_s)
                )
                self._track(prediction, True, events)
        return events

    def _track(self, prediction: Prediction, is_final: bool, events: list[Event]) -> None:
        tone = self.tracker.update(prediction, is_final)
        if tone is not None:
            events.append(ToneChanged(self.time_s, tone.label, tone.confidence, tone.probabilities))


def listen(
    listener: Listener, source: str, captured: Iterable[Captured], show: Callable[[Event], None], heard: Callable[[], None]
) -> None:
    """Listen until the audio ends or the program is interrupted, and ``show`` every event of the session.

    ``heard`` is called after every piece of audio. What ends it before the audio is raised again, once the end was shown.
    """
    reason = "interrupted"
    try:
        show(listener.ready(source))
        for piece in captured:
            for event in listener.feed(piece.chunk, piece.arrived, piece.overruns):
                show(event)
            heard()
        for event in listener.finish():
            show(event)
        reason = "ended"
    except EdgeSerError as error:
        reason = " ".join(str(error).split())
        raise
    finally:
        show(listener.ended(reason))
