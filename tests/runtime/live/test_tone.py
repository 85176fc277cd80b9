from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ser import ConfigError
from edge_ser.live.tone import ToneConfig, ToneTracker
from edge_ser.prediction import NO_SPEECH, UNCERTAIN, Prediction

PLAIN = ToneConfig(smoothing_s=0, min_confidence=0, hysteresis=0, hold_s=0)


def answer(happy: float, heard_s: float = 1.0, is_speech: bool = True) -> Prediction:
    """Return an answer torn between happy and sad, or of no speech."""
    probabilities = {"happy": happy, "sad": 1 - happy}
    label = max(probabilities, key=probabilities.__getitem__) if is_speech else NO_SPEECH
    nothing = np.zeros(0, dtype=np.float32)
    none = np.zeros(0, dtype=np.uint16)
    return Prediction(label, max(happy, 1 - happy), probabilities, nothing, nothing, none, heard_s, float(is_speech))


def told(config: ToneConfig, answers: list[Prediction]) -> list[str | None]:
    """Return the label after every utterance."""
    tracker, labels = ToneTracker(config), []
    for one in answers:
        before = tracker.tone
        changed = tracker.update(one)
        assert (changed is not None) == (tracker.tone is not before)
        labels.append(tracker.tone.label if tracker.tone else None)
    return labels


def test_without_any_setting_every_answer_counts() -> None:
    answers = [answer(p) for p in (0.9, 0.4, 0.6, 0.1)]
    assert told(PLAIN, answers) == ["happy", "sad", "happy", "sad"]


def test_smoothing_outlasts_a_short_utterance_and_not_a_long_one() -> None:
    smooth = ToneConfig(smoothing_s=2.0, min_confidence=0, hysteresis=0, hold_s=0)
    assert told(smooth, [answer(0.9, 3), answer(0.2, 0.5), answer(0.2, 4)]) == ["happy", "happy", "sad"]
    assert told(PLAIN, [answer(0.9, 3), answer(0.2, 0.5)]) == ["happy", "sad"]
    tracker = ToneTracker(smooth)
    tracker.update(answer(1.0, 2.0))
    assert tracker.probabilities["happy"] == pytest.approx(1 - 0.5 * np.exp(-1))
    tracker.update(answer(0.0, 2.0))
    assert tracker.probabilities["happy"] == pytest.approx((1 - 0.5 * np.exp(-1)) * np.exp(-1))


def test_estimates_of_one_utterance_replace_one_another() -> None:
    tracker, direct = ToneTracker(), ToneTracker()
    for each in (tracker, direct):
        each.update(answer(0.3, 2.0))
    for happy, heard_s in ((0.1, 0.5), (0.7, 1.0), (0.2, 1.5)):
        tracker.update(answer(happy, heard_s), is_final=False)
    tracker.update(answer(0.9, 2.0))
    direct.update(answer(0.9, 2.0))
    assert tracker.probabilities == direct.probabilities
    assert tracker.tone == direct.tone


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
    words = [answer(p, 0.5) for p in (0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1)]
    assert told(config, words) == [None, None, "happy", "happy", "happy", "happy", "happy", "sad"]
    assert told(config, [answer(0.9, 2.0), answer(0.1, 2.0)]) == ["happy", "sad"]


def test_an_estimate_must_persist_and_the_answer_speaks_for_all_of_its_utterance() -> None:
    config = ToneConfig(smoothing_s=0, min_confidence=0, hysteresis=0, hold_s=1.0)
    tracker = ToneTracker(config)
    tracker.update(answer(0.9, 2.0))
    steps = [tracker.update(answer(p, t), is_final=False) for p, t in ((0.1, 0.5), (0.9, 1.0), (0.1, 1.5), (0.1, 2.0))]
    assert [step and step.label for step in steps] == [None, None, None, "sad"]
    tracker.update(answer(0.1, 2.5))
    tracker.update(answer(0.1, 0.5), is_final=False)
    final = tracker.update(answer(0.9, 1.1))
    assert final is not None
    assert final.label == "happy"


def test_sound_without_speech_changes_nothing() -> None:
    assert told(PLAIN, [answer(0.0, is_speech=False), answer(0.9), answer(0.0, is_speech=False)]) == [None, "happy", "happy"]
    tracker = ToneTracker(ToneConfig(smoothing_s=1.0))
    tracker.update(answer(0.9))
    before = tracker.probabilities
    assert tracker.update(answer(0.0, 0.5, is_speech=False), is_final=False) is None
    assert tracker.update(answer(0.0, is_speech=False)) is None
    assert tracker.probabilities == before


def test_what_was_no_speech_in_the_end_takes_its_estimates_back() -> None:
    tracker = ToneTracker(ToneConfig(smoothing_s=1.0))
    tracker.update(answer(0.9))
    happy = 0.9 - 0.4 * np.exp(-1)
    before = tracker.tone
    tone = tracker.update(answer(0.0, 3.0), is_final=False)
    assert tone is not None
    assert tone.label == "sad"
    assert tracker.probabilities["happy"] == pytest.approx(happy * np.exp(-3))
    assert tracker.update(answer(0.0, 3.5, is_speech=False)) is before
    assert tracker.probabilities["happy"] == pytest.approx(happy)
    tracker.update(answer(0.9))  # and the next one goes on from there
    assert tracker.probabilities["happy"] == pytest.approx(0.9 + (happy - 0.9) * np.exp(-1))
    first = ToneTracker()
    assert first.update(answer(0.0, 3.0), is_final=False) is not None
    tone = first.update(answer(0.0, 3.5, is_speech=False))
    assert tone is not None
    assert (tone.label, tone.probabilities, first.probabilities) == (UNCERTAIN, {"happy": 0.5, "sad": 0.5}, {})


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.01, 3)), min_size=1, max_size=40))
def test_changes_are_never_closer_than_the_hold_time(sequence: list[tuple[float, bool, float]]) -> None:
    tracker, heard, last = ToneTracker(), 0.0, 0.0
    labels: list[str] = []
    for happy, is_speech, heard_s in sequence:
        heard += heard_s
        tone = tracker.update(answer(happy, heard_s, is_speech))
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
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ToneConfig(**setting)


def test_a_word_that_was_learnt_in_between_joins_the_tone() -> None:
    tracker = ToneTracker(ToneConfig(min_confidence=0, hold_s=0, hysteresis=0))
    tracker.update(answer(0.9))
    before = tracker.probabilities
    wider = replace(answer(0.5), label="tired", probabilities={"happy": 0.1, "sad": 0.1, "tired": 0.8})
    tracker.update(wider, is_final=False)
    assert tracker.probabilities.keys() == {"happy", "sad", "tired"}
    assert sum(tracker.probabilities.values()) == pytest.approx(1)
    assert tracker.probabilities["happy"] < before["happy"]
    tracker.update(answer(0.5))  # and it may be taken back
    assert tracker.probabilities.keys() == {"happy", "sad"}
