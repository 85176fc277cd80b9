"""Answers over time: one calm statement about how somebody sounds, from estimates that flicker.

    estimates and answers -> smoothed probabilities -> label, with hysteresis and `uncertain` -> debounce -> Tone

The clock is the speech that was heard, not the wall's: silence neither confirms nor forgets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edge_ser.errors import ConfigError
from edge_ser.prediction import NO_SPEECH, UNCERTAIN, Prediction


@dataclass(frozen=True)
class ToneConfig:
    """How readily the tone changes. ConfigError for a value out of range.

    All of them at zero: every prediction's own label.
    """

    smoothing_s: float = 1.0
    """Speech, in seconds, after which what was heard before weighs 1/e. Longer: the bars move slowly, and one word moves them
    little."""
    min_confidence: float = 0.5
    """Smoothed probability, 0 to 1, an emotion needs to be named. Higher: `uncertain` more often, and fewer wrong names."""
    hysteresis: float = 0.1
    """Probability another emotion must lead by to take over, and the named one may sink below ``min_confidence``. Larger:
    fewer changes to and fro between two emotions that are close."""
    hold_s: float = 0.7
    """Speech, in seconds, over which a change must persist before it is told; all of an utterance speaks for its answer.
    Longer: an outburst of one word changes nothing."""

    def __post_init__(self) -> None:
        for name, high in (("smoothing_s", 60), ("hold_s", 60), ("min_confidence", 1), ("hysteresis", 1)):
            if not 0 <= getattr(self, name) <= high:  # also true of NaN
                unit = "s" if name.endswith("_s") else "as a probability"
                raise ConfigError(f"tone: {name} is {getattr(self, name)}; expected 0 to {high} {unit}")


@dataclass(frozen=True)
class Tone:
    """How somebody sounds of late."""

    label: str
    """An emotion, or ``uncertain``."""
    confidence: float
    """The smoothed probability of the most probable emotion, 0 to 1."""
    probabilities: dict[str, float]
    """Every emotion's smoothed probability; they sum to 1."""


_State = tuple[dict[str, float], Tone | None, str | None, float]


class ToneTracker:
    """Follows the tone of one voice through its utterances.

    Within an utterance every estimate replaces the one before, which heard less of the same. Between utterances the tone is an
    average that forgets: p = before · exp(-heard / smoothing) + estimate · (1 - exp(-heard / smoothing)), with all emotions
    equally probable before the first. Where there was no speech in the end, all is as before its estimates.

    >>> import numpy as np
    >>> from edge_ser import EmotionRecognizer
    >>> recognizer, tracker = EmotionRecognizer(min_speech=0), ToneTracker(ToneConfig(hold_s=3.0, min_confidence=0))
    >>> answer = recognizer.predict((0.1 * np.sin(np.arange(32000, dtype=np.float32)), 16000))
    >>> [getattr(tracker.update(answer), "label", None) == answer.label for _ in range(3)]
    [False, True, False]
    """

    def __init__(self, config: ToneConfig | None = None) -> None:
        self.config = config or ToneConfig()
        self.tone: Tone | None = None
        """The tone that was told last; None before the first."""
        self.probabilities: dict[str, float] = {}
        """The smoothed probabilities of now; empty before the first answer that counts."""
        self._heard_s = 0.0  # of this utterance
        self._proposed: str | None = None
        self._age_s = 0.0  # speech that spoke for the proposal
        self._before: _State = (self.probabilities, self.tone, self._proposed, self._age_s)  # this utterance

    def update(self, prediction: Prediction, is_final: bool = True) -> Tone | None:
        """Take the answer of the next utterance, or an estimate on the way to it; return the tone if it has changed."""
        told = self.tone
        if prediction.label != NO_SPEECH:
            self._hear(prediction.probabilities, prediction.duration_s, is_final)
        elif is_final:
            self._take_back(prediction.probabilities)
        if is_final:
            self._heard_s = 0.0
            self._before = self.probabilities, self.tone, self._proposed, self._age_s
        return None if self.tone is told else self.tone

    def _hear(self, p: dict[str, float], heard_s: float, is_final: bool) -> None:
        fresh_s, self._heard_s = max(0.0, heard_s - self._heard_s), heard_s
        keep = math.exp(-heard_s / self.config.smoothing_s) if self.config.smoothing_s else 0.0
        before = self._before[0] if self._before[0].keys() == p.keys() else _among(p, self._before[0])
        self.probabilities = {label: value + keep * (before[label] - value) for label, value in p.items()}
        proposed = self._label()
        self._age_s = fresh_s + (self._age_s if proposed == self._proposed else 0.0)
        if is_final:
            self._age_s = max(self._age_s, heard_s)
        self._proposed = proposed
        if self._age_s >= self.config.hold_s and (self.tone is None or proposed != self.tone.label):
            self.tone = Tone(proposed, max(self.probabilities.values()), dict(self.probabilities))

    def _take_back(self, p: dict[str, float]) -> None:
        """Be as before this utterance, but `uncertain` where its estimates named the first tone of all."""
        told = self.tone
        self.probabilities, self.tone, self._proposed, self._age_s = self._before
        if self.tone is None and told is not None:
            self.tone = Tone(UNCERTAIN, 1 / len(p), dict.fromkeys(p, 1 / len(p)))

    def _label(self) -> str:
        """Return what the smoothed probabilities name, given what they named before."""
        p, c = self.probabilities, self.config
        best = max(p, key=p.__getitem__)
        named = self.tone.label if self.tone is not None else UNCERTAIN
        if named in p and p[named] >= c.min_confidence - c.hysteresis and p[best] < p[named] + c.hysteresis:
            return named
        return best if p[best] >= c.min_confidence else UNCERTAIN


def _among(labels: Iterable[str], before: dict[str, float]) -> dict[str, float]:
    """Return what was ``before`` among other labels, of a person who has learnt a word since: a new one is as probable as any.

    >>> _among(("sad", "tired"), {"sad": 0.25, "happy": 0.75})
    {'sad': 0.3333333333333333, 'tired': 0.6666666666666666}
    """
    n = len(names := list(labels))
    found = {label: before.get(label, 1 / n) for label in names}
    total = sum(found.values())
    return {label: p / total for label, p in found.items()}
