"""What judges a command: what it is asked, and the recogniser in this program."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_ser import EmotionRecognizer
from edge_ser.services.mqtt import Broker, Publisher

MIN_CONFIDENCE = 0.6  # below it an answer is `uncertain`; a service has an option for it, --min-confidence


@dataclass(frozen=True)
class Heard:
    """How a command was said, and what was said, where a service tells that."""

    label: str
    confidence: float
    duration_s: float
    text: str | None = None


class Ears(Protocol):
    """Hears one command after another, as it is said."""

    def start(self) -> None:
        """Begin with a command."""

    def feed(self, samples: npt.NDArray[np.int16]) -> None:
        """Hear more of it, at 16 kHz."""

    def finish(self) -> Heard:
        """End it."""

    def close(self) -> None:
        """Hear no more."""


class Here:
    """The recogniser in this program. With a URL every answer goes to the broker, and Home Assistant gets a sensor."""

    def __init__(self, mqtt: str | None = None) -> None:
        self.recognizer = EmotionRecognizer(min_confidence=MIN_CONFIDENCE)
        self.stream = self.recognizer.stream()
        self.publisher = None
        if mqtt is not None:
            self.publisher = Publisher(
                Broker.from_url(mqtt),
                lambda line: print(line, file=sys.stderr),
                lambda: self.recognizer.labels,
                topics=["utterance"],
            )

    def start(self) -> None:
        """Begin with a command."""
        self.stream.reset()

    def feed(self, samples: npt.NDArray[np.int16]) -> None:
        """Hear more of it, at 16 kHz."""
        self.stream.feed(samples)  # self.stream.estimate would tell at any time how it sounds so far

    def finish(self) -> Heard:
        """End it."""
        answer = self.stream.finish()
        if self.publisher is not None:
            self.publisher.publish({"event": "utterance", **answer.record()})
        return Heard(answer.label, answer.confidence, answer.duration_s)

    def close(self) -> None:
        """Say to the broker that we go."""
        if self.publisher is not None:
            self.publisher.close()
