"""Answers that somebody puts right: the profile learns from them and is written, whole or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_ser.errors import ConfigError
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer

PAUSE_S = 2.0
"""Between two corrections, in seconds: a rule of a smart home that runs wild must not fill the profile."""


class Corrections:
    """Takes corrections from any thread and keeps the profile at ``path``.

    An answer that is corrected again was a slip: the later label counts.
    """

    def __init__(self, recognizer: EmotionRecognizer, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.recognizer, self._path, self._clock = recognizer, path, clock
        self._lock = threading.Lock()
        self._next_s = -1.0
        self._last: Prediction | None = None

    def correct(self, answer: Prediction | None, label: str) -> str:
        """Learn that ``answer`` was ``label``, and return a line that says so.

        ConfigError where there is no answer yet, the last correction is too recent, the label is no word, or the profile is full
        or cannot be written; all is then as it was.
        """
        with self._lock:
            if answer is None:
                raise ConfigError("nothing was answered yet; expected an utterance before its correction")
            if self._clock() < self._next_s:
                raise ConfigError(f"a correction came within {PAUSE_S:g} s of another; it was not learnt")
            before = self.recognizer.profile
            try:
                if answer is self._last and before.person is not None:
                    person = before.person.forget(len(before.person.utterances))
                    self.recognizer.profile = replace(before, person=person)
                self.recognizer.adapt(answer, label).save(self._path)
            except Exception:
                self.recognizer.profile = before
                raise
            self._last, self._next_s = answer, self._clock() + PAUSE_S
            counts = self.recognizer.profile.person.counts if self.recognizer.profile.person else {}
            return f"learnt: that was {label} ({counts.get(label, 0)} so far)"
