"""What a person's utterances of one label differ by, such as the text, and how to look past it.

Shrunk within-class covariance normalisation (Hatch et al., Interspeech 2006), of the person's own utterances alone: no model has
to bring a covariance, and what is learnt stays linear in the statistics.
"""

from __future__ import annotations

import numpy as np

from edge_ser.arrays import AnyArray, Float64Array

WITHIN = 300.0
"""Variance that is added in every direction to what a label's utterances differ by, in means over the directions."""

HANDICAP = 1.0
"""Nats that such a fit must tell the utterances better by, to weigh as much as one of the statistics as they are."""


class Within:
    """How x [m, size] looks where what a label's own utterances differ by counts less: x (1 + S / s)^-1/2, as long on average.

    S is the covariance of the utterances around the mean of their label y [m], s is WITHIN times its mean over the directions.
    """

    def __init__(self, x: Float64Array, y: AnyArray) -> None:
        labels = np.unique(y)
        residuals = np.concatenate([x[y == c] - x[y == c].mean(axis=0) for c in labels])
        _, lengths, directions = np.linalg.svd(residuals, full_matrices=False)
        kept = lengths > 1e-6 * np.linalg.norm(x)
        variances, self._directions = lengths[kept] ** 2, directions[kept]
        floor = WITHIN * variances.sum() / x.shape[1]
        self._shrink = np.sqrt(floor / (variances + floor)) - 1
        self._scale = 1.0
        self.is_there = bool(kept.any())
        """False: no label has two utterances that differ, and all looks as it is."""
        self._scale = float(np.linalg.norm(x) / max(np.linalg.norm(self.of(x)), 1e-300))

    def of(self, rows: Float64Array) -> Float64Array:
        """Return rows [n, size] as they look. The matrix is symmetric: it makes weights of what is seen weights of x, too."""
        seen: Float64Array = self._scale * (rows + (rows @ self._directions.T * self._shrink) @ self._directions)
        return seen
