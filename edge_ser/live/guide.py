"""A person is guided through a minute of speech: what to say and how, take after take, until every label has its utterances.

    Captured -> Segmenter -> an utterance -> a take, or why it was none -> EmotionRecognizer.adapt

Lines go to ``say``; on a terminal the level of the voice is drawn in between. It hears a microphone, a pipe or a recording alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_ser.arrays import Float32Array
from edge_ser.errors import AudioError
from edge_ser.live.capture import Captured
from edge_ser.live.segmenter import RATE_HZ, Segmenter, SegmenterConfig, SpeechAudio, SpeechDetector, SpeechEnd, SpeechStart
from edge_ser.prediction import NO_SPEECH
from edge_ser.recognizer import EmotionRecognizer

TAKES = 2
"""Utterances of every label."""
SENTENCES = (
    "The train leaves at half past seven.",
    "There is a letter for you on the table.",
    "I will be home in twenty minutes.",
    "The water is already in the kettle.",
)
"""What to say: words that fit every emotion, the same for all labels, so that the voice is learnt and not the text."""
LEAST_S, SOFTEST_DB, CLIPPED = 0.8, -50.0, 0.002
"""A take has so much speech, is so loud at least, and has no more than this share of samples at full scale."""


@dataclass(frozen=True)
class Task:
    """What is to be said next."""

    label: str
    text: str

    def __str__(self) -> str:
        """Return it as a line for the person who speaks."""
        return f'{self.label}: say "{self.text}"'


def tasks(labels: Iterable[str]) -> Iterator[Task]:
    """Yield what is to be said, every label once, then every label again.

    >>> [str(task) for task in tasks(["calm"])][1]
    'calm: say "There is a letter for you on the table."'
    """
    named = list(labels)
    for take in range(TAKES):
        for i, label in enumerate(named):
            yield Task(label, SENTENCES[(take + i) % TAKES])


def fault(samples: Float32Array, speech_s: float) -> str:
    """Return why an utterance is no good take, or an empty string.

    >>> fault(np.full(16000, 0.1, np.float32), 1.0), fault(np.ones(16000, np.float32), 1.0)
    ('', 'it is clipped: speak softer, or turn the gain down')
    """
    peaks = np.abs(samples)
    level_db = 10 * np.log10(max(float(np.square(samples, dtype=np.float64).mean()), 1e-12))
    if speech_s < LEAST_S:
        return f"it has {speech_s:.1f} s of speech: say the whole sentence"
    if float((peaks >= 0.99).mean()) > CLIPPED:
        return "it is clipped: speak softer, or turn the gain down"
    if level_db < SOFTEST_DB:
        return f"it is too soft, {level_db:.0f} dB: come nearer"
    return ""


def guide(
    recognizer: EmotionRecognizer,
    labels: Iterable[str],
    captured: Iterable[Captured],
    rate_hz: float,
    say: Callable[[str], None],
    meter: Callable[[float], None],
    detector: SpeechDetector | None = None,
) -> int:
    """Adapt ``recognizer`` to what is said for every task, and return how many takes were good.

    ``meter`` gets the level in dB after every piece of audio. A bad take is said again. AudioError when the audio ends before
    the first good take; when it ends later, what was learnt stays.
    """
    segmenter = Segmenter(rate_hz, SegmenterConfig(), detector)
    left = tasks(labels)
    task, good = next(left, None), 0
    parts: list[Float32Array] = []
    start = 0

    def chunks() -> Iterator[list[SpeechStart | SpeechAudio | SpeechEnd]]:
        for piece in captured:
            yield segmenter.feed(piece.chunk)
            meter(float(segmenter.level_db))
        yield segmenter.finish()

    if task is not None:
        say(str(task))
    for events in chunks():
        for event in events:
            if task is None:
                return good
            if isinstance(event, SpeechStart):
                parts, start = [], event.start
            elif isinstance(event, SpeechAudio):
                parts.append(event.samples)
            else:
                samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
                speech_s = (event.speech_stop - start) / RATE_HZ - SegmenterConfig.pre_roll_ms / 1000
                if why := fault(samples, speech_s):
                    say(f"  once more, {why}")
                    continue
                answer = recognizer.predict((samples, RATE_HZ))
                if answer.label == NO_SPEECH:
                    say("  once more, it does not sound like speech")
                    continue
                recognizer.adapt(answer, task.label)
                good += 1
                say(f"  heard, {speech_s:.1f} s; it would have been {answer.label}, {answer.confidence:.0%}")
                task = next(left, None)
                if task is not None:
                    say(str(task))
    if good == 0:
        raise AudioError("the audio ended before a sentence was heard; expected some speech")
    if task is not None:
        say(f"the audio ended; {good} takes were learnt")
    return good
