"""The probability of speech: its fit, its threshold."""

from __future__ import annotations

import numpy as np
import pytest

from edge_ser_train.method.speech import MISSED, fit_detector


def test_the_fit_parts_two_clouds_and_its_threshold_costs_what_it_may() -> None:
    rng = np.random.default_rng(0)
    speech, none = (rng.standard_normal((n, 64)).astype(np.float32) for n in (3000, 1000))
    none[:, :2] += 4
    dev = [rng.standard_normal((2000, 64)).astype(np.float32), rng.standard_normal((500, 64)).astype(np.float32)]
    found = fit_detector(speech, none, dev)
    assert np.mean(found.probability(speech) > 0.5) > 0.98
    assert np.mean(found.probability(none) < 0.5) > 0.98
    for z in dev:
        assert np.mean(found.probability(z) < found.threshold) <= MISSED
    again = fit_detector(speech, none, dev)
    np.testing.assert_array_equal(again.weights, found.weights)


def test_clouds_that_part_cleanly_give_finite_weights() -> None:
    speech, none = np.ones((5, 64), dtype=np.float32), -np.ones((5, 64), dtype=np.float32)
    found = fit_detector(speech, none, [speech])
    assert np.isfinite([*found.weights, found.bias, found.threshold]).all()
    assert found.probability(np.stack([speech[0], none[0]])).tolist() == pytest.approx([1, 0], abs=0.1)
