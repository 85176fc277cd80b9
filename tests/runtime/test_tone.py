from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ser import ConfigError
from edge_ser.decision import UNCERTAIN, Prediction
from edge_ser.tone import ToneConfig, ToneTracker

PLAIN = ToneConfig(smoothing_s=0, min_confidence=0, hysteresis=0, hold_s=0, doubt_novel=False)


def answer(happy: float, is_novel: bool = False) -> Prediction:
    """Return an answer torn between happy and sad."""
    probabilities = {"happy": happy, "sad": 1 - happy}
    label = max(probabilities, key=probabilities.__getitem__)
    nothing = np.zeros(0, dtype=np.float32)
    return Prediction(label, max(happy, 1 - happy), probabilities, nothing, nothing, 1.0, 9.0 if is_novel else 1.0, is_novel)


def told(config: ToneConfig, answers: list[Prediction], heard_s: float = 0.5) -> list[str | None]:
    """Return the label after every answer."""
    tracker, labels = ToneTracker(config), []
    for one in answers:
        before = tracker.tone
        changed = tracker.update(one, heard_s)
        assert (changed is not None) == (tracker.tone is not before)
        labels.append(tracker.tone.label if tracker.tone else None)
    return labels


def test_without_any_setting_every_answer_counts() -> None:
    answers = [answer(p) for p in (0.9, 0.4, 0.6, 0.1)]
    assert told(PLAIN, answers) == ["happy", "sad", "happy", "sad"]


def test_smoothing_outlasts_one_estimate_and_forgets_within_its_time() -> None:
    one_word = [answer(0.9)] * 3 + [answer(0.3)] + [answer(0.9)]
    assert told(PLAIN, one_word)[3] == "sad"
    smooth = ToneConfig(smoothing_s=1.0, min_confidence=0, hysteresis=0, hold_s=0)
    assert told(smooth, one_word) == ["happy"] * 5
    tracker = ToneTracker(smooth)
    tracker.update(answer(1.0), 1.0)
    tracker.update(answer(0.0), 1.0)
    assert tracker.probabilities["happy"] == pytest.approx(np.exp(-1))


def test_below_the_confidence_it_is_uncertain() -> None:
    config = ToneConfig(smoothing_s=0, min_confidence=0.7, hysteresis=0, hold_s=0)
    assert told(config, [answer(0.8), answer(0.65), answer(0.2)]) == ["happy", UNCERTAIN, "sad"]


def test_hysteresis_keeps_the_named_one_while_another_hardly_leads() -> None:
    config = ToneConfig(smoothing_s=0, min_confidence=0, hysteresis=0.2, hold_s=0)
    assert told(config, [answer(p) for p in (0.8, 0.45, 0.41, 0.39)]) == ["happy", "happy", "happy", "sad"]
    config = ToneConfig(smoothing_s=0, min_confidence=0.7, hysteresis=0.1, hold_s=0)
    assert told(config, [answer(p) for p in (0.65, 0.75, 0.65, 0.59)]) == [UNCERTAIN, "happy", "happy", UNCERTAIN]


def test_a_change_is_told_once_it_has_lasted() -> None:
    config = ToneConfig(smoothing_s=0, min_confidence=0, hysteresis=0, hold_s=1.5)
    labels = told(config, [answer(p) for p in (0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1)])
    assert labels == [None, None, "happy", "happy", "happy", "happy", "happy", "sad"]


def test_novel_speech_is_uncertain_and_moves_no_bar() -> None:
    config = ToneConfig(smoothing_s=1.0, min_confidence=0, hysteresis=0, hold_s=0)
    tracker = ToneTracker(config)
    tracker.update(answer(0.9), 0.5)
    before = tracker.probabilities
    tone = tracker.update(answer(0.0, is_novel=True), 0.5)
    assert tone is not None
    assert (tone.label, tone.probabilities, tracker.probabilities) == (UNCERTAIN, before, before)
    assert told(PLAIN, [answer(0.9), answer(0.0, is_novel=True)]) == ["happy", "sad"]
    assert told(config, [answer(0.0, is_novel=True)]) == [UNCERTAIN]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.01, 3)), min_size=1, max_size=40))
def test_changes_are_never_closer_than_the_hold_time(sequence: list[tuple[float, bool, float]]) -> None:
    tracker, heard, last = ToneTracker(), 0.0, 0.0
    labels: list[str] = []
    for happy, is_novel, heard_s in sequence:
        heard += heard_s
        tone = tracker.update(answer(happy, is_novel), heard_s)
        assert not tracker.probabilities or sum(tracker.probabilities.values()) == pytest.approx(1)
        if tone is not None:
            assert heard - last >= tracker.config.hold_s - 1e-9
            labels.append(tone.label)
            last = heard
    assert all(one != following for one, following in itertools.pairwise(labels))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"smoothing_s": -1}, r"smoothing_s is -1; expected 0 to 60 s"),
        ({"hold_s": float("nan")}, r"hold_s is nan; expected 0 to 60 s"),
        ({"min_confidence": 70}, r"min_confidence is 70; expected 0 to 1 as a probability"),
        ({"hysteresis": 1.5}, r"hysteresis is 1.5; expected 0 to 1 as a probability"),
        ({"doubt_novel": "no"}, r"doubt_novel is 'no'; expected True or False"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ToneConfig(**setting)
