"""Mean and standard deviation over time of encoder vectors, in whole steps: what a person's correction is made of.

A stream keeps the vectors that are judged, so its statistics are those of the whole recording, bit for bit, and cost some
microseconds when speech ends.
"""

from __future__ import annotations

import numpy as np

from edge_ser.arrays import AnyArray, Int64Array, UInt16Array


def statistics_of_levels(levels: AnyArray) -> UInt16Array:
    """Return mean and standard deviation over time of integer vectors [n, size], in 1/256 of a level, [2 · size].

    Integers throughout, the mean rounded half up and the root and its quotient down: what ``eser_set_person`` computes.

    >>> statistics_of_levels(np.array([[0, 3], [1, 3]], dtype=np.uint8)).tolist()
    [128, 768, 128, 0]
    """
    x: Int64Array = levels.astype(np.int64)
    n, total = len(x), x.sum(axis=0)
    spread = n * (x * x).sum(axis=0) - total * total
    root = np.floor(np.sqrt((spread << 16).astype(np.float64))).astype(np.int64)  # exact: below 2^44
    return np.concatenate([(256 * total + n // 2) // n, root // n]).astype(np.uint16)


def statistics_of_vectors(vectors: AnyArray, step: float) -> UInt16Array:
    """Return mean and standard deviation over time of vectors [n, size], in units of ``step``, [2 · size]."""
    x = vectors.astype(np.float64)
    return np.rint(np.concatenate([x.mean(axis=0), x.std(axis=0)]) / step).clip(0, 65535).astype(np.uint16)
