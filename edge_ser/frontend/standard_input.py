"""Sound on standard input: a recording, known by how it begins, or raw PCM.

A WAV file of 16-bit PCM is taken as raw PCM that says its rate and channels, so that what a recorder writes is heard as it
comes. What other recordings hold is decoded by :class:`AudioReader`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from edge_ser.arrays import AnyArray, Int16Array
from edge_ser.errors import AudioError
from edge_ser.frontend.audio import AudioReader, AudioStream
from edge_ser.frontend.containers import UNKNOWN_BYTES
from edge_ser.frontend.mpeg import frame_header
from edge_ser.frontend.samples import MAX_CHANNELS

_BEGINNINGS = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"caff", b"fLaC", b"OggS", b"ID3"),
    *(b"\x1aE\xdf\xa3", b"#!AMR"),  # WebM and AMR, which AudioReader refuses by their names; MP4 has its own further on
)
_LONGEST = 4096  # within so many bytes a recording is known, and its first samples begin
_SHORTEST = 12
_PIECE = 1 << 16


def sound_of(pipe: Any, rate_hz: int, channels: int = 1) -> Iterator[AnyArray]:
    """Yield the sound on a binary ``pipe`` with ``read1`` as it comes, at ``rate_hz``: (n,) or (n, channels).

    Raw PCM is taken to be 16-bit little-endian of this rate and these channels; a frame that is cut off at its end is left out.
    AudioError when there is no sample, when the pipe cannot be read, and for a recording that cannot be decoded.
    """
    start = b""
    while len(start) < _needed(start):
        data = _read(pipe, _LONGEST - len(start))
        if not data:
            break
        start += data
    wav = _wav_pcm(start)
    if wav is not None:
        stream = AudioStream(wav.rate_hz, rate_hz)
        for chunk in _pcm(pipe, start[wav.first :], wav.channels, wav.n_bytes):
            yield stream.push(chunk)
        yield stream.flush()
    elif is_recording(start):
        with AudioReader(io.BufferedReader(_Looked(start, pipe)), rate_hz) as reader:
            yield from reader.blocks()
    else:
        yield from _pcm(pipe, start, channels, None)


def _pcm(pipe: Any, rest: bytes, channels: int, left: int | None) -> Iterator[Int16Array]:
    """Yield ``rest`` and what follows on the pipe, at most ``left`` bytes, as int16 (n, channels)."""
    begun = False
    while True:
        rest = rest[:left]
        whole = len(rest) // (2 * channels) * 2 * channels
        if whole:
            begun = True
            yield np.frombuffer(rest[:whole], dtype="<i2").reshape(-1, channels)
            rest, left = rest[whole:], None if left is None else left - whole
        data = _read(pipe, _PIECE) if left is None or left > len(rest) else b""
        if not data:
            break
        rest += data
    if not begun:
        raise AudioError(
            "standard input has ended without a sample; expected a recording, or raw PCM: arecord -t raw -f S16_LE -r 16000"
        )


def is_recording(start: bytes) -> bool:
    """Return whether a recording in a container begins so; an MP3 without a tag is known by its second frame.

    >>> is_recording(b"OggS\\0\\2"), is_recording(bytes(12)), is_recording(b"\\xff" * 12)
    (True, False, False)
    """
    if start.startswith(_BEGINNINGS) or start[4:8] == b"ftyp":
        return True
    frame = frame_header(start[:4])
    following = None if frame is None else frame_header(start[frame.n_bytes : frame.n_bytes + 4])
    return frame is not None and following is not None and frame.kind == following.kind


class _Looked(io.RawIOBase):
    """A pipe as it was before its start was read."""

    name = "standard input"

    def __init__(self, start: bytes, pipe: Any) -> None:
        super().__init__()
        self._start, self._pipe = start, pipe

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._start[: len(buffer)] or _read(self._pipe, len(buffer))
        self._start = self._start[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _read(pipe: Any, n: int) -> bytes:
    """Return at most ``n`` bytes as soon as there are any; none at the end."""
    try:
        data: bytes = pipe.read1(n)
    except OSError as error:
        raise AudioError(f"cannot read standard input: {error.strerror or error}; expected a recording, or raw PCM") from None
    return data


def _needed(start: bytes) -> int:
    """Return how many bytes of a pipe that begins so tell what it is."""
    if start[:4] == b"RIFF" and _wav_pcm(start) is None:
        return _LONGEST
    frame = frame_header(start[:4])
    return max(_SHORTEST, 0 if frame is None else frame.n_bytes + 4)


class _Wav(NamedTuple):
    """A WAV file of 16-bit PCM."""

    rate_hz: int
    channels: int
    first: int
    """Where its samples begin, in bytes."""
    n_bytes: int | None
    """Of its samples; None where the header does not know."""


def _wav_pcm(start: bytes) -> _Wav | None:
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return None
    at, rate_hz, channels = _SHORTEST, 0, 0
    while at + 8 <= len(start):
        kind, size = struct.unpack_from("<4sI", start, at)
        at += 8
        if kind == b"data":
            known = 0 < size < UNKNOWN_BYTES
            return _Wav(rate_hz, channels, at, size if known else None) if 0 < channels <= MAX_CHANNELS else None
        if kind == b"fmt " and at + 16 <= len(start):
            form, n, rate, _, _, bits = struct.unpack_from("<HHIIHH", start, at)
            if form == 0xFFFE and size >= 40:  # the form stands in the extension
                form = int.from_bytes(start[at + 24 : at + 26], "little")
            if (form, bits) == (1, 16):
                rate_hz, channels = rate, n
        at += size + size % 2
    return None
