from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from edge_ser.prediction import softmax
from edge_ser_train.metrics import (
    confusion_matrix,
    expected_calibration_error,
    fit_temperature,
    macro_f1,
    score,
    unweighted_accuracy,
    weighted_accuracy,
)

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 4, size=500)
LOGITS = RNG.normal(size=(500, 4)) + 1.5 * np.eye(4)[Y]
PREDICTED = LOGITS.argmax(axis=1)


def test_scores_are_scikit_learns() -> None:
    confusion = confusion_matrix(Y, PREDICTED, 4)
    assert np.array_equal(confusion, theirs.confusion_matrix(Y, PREDICTED))
    assert unweighted_accuracy(confusion) == pytest.approx(theirs.balanced_accuracy_score(Y, PREDICTED))
    assert weighted_accuracy(confusion) == pytest.approx(theirs.accuracy_score(Y, PREDICTED))
    assert macro_f1(confusion) == pytest.approx(theirs.f1_score(Y, PREDICTED, average="macro"))


def test_absent_classes_do_not_count() -> None:
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert unweighted_accuracy(confusion) == pytest.approx((0.75 + 1) / 2)


def test_temperature_undoes_overconfidence() -> None:
    calibrated = fit_temperature(LOGITS, Y)
    assert fit_temperature(LOGITS * 5, Y) == pytest.approx(5 * calibrated, rel=1e-2)
    sharp = expected_calibration_error(softmax(LOGITS * 5), Y)
    assert expected_calibration_error(softmax(LOGITS * 5, 5 * calibrated), Y) < sharp / 2


def test_calibration_error_by_hand() -> None:
    # Two answers of confidence 0.75, one right: |0.5 - 0.75|.
    p = np.array([[0.75, 0.25], [0.75, 0.25]])
    assert expected_calibration_error(p, np.array([0, 1])) == pytest.approx(0.25)


def test_intervals_are_over_speakers() -> None:
    """One bad speaker among good ones widens the interval; the same errors spread evenly do not."""
    y = np.tile(np.arange(4), 50)
    speakers = [f"s{i // 20}" for i in range(200)]
    one_bad = np.eye(4)[np.where(np.arange(200) < 20, (y + 1) % 4, y)]
    spread = np.eye(4)[np.where(np.arange(200) % 10 == 0, (y + 1) % 4, y)]
    wide, narrow = score(one_bad, y, speakers), score(spread, y, speakers)
    assert wide.wa == narrow.wa == pytest.approx(0.9)
    assert np.ptp(wide.wa_95) > 4 * np.ptp(narrow.wa_95)
    assert wide.n_speakers == 10
    assert wide.wa_95[0] <= wide.wa <= wide.wa_95[1]
