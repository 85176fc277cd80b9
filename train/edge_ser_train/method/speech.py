"""Is there any speech? A logistic regression on the embedding z, fitted when a run ends."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_ser.arrays import Float32Array, Float64Array

MISSED = 0.003
"""Share of the dev clips, as recorded or as copies, below the threshold: answered `no_speech` though somebody speaks."""

_RIDGE = 1e-3  # of weights on standardised z, against the mean loss: keeps them finite where both kinds part cleanly
_STEPS = 50


class SpeechDetector(NamedTuple):
    """Probability of speech = 1 / (1 + exp(-(weights · z + bias)))."""

    weights: Float64Array
    """[64]"""
    bias: float
    threshold: float
    """Probability below which there is no speech to judge."""

    def probability(self, z: Float32Array) -> Float64Array:
        """Return the probability of speech of embeddings z [n, 64]: [n]."""
        p: Float64Array = 1 / (1 + np.exp(-(z @ self.weights + self.bias)))
        return p


def fit_detector(speech: Float32Array, none: Float32Array, dev: list[Float32Array]) -> SpeechDetector:
    """Fit on embeddings of speech [n, 64] and of sounds without any [m, 64], both kinds weighing the same.

    The threshold lets :data:`MISSED` of each of the dev sets' embeddings, [k, 64] each, pass below it, at most.
    """
    x = np.concatenate([speech, none]).astype(np.float64)
    y = np.repeat([1.0, 0.0], [len(speech), len(none)])
    share = np.repeat([0.5 / len(speech), 0.5 / len(none)], [len(speech), len(none)])
    mean, std = share @ x, np.sqrt(share @ np.square(x - share @ x)) + 1e-6
    x = np.column_stack([(x - mean) / std, np.ones(len(x))])
    ridge = np.append(np.full(x.shape[1] - 1, _RIDGE), 0.0)
    w = np.zeros(x.shape[1])

    def loss(w: Float64Array) -> float:
        return float(share @ np.logaddexp(0, np.where(y == 1, -1, 1) * (x @ w)) + 0.5 * ridge @ np.square(w))

    for _ in range(_STEPS):  # Newton's method, a step halved until it lowers the loss
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (share * (p - y)) + ridge * w
        hessian = (x * (share * p * (1 - p))[:, None]).T @ x + np.diag(ridge + 1e-9)
        step = np.linalg.solve(hessian, gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-9:
            step /= 2
        w = w - step
        if np.abs(step).max() < 1e-9:
            break
    weights = w[:-1] / std
    found = SpeechDetector(weights, float(w[-1] - weights @ mean), 0.5)
    return found._replace(threshold=float(min(np.quantile(found.probability(z), MISSED) for z in dev)))
