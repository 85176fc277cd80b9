"""The probability of speech: its fit, its threshold."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from edge_ser.arrays import UInt16Array
from edge_ser.model.manifest import FLOAT_STEP, distance_check, speech_check
from edge_ser.prediction import speech_probability
from edge_ser_train.method.speech import MISSED, distances_of, fit_detector, fit_distance


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


def test_the_distance_of_dev_is_one_at_its_median() -> None:
    rng = np.random.default_rng(0)
    speech, dev = cloud(300, 0, rng), cloud(201, 200, rng)
    found = fit_distance(speech, dev)
    distance_check(48)("distance", found)
    distances = distances_of(dev, found)
    assert np.median(distances) == pytest.approx(1)
    exact = np.linalg.norm(dev - speech.astype(np.float64).mean(axis=0), axis=1)
    assert distances == pytest.approx(exact / np.median(exact), rel=0.01)
    assert np.median(distances_of(cloud(9, 2000, rng), found)) > 4


def test_clouds_that_part_cleanly_give_finite_weights() -> None:
    speech, none = np.full((5, 96), 2000, dtype=np.uint16), np.full((5, 96), 1000, dtype=np.uint16)
    found = fit_detector(speech, none, [speech])
    speech_check(48)("speech", found)
    weights = np.frombuffer(base64.b64decode(found["weights"]), dtype=np.int8)
    assert np.ptp(weights) == 0, "numbers that tell alike weigh alike"
    assert weights[0] == 127
    assert speech_probability(speech[0], found, FLOAT_STEP) > 0.9 > 0.1 > speech_probability(none[0], found, FLOAT_STEP)
