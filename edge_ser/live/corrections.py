"""Answers that somebody puts right: the profile learns from them and is written, whole or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge_ser.errors import ConfigError
from edge_ser.personal.person import Heard
from edge_ser.personal.profile import Profile, changing
from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer

PAUSE_S = 2.0
"""Between two corrections, in seconds: a rule of a smart home that runs wild must not fill the profile."""


class Corrections:
    """Takes corrections from any thread and keeps the profile at ``path``, which other processes may extend meanwhile.

    An answer that is corrected again was a slip: the later label counts.
    """

    def __init__(self, recognizer: EmotionRecognizer, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.recognizer, self._path, self._clock = recognizer, path, clock
        self._lock = threading.Lock()
        self._next_s = -1.0
        self._last: tuple[Prediction, Heard] | None = None
        self._written: tuple[int, int, int] | None = None

    def correct(self, answer: Prediction | None, label: str) -> str:
        """Learn that ``answer`` was ``label``, and return a line that says so.

        ConfigError where there is no answer yet, the last correction is too recent, the label is no word, or the profile is full,
        cannot be written or is being changed; all is then as it was.
        """
        with self._lock:
            if answer is None:
                raise ConfigError("nothing was answered yet; expected an utterance before its correction")
            if self._clock() < self._next_s:
                raise ConfigError(f"a correction came within {PAUSE_S:g} s of another; it was not learnt")
            before = self.recognizer.profile
            try:
                with changing(self._path):
                    meant = self._learn(answer, label)
            except Exception:
                self.recognizer.profile = before
                raise
            self._next_s = self._clock() + PAUSE_S
            counts = self.recognizer.profile.person.counts if self.recognizer.profile.person else {}
            given = "" if meant == label.strip() else f", for {label.strip()}"
            return f"learnt: that was {meant}{given} ({counts.get(meant, 0)} so far)"

    def _learn(self, answer: Prediction, label: str) -> str:
        """Extend what is in the file now, write it, and return the label as it was learnt."""
        if self._state() != self._written or self._written is None:
            self.recognizer.profile = Profile.load_or_begin(self._path)
        profile = self.recognizer.profile
        if self._last is not None and answer is self._last[0] and profile.person is not None:
            left = tuple(h for h in profile.person.utterances if not h.same(self._last[1]))
            self.recognizer.profile = replace(profile, person=replace(profile.person, utterances=left))
        meant = self.recognizer.label_meant(label)
        learnt = self.recognizer.adapt(answer, meant)
        learnt.save(self._path)
        if learnt.person is not None:
            self._last = answer, learnt.person.utterances[-1]
        self._written = self._state()
        return meant

    def _state(self) -> tuple[int, int, int] | None:
        """Return what changes with every write of the file; None where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
