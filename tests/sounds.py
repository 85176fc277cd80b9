"""Sounds as files, as what comes through a pipe, and as a simple detector hears them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from edge_ser.arrays import AnyArray


def encoded(samples: AnyArray, rate_hz: int = 16000, **how: Any) -> bytes:
    """Return samples as a file; ``how`` are soundfile's format and subtype."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, **how)
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A pipe, which cannot seek, and gives at most ``n`` bytes at a time."""

    def __init__(self, data: bytes, n: int = 1 << 20) -> None:
        self._data, self._n = data, n

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._data[: min(self._n, len(buffer))]
        self._data = self._data[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def loud(windows: AnyArray) -> AnyArray:
    """A detector for recordings with digital silence between them."""
    return np.asarray(np.abs(windows).max(axis=1) > 0.0005)
