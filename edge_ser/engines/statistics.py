"""Mean and standard deviation over time of encoder vectors, in whole steps: what a person's correction is made of.

Here of vectors of floats; the C library has its own for its levels. A stream keeps the vectors that are judged, so its
statistics are those of the whole recording, bit for bit, and cost some microseconds when speech ends.
"""

from __future__ import annotations

import numpy as np

from edge_ser.arrays import AnyArray, UInt16Array


def statistics_of_vectors(vectors: AnyArray, step: float) -> UInt16Array:
    """Return mean and standard deviation over time of vectors [n, size], in units of ``step``, [2 · size]."""
    x = vectors.astype(np.float64)
    return np.rint(np.concatenate([x.mean(axis=0), x.std(axis=0)]) / step).clip(0, 65535).astype(np.uint16)
