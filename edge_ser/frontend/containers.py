# ruff: noqa: SIM115 (whoever gets a file closes it)
"""Files as people have them: what each one is, whether its end is missing, and a copy with a true header where a pipe or a
killed recorder left none.

libsndfile decodes what :func:`open_recording` returns, unless it is WAVE of 16 bits, which needs no decoder. It is always a file
with a descriptor: callbacks into Python would swallow a Ctrl-C, and whatever else is raised in them.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shlex
import struct
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import IO, Any, NamedTuple, cast

import numpy as np

from edge_ser.arrays import AnyArray
from edge_ser.errors import AudioError
from edge_ser.frontend import flac
from edge_ser.frontend.mpeg import after_tags, frames_alone

_IN_MEMORY_BYTES = 2**26
_PART_BYTES = 2**20
_MP3_IN_WAVE = b"\x55\x00"
UNKNOWN_BYTES = 0x7FFF0000
"""Recorders write this length, or more, into the header of a WAVE file before they know it."""
_LAST_PAGE = 4  # the flag of it, in an Ogg page's header
_WAVE_HEADER = struct.Struct("<4s4x4s4sIHHI4xHH")  # up to the end of a format chunk that comes first
_WAVE_64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_FOREIGN = (
    (4, b"ftyp", "MP4 (M4A, 3GP, MOV)"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA (ASF)"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (28, b"Speex   ", "Speex"),
    (8, b"AVI ", "AVI"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
)
"""Where a file that libsndfile does not decode has which bytes, and what it is called."""
FOREIGN_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".webm", ".weba", ".mka", ".mkv"),
    *(".amr", ".wma", ".aac", ".spx", ".avi", ".wv", ".ape"),
)
"""How such files end; in a folder they are skipped, see :func:`skipped`."""


class Samples(NamedTuple):
    """A file goes on with samples as they are: int16, little-endian, the channels interleaved."""

    n_frames: int
    n_channels: int
    rate_hz: int

    def read(self, file: IO[bytes], n: int) -> AnyArray:
        """Return the next ``n`` samples, int16 (n,) or (n, channels), fewer where the file ends."""
        content = file.read(2 * self.n_channels * n)
        samples = np.frombuffer(content, "<i2", len(content) // (2 * self.n_channels) * self.n_channels)
        return samples if self.n_channels == 1 else samples.reshape(-1, self.n_channels)


def scratch(parts: Iterable[bytes]) -> IO[bytes]:
    """Return a nameless file, at its beginning, that holds ``parts``: in memory up to 64 MiB, where that exists, or on disk."""
    import tempfile

    raw: Any = None
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            raw, room = open(os.memfd_create("edge-ser"), "w+b", buffering=0), _IN_MEMORY_BYTES
    if raw is None:
        raw, room = tempfile.TemporaryFile(buffering=0), sys.maxsize
    try:
        for part in parts:
            if raw.tell() + len(part) > room:
                with raw as full:
                    raw, room = tempfile.TemporaryFile(buffering=0), sys.maxsize
                    full.seek(0)
                    while copied := full.read(_PART_BYTES):
                        _write(raw, copied)
            _write(raw, part)
        raw.seek(0)
    except BaseException:
        raw.close()
        raise
    return io.BufferedReader(raw)


def for_libsndfile(file: IO[bytes]) -> Any:
    """Return what libsndfile is to be given for a file with a descriptor, which goes to its beginning.

    That is a duplicate of the descriptor, for libsndfile to close. Its callbacks on a Python file would swallow a Ctrl-C, and
    some versions close what they cannot open even if told not to. On Windows it is the file: libsndfile has a C runtime of its
    own there, which does not know Python's descriptors.
    """
    if sys.platform == "win32":
        file.seek(0)
        return file
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return os.dup(file.fileno())


def _write(raw: Any, part: bytes) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[raw.write(rest) :]


class Recording(NamedTuple):
    """A file that plain samples are read from, or that libsndfile decodes to its true end."""

    file: IO[bytes]
    """With a descriptor; the caller's to close."""
    name: str
    """Of the source."""
    plain: Samples | None
    """Where the file holds plain samples; None where libsndfile decodes it."""
    announced_times: float
    """How many times as much sound as is there the header announces: 1 for a whole file, infinity where the end is missing and
    nothing tells how much."""


def open_recording(source: Any) -> Recording:
    """Open a path, a file's bytes, or a binary file object, read from where it stands.

    AudioError for one that cannot be read, is empty, or is of a kind that is not decoded here (with the command that converts
    it).
    """
    name = str(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else str(getattr(source, "name", "audio"))
    shown = shlex.quote(name) if isinstance(source, (str, os.PathLike)) else "FILE"
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(_opened(source, name))
            plain = _wave_of_16_bits(file)
            content, announced_times = (file, 1.0) if plain is not None else _true_content(file, name, shown)
        except OSError as error:
            raise AudioError(f"cannot read {name}: {error.strerror or error}; expected an audio file") from None
        if content is file:
            opened.pop_all()
    return Recording(content, name, plain, announced_times)


def conversion(shown: str) -> str:
    """Return the command that answers about what ffmpeg decodes, the file ``shown`` as it is quoted."""
    return f"ffmpeg -v error -i {shown} -f wav - | edge-ser predict -"


def skipped(n_files: int, first: str) -> str:
    """Return what is told about the files in folders that end as :data:`FOREIGN_SUFFIXES`, with the command for the ``first``.

    >>> skipped(2, "calls/1.m4a")
    '2 files that are not decoded here were skipped; convert each: ffmpeg -v error -i calls/1.m4a calls/1.m4a.wav'
    """
    n = f"{n_files:,} files that are not decoded here were" if n_files > 1 else "1 file that is not decoded here was"
    command = f"ffmpeg -v error -i {shlex.quote(first)} {shlex.quote(f'{first}.wav')}"
    return f"{n} skipped; convert {'each' if n_files > 1 else 'it'}: {command}"


def _opened(source: Any, name: str) -> IO[bytes]:
    """Return ``source`` as a file with a descriptor, at its beginning; AudioError where it is none, or empty."""
    file: Any
    if isinstance(source, (bytes, bytearray, memoryview)):
        file = scratch([bytes(source)])
    elif isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise AudioError(f"cannot open {name}: {reason}; expected an audio file") from None
        if not file.seekable():
            with file:
                file = _copied(file, name)
    elif source is None or not hasattr(source, "read"):
        raise AudioError(f"got {type(source).__name__}; expected a path, bytes, a binary file object, or (samples, rate_hz)")
    elif isinstance(source, io.BufferedReader) and isinstance(source.raw, io.FileIO) and source.seekable() and source.tell() == 0:
        file = open(os.dup(source.fileno()), "rb")
    else:
        file = _copied(source, name)
    if file.seek(0, io.SEEK_END) == 0:
        file.close()
        raise AudioError(f"{name} is empty, or was read to its end before; expected an audio file")
    return cast("IO[bytes]", file)


def _copied(file: Any, name: str) -> IO[bytes]:
    """Return the rest of any file object as a file with a descriptor."""

    def parts() -> Iterator[bytes]:
        while part := file.read(_PART_BYTES):
            if not isinstance(part, bytes):
                raise TypeError(f"it gives {type(part).__name__}")
            yield part

    try:
        return scratch(parts())
    except (ValueError, AttributeError, TypeError) as error:
        raise AudioError(f"cannot read {name}: {error}; expected a binary file object") from None


def _wave_of_16_bits(file: IO[bytes]) -> Samples | None:
    """Return where a WAVE file holds plain 16-bit samples, and go there; None for every other file.

    Most recordings are of this kind, and a short one takes libsndfile a third of the time that its answer takes.
    """
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    header = file.read(_WAVE_HEADER.size)
    if len(header) < _WAVE_HEADER.size:
        return None
    *kind, n_channels, rate_hz, frame_bytes, n_bits = _WAVE_HEADER.unpack(header)
    if (*kind, n_bits) != (b"RIFF", b"WAVE", b"fmt ", 16, 1, 16) or not frame_bytes == 2 * n_channels > 0:
        return None
    for chunk, start, n in islice(_chunks(file, len(header), 4, "little"), 2):
        if chunk == b"data" and 0 < n <= n_bytes - start and n % frame_bytes == 0:
            return Samples(n // frame_bytes, n_channels, rate_hz)
        if chunk != b"LIST":  # what ffmpeg writes about itself
            return None
    return None


def _true_content(file: IO[bytes], name: str, shown: str) -> tuple[IO[bytes], float]:
    """Return ``file``, or a copy whose header states its length where its own does not, and :attr:`Recording.announced_times`."""
    n_bytes = file.seek(0, io.SEEK_END)
    start = after_tags(file)
    file.seek(start)
    head = file.read(64)
    for position, magic, kind in _FOREIGN:
        if head[position : position + len(magic)] == magic:
            raise AudioError(f"{name} is {kind}, which is not decoded here; convert it on the way: {conversion(shown)}")
    copy: IO[bytes] | None = None
    times = 1.0
    if start == 0 and head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        copy, times = _wave(file, n_bytes, name)
    elif start == 0 and head[:4] == b"riff":
        file.seek(0)
        begins = (header := file.read(_PART_BYTES)).find(_WAVE_64_DATA) + 24
        n = int.from_bytes(header[begins - 8 : begins], "little") - 24
        times = n / (n_bytes - begins) if 24 <= begins < n_bytes else 1.0
    elif start == 0 and head[:4] == b"FORM":
        sound = ((at, n) for kind, at, n in _chunks(file, 12, 4, "big") if kind == b"SSND" and at < n_bytes)
        times = next((n / (n_bytes - at) for at, n in sound), 1.0)
    elif start == 0 and head[:4] == b".snd":
        begins, n = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        times = n / (n_bytes - begins) if begins < n_bytes and n < UNKNOWN_BYTES else 1.0
    elif start == 0 and head[:4] == b"OggS":
        times = _ogg_times(file, n_bytes)
    elif start == 0 and head[:4] == b"caff":
        copy, times = _core_audio(file, n_bytes)
    elif start == 0 and flac.is_flac(head):
        announced = flac.announced_samples(head)
        n_samples = flac.samples_in(file, n_bytes, announced)
        if n_samples == announced == 0:
            raise AudioError(f"{name} holds no samples: no frame of it is whole; expected some speech")
        if n_samples > 0 and (announced == 0 or n_samples < announced):
            copy = _patched(file, *flac.with_length(head, n_samples))
            times = max(1.0, announced / n_samples)
    elif start > 0 or head[:1] == b"\xff" or name.lower().endswith(".mp3"):  # a radio's begins in the middle of a frame
        frames, times = frames_alone(file, start, n_bytes, name)
        copy = None if frames is None else scratch(frames)
    file.seek(0)
    return file if copy is None else copy, times


def _patched(file: IO[bytes], position: int, patch: bytes) -> IO[bytes]:
    file.seek(0)
    copy = scratch(iter(lambda: file.read(_PART_BYTES), b""))
    raw: Any = getattr(copy, "raw")  # noqa: B009
    raw.seek(position)
    _write(raw, patch)
    raw.seek(0)
    return copy


def _chunks(file: IO[bytes], position: int, size_bytes: int, order: Any) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks of a RIFF or CAF file, from ``position`` on: name, where its content begins, and the length it states."""
    while True:
        file.seek(position)
        header = file.read(4 + size_bytes)
        if len(header) < 4 + size_bytes:
            return
        n = int.from_bytes(header[4:], order)
        position += len(header)
        yield header[:4], position, n
        position += n + n % 2 if size_bytes == 4 else n


def _ogg_times(file: IO[bytes], n_bytes: int) -> float:
    """Return 1 where the last page of an Ogg file is there, which is marked as such, or infinity; zeros or tags may follow it."""
    for start in range(n_bytes - _PART_BYTES, -_PART_BYTES, -_PART_BYTES):
        file.seek(max(0, start))
        part = file.read(_PART_BYTES + min(0, start) + 6)  # a page's mark, version and flags may cross into the next part
        last = part.rfind(b"OggS\0")
        if last >= 0:
            return 1.0 if last < len(part) - 5 and part[last + 5] & _LAST_PAGE else math.inf
    return math.inf


def _wave(file: IO[bytes], n_bytes: int, name: str) -> tuple[IO[bytes] | None, float]:
    """Return a copy that goes to the file's end where the header of a WAVE file was never completed, and MP3 out of WAVE.

    Behind that, how many times as many bytes as are there the header announces.
    """
    file.seek(0)
    form, riff_bytes = file.read(4), int.from_bytes(file.read(4), "little")
    format_tag, long_bytes = b"", 0
    for chunk, start, n in _chunks(file, 12, 4, "little"):
        if chunk == b"fmt ":
            file.seek(start)
            format_tag = file.read(2)
        elif chunk == b"ds64":
            file.seek(start + 8)
            long_bytes = int.from_bytes(file.read(8), "little")
        elif chunk == b"data":
            if format_tag == _MP3_IN_WAVE:
                frames, times = frames_alone(file, start, min(n_bytes, start + n), name)
                return None if frames is None else scratch(frames), times
            # An empty recording that was closed properly tells its own length right; what follows its data is no sound.
            never_closed = n == 0 and start < n_bytes and riff_bytes != n_bytes - 8
            if never_closed and form == b"RIFF":
                return _patched(file, start - 4, b"\xff\xff\xff\xff"), 1.0
            if form == b"RF64" and start < n_bytes and long_bytes == 0 and n in (0, 2**32 - 1):
                return _patched(file, 0, b"RIFF"), 1.0
            if form == b"RF64" and n == 2**32 - 1:
                n = long_bytes
            elif n >= UNKNOWN_BYTES:
                return None, 1.0
            return None, n / (n_bytes - start) if start < n_bytes else 1.0
    return None, 1.0


def _core_audio(file: IO[bytes], n_bytes: int) -> tuple[IO[bytes] | None, float]:
    """Return a copy that states its length where a CAF file says "to the end of the file" or announces more than is there.

    Behind that, how many times as many bytes as are there the header announces.
    """
    for chunk, start, n in _chunks(file, 8, 8, "big"):
        if chunk == b"pakt":  # libsndfile fills up what is missing of compressed packets with the last one
            break
        if chunk == b"data" and start < n_bytes < start + n:
            there = n_bytes - start
            return _patched(file, start - 8, there.to_bytes(8, "big")), 1.0 if n == 2**64 - 1 else n / there
    return None, 1.0
