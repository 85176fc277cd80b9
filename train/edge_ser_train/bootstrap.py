"""Intervals over speakers: clips of one speaker are not independent, and it is new speakers that a figure should predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_ser.arrays import AnyArray, Int64Array

SAMPLES = 2000


def draws(n_speakers: int) -> Int64Array:
    """Return the bootstrap's speakers, [SAMPLES, n_speakers]: whole speakers with replacement, always the same draws."""
    return np.random.default_rng(0).integers(0, n_speakers, size=(SAMPLES, n_speakers))


def resampled(per_speaker: AnyArray) -> AnyArray:
    """Return the sum over the speakers of every draw, [SAMPLES, ...]; ``per_speaker`` is [n_speakers, ...].

    >>> resampled(np.ones((5, 2, 2))).shape
    (2000, 2, 2)
    """
    n = len(per_speaker)
    counts = np.stack([np.bincount(who, minlength=n) for who in draws(n)])
    return np.tensordot(counts.astype(np.float64), per_speaker, axes=1)


def bounds(drawn: AnyArray) -> tuple[float, float]:
    """Return the 95 % interval of a figure that the draws gave as ``drawn`` [SAMPLES].

    >>> bounds(np.arange(1001))
    (25.0, 975.0)
    """
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval over speakers."""

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
