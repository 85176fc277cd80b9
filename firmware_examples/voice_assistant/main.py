"""A voice assistant that hears how it is spoken to: python main.py; without a microphone, python main.py RECORDING.

wake word -> what is said, through a stream, as it is said -> how it sounded -> how to reply
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_ser import EdgeSerError, EmotionRecognizer, Prediction
from edge_ser.live.capture import heard
from edge_ser.live.segmenter import Segmenter, SpeechAudio, SpeechEnd, SpeechStart

MIN_CONFIDENCE = 0.6  # below it an answer is `uncertain`; the README of edge-ser says what each threshold costs

STYLES = {
    "neutral": "Sure.",
    "happy": "Gladly!",
    "sad": "I'm here. Let me take care of that.",
    "angry": "Sorry for the trouble. Right away.",
}
PLAIN = "Okay."


def reply_style(answer: Prediction) -> str:
    """Return how to begin the reply.

    An assistant that consoles somebody who is fine is worse than one that has heard nothing: what is uncertain gets the plain
    reply.
    """
    return STYLES.get(answer.label, PLAIN)


class WakeWord:
    """Stands for a wake word engine, such as openWakeWord or Porcupine: fires at the first sound above -40 dBFS."""

    def heard(self, chunk: npt.NDArray[Any]) -> bool:
        """Return whether the wake word ends in this chunk."""
        full_scale = 32768 if chunk.dtype == np.int16 else 1
        return bool(np.sqrt(np.mean(np.square(chunk / full_scale))) > 10 ** (-40 / 20))


class Assistant:
    """Waits for the wake word, hears one utterance, calls ``reply`` with its answer, and waits again."""

    def __init__(self, recognizer: EmotionRecognizer, rate_hz: float, reply: Callable[[Prediction], None]) -> None:
        self.recognizer, self.rate_hz, self.reply = recognizer, rate_hz, reply
        self.wake_word = WakeWord()
        self.stream = recognizer.stream()  # of what the segmenter hands out, 16 kHz whatever the microphone's rate
        self.segmenter: Segmenter | None = None  # None: asleep

    def feed(self, chunk: npt.NDArray[Any]) -> None:
        """Take the microphone's next samples."""
        if self.segmenter is None and self.wake_word.heard(chunk):
            self.segmenter = Segmenter(self.rate_hz)
        if self.segmenter is not None:
            self._follow(self.segmenter.feed(chunk))

    def finish(self) -> None:
        """End the audio, and with it what is being said."""
        if self.segmenter is not None:
            self._follow(self.segmenter.finish())

    def _follow(self, events: Iterable[object]) -> None:
        for event in events:
            if isinstance(event, SpeechStart):
                self.stream.reset()
            elif isinstance(event, SpeechAudio):
                self.stream.feed(event.samples)  # self.stream.estimate would tell at any time how it sounds so far
            elif isinstance(event, SpeechEnd):
                self.reply(self.stream.finish())
                self.segmenter = None
                return


def say(answer: Prediction) -> None:
    """Print the reply. A product hands ``reply_style`` to its dialogue, and the emotion to its speech synthesis."""
    print(f"[{answer.label}, {answer.confidence:.0%}, {answer.duration_s:.1f} s] {reply_style(answer)}", flush=True)


def main(recording: str | None = None) -> None:
    """Assist whoever speaks into the microphone, or on the recording."""
    recognizer = EmotionRecognizer(min_confidence=MIN_CONFIDENCE)
    with heard(recording) as (rate_hz, captured):
        assistant = Assistant(recognizer, rate_hz, say)
        for piece in captured:
            assistant.feed(piece.chunk)
        assistant.finish()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except EdgeSerError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
