"""The probability of speech: its fit, its threshold."""

from __future__ import annotations

import base64

import numpy as np

from edge_ser.arrays import UInt16Array
from edge_ser.model.manifest import FLOAT_STEP, speech_check
from edge_ser.prediction import speech_probability
from edge_ser_train.method.speech import MISSED, fit_detector


def cloud(n: int, centre: int, rng: np.random.Generator) -> UInt16Array:
    """Return n statistics [n, 96], of which the first two lie about ``centre``."""
    found = rng.integers(900, 1100, (n, 96))
    found[:, :2] += centre
    return found.astype(np.uint16)


def test_the_fit_parts_two_clouds_and_its_threshold_costs_what_it_may() -> None:
    rng = np.random.default_rng(0)
    speech, none, dev = cloud(3000, 0, rng), cloud(1000, 300, rng), [cloud(2000, 0, rng), cloud(500, 50, rng)]
    found = fit_detector(speech, none, dev)
    speech_check(48)("speech", found)

    def probabilities(of: UInt16Array) -> np.ndarray:
        return np.array([speech_probability(one, found, FLOAT_STEP) for one in of])

    assert (probabilities(speech) > 0.5).mean() > 0.98
    assert (probabilities(none) < 0.5).mean() > 0.98
    assert all((probabilities(of) < found["threshold"]).mean() <= MISSED for of in dev)
    assert fit_detector(speech, none, dev) == found


def test_clouds_that_part_cleanly_give_finite_weights() -> None:
    speech, none = np.full((5, 96), 2000, dtype=np.uint16), np.full((5, 96), 1000, dtype=np.uint16)
    found = fit_detector(speech, none, [speech])
    speech_check(48)("speech", found)
    weights = np.frombuffer(base64.b64decode(found["weights"]), dtype=np.int8)
    assert np.ptp(weights) == 0, "numbers that tell alike weigh alike"
    assert weights[0] == 127
    assert speech_probability(speech[0], found, FLOAT_STEP) > 0.9 > 0.1 > speech_probability(none[0], found, FLOAT_STEP)
