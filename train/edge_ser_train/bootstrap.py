"""Intervals over speakers: clips of one speaker are not independent, and it is new speakers that a figure should predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_ser.arrays import AnyArray, Int64Array

SAMPLES = 2000


def draws(n_speakers: int, samples: int = SAMPLES) -> Int64Array:
    """Return the bootstrap's speakers, [samples, n_speakers]: whole speakers with replacement, always the same draws."""
    return np.random.default_rng(0).integers(0, n_speakers, size=(samples, n_speakers))


def resampled(per_speaker: AnyArray, samples: int = SAMPLES) -> AnyArray:
    """Return the sum over the speakers of every draw, [samples, ...]; ``per_speaker`` is [n_speakers, ...].

    >>> resampled(np.ones((5, 2, 2))).shape
    (2000, 2, 2)
    """
    n = len(per_speaker)
    slots = draws(n, samples) + n * np.arange(samples)[:, None]
    counts = np.bincount(slots.ravel(), minlength=n * samples).reshape(samples, n)
    return np.tensordot(counts.astype(np.float64), per_speaker, axes=1)


def mean_of_seeds(per_seed: AnyArray) -> AnyArray:
    """Return for every draw the mean over seeds that are drawn with replacement as well, [samples].

    ``per_seed`` [n_seeds, samples] is what the draws gave for each seed. Of one seed, that is all there is.
    """
    which = np.random.default_rng(1).integers(0, len(per_seed), size=per_seed.T.shape)
    means: AnyArray = np.take_along_axis(per_seed.T, which, axis=1).mean(axis=1)
    return means


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979): the chance of any false one among all stays what it says.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    corrected, lowest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable").tolist()):
        lowest = max(lowest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = lowest
    return corrected


def bounds(drawn: AnyArray) -> tuple[float, float]:
    """Return the 95 % interval of a figure that the draws gave as ``drawn`` [samples].

    >>> bounds(np.arange(1001))
    (25.0, 975.0)
    """
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Return it in per cent.

        >>> Interval(0.804, 0.741, 0.855).percent()
        '80.4 [74.1, 85.5]'
        """
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def points(self) -> str:
        """Return a difference in percentage points.

        >>> Interval(-0.018, -0.048, 0.012).points()
        '-1.8 [-4.8, +1.2]'
        """
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
