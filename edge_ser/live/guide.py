"""A person is guided through two minutes of speech: what to say and how, round after round, until they have had enough.

    Captured -> Segmenter -> an utterance -> a take, or why it was none -> EmotionRecognizer.adapt

A round is one sentence said in every label's way. Lines go to ``say``; on a terminal the level of the voice is drawn in between,
and keys skip a sentence or end it. It hears a microphone, a pipe or a recording alike.
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

SENTENCES = (
    "The train leaves at half past seven.",
    "There is a letter for you on the table.",
    "I will be home in twenty minutes.",
    "The water is already in the kettle.",
)
"""What to say, one a round: words that fit every emotion, the same for all labels, so that not the text is learnt."""
SKIP, ENOUGH = "s", "q"
"""Keys."""
LEAST_S, SOFTEST_DB, CLIPPED = 0.8, -50.0, 0.002
"""A take has so much speech, is so loud at least, and has no more than this share of samples at full scale."""


@dataclass(frozen=True)
class Task:
    """What is to be said next."""

    number: int
    of: int
    label: str
    text: str

    def __str__(self) -> str:
        """Return it as a line for the person who speaks."""
        return f'{self.number}/{self.of} {self.label}: say "{self.text}"'


def tasks(labels: Iterable[str]) -> list[Task]:
    """Return what is to be said: every label's way of one sentence, then of the next.

    >>> [str(task) for task in tasks(["calm", "glad"])][2]
    '3/8 calm: say "There is a letter for you on the table."'
    """
    said = [(label, text) for text in SENTENCES for label in dict.fromkeys(labels)]
    return [Task(i + 1, len(said), *each) for i, each in enumerate(said)]


def fault(samples: Float32Array, speech_s: float) -> str:
    """Return why an utterance is no good take, or an empty string.

    >>> fault(np.full(16000, 0.1, np.float32), 1.0), fault(np.ones(16000, np.float32), 1.0)
    ('', 'it is clipped: speak softer, or turn the gain down')
    """
    peaks = np.abs(samples)
    level_db = 10 * np.log10(max(float(np.square(samples, dtype=np.float64).mean()), 1e-12))
    if speech_s < LEAST_S:
        return f"it has {speech_s:.2f} s of speech, {LEAST_S:g} s are needed: say the whole sentence"
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
    meter: Callable[[float, bool], None],
    pressed: Callable[[], str],
    detector: SpeechDetector | None = None,
) -> int:
    """Adapt ``recognizer`` to what is said for every task, and return how many takes were good.

    ``meter`` gets the level in dB and whether speech is heard, after every piece of audio; ``pressed`` returns a key or an empty
    string. A bad take is said again. AudioError when the audio ends before the first good take and before ENOUGH; when it ends
    later, what was learnt stays.
    """
    segmenter = Segmenter(rate_hz, SegmenterConfig(), detector)
    left = tasks(labels)
    good, begun, start = 0, False, 0
    parts: list[Float32Array] = []

    def next_task() -> None:
        done = left.pop(0)
        if left and left[0].text != done.text:
            say(f"that sentence is done; {_so_far(recognizer)}")
        if left:
            say(str(left[0]))

    def chunks() -> Iterator[list[SpeechStart | SpeechAudio | SpeechEnd]]:
        for piece in captured:
            yield segmenter.feed(piece.chunk)
            meter(float(segmenter.level_db), segmenter.speaking)
        yield segmenter.finish()

    if left:
        say(str(left[0]))
    for events in chunks():
        for event in events:
            if isinstance(event, SpeechStart):
                parts, start, begun = [], event.start, True
            elif isinstance(event, SpeechAudio):
                parts.append(event.samples)
            elif begun and left:
                samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
                speech_s = (event.speech_stop - start) / RATE_HZ - SegmenterConfig.pre_roll_ms / 1000
                if why := fault(samples, speech_s):
                    say(f"  once more, {why}")
                    continue
                answer = recognizer.predict((samples, RATE_HZ))
                if answer.label == NO_SPEECH:
                    say("  once more, it does not sound like speech")
                    continue
                recognizer.adapt(answer, left[0].label)
                good += 1
                say(f"  heard, {speech_s:.1f} s; it would have been {answer.label}, {answer.confidence:.0%}")
                next_task()
        key = pressed()
        if key == SKIP and left:
            begun = False  # what is being said was meant for the sentence that is skipped
            say("  skipped")
            next_task()
        if key == ENOUGH or not left:
            return good
    if good == 0:
        raise AudioError("the audio ended before a sentence was heard; expected some speech")
    say(f"the audio ended; {good} take{'s were' if good > 1 else ' was'} learnt")
    return good


def _so_far(recognizer: EmotionRecognizer) -> str:
    """Return how well the person's utterances tell each other's labels."""
    person, correction = recognizer.profile.person, recognizer.profile.correction(recognizer.manifest)
    if person is None or correction is None:
        return "nothing can be told apart yet"
    told = correction.loo.argmax(axis=1).tolist()
    right = sum(correction.labels[i] == heard.label for i, heard in zip(told, person.utterances, strict=True))
    return f"told right by the others: {right} of {len(told)}"
