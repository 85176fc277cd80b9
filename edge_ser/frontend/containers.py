# ruff: noqa: SIM115 (whoever gets a file closes it)
"""Files as people have them: what each one is, and a copy with a true header where a pipe or a killed recorder left none.

libsndfile decodes what :func:`open_recording` returns. It is always a file with a descriptor: callbacks into Python would
swallow a Ctrl-C, and whatever else is raised in them.
"""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from edge_ser.errors import AudioError
from edge_ser.frontend.mpeg import after_tags, frames_alone

_IN_MEMORY_BYTES = 2**26
_PART_BYTES = 2**20
_MP3_IN_WAVE = b"\x55\x00"
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


def scratch(parts: Iterable[bytes]) -> IO[bytes]:
    """Return a nameless file, at its beginning, that holds ``parts``: in memory up to 64 MiB, where the system can, or on disk."""
    import shutil
    import tempfile

    file: IO[bytes]
    try:
        file, room = open(os.memfd_create("edge-ser"), "w+b"), _IN_MEMORY_BYTES
    except (AttributeError, OSError):
        file, room = tempfile.TemporaryFile(), sys.maxsize
    try:
        for part in parts:
            if file.tell() + len(part) > room:
                with file as full:
                    file, room = tempfile.TemporaryFile(), sys.maxsize
                    full.seek(0)
                    shutil.copyfileobj(full, file)
            file.write(part)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def open_recording(source: Any) -> tuple[IO[bytes], str]:
    """Return a file with a descriptor that libsndfile decodes to its true end, the caller's to close, and the source's name.

    ``source`` is a path, a file's bytes, or a binary file object, read from where it stands. AudioError for one that cannot be
    read, is empty, is of a kind that is not decoded here (with the command that converts it), or ends before its header says.
    """
    file, name = _opened(source)
    try:
        content = _true_content(file, name, shlex.quote(name) if isinstance(source, (str, os.PathLike)) else "FILE")
    except OSError as error:
        file.close()
        raise AudioError(f"cannot read {name}: {error.strerror}; expected an audio file") from None
    except BaseException:
        file.close()
        raise
    if content is not file:
        file.close()
    return content, name


def conversion(shown: str) -> str:
    """Return the command that answers about what ffmpeg decodes, the file ``shown`` as it is quoted."""
    return f"ffmpeg -v error -i {shown} -f wav - | edge-ser predict -"


def _opened(source: Any) -> tuple[IO[bytes], str]:
    """Return ``source`` as a file with a descriptor, at its beginning."""
    file: Any
    if isinstance(source, (str, os.PathLike)):
        name = str(os.fspath(source))
        try:
            file = open(source, "rb")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise AudioError(f"cannot open {name}: {reason}; expected an audio file") from None
        if file.seekable():
            return _not_empty(file, name), name
        with file:
            return _copied(file, name), name
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _not_empty(scratch([bytes(source)]), "audio"), "audio"
    if source is None or not hasattr(source, "read"):
        raise AudioError(f"got {type(source).__name__}; expected a path, bytes, a binary file object, or (samples, rate_hz)")
    name = str(getattr(source, "name", "audio"))
    if isinstance(source, io.BufferedReader) and isinstance(source.raw, io.FileIO) and source.seekable() and source.tell() == 0:
        return _not_empty(open(os.dup(source.fileno()), "rb"), name), name
    return _copied(source, name), name


def _copied(file: Any, name: str) -> IO[bytes]:
    """Return the rest of any file object as a file with a descriptor."""

    def parts() -> Iterator[bytes]:
        while part := file.read(_PART_BYTES):
            if not isinstance(part, bytes):
                raise TypeError(f"it gives {type(part).__name__}")
            yield part

    try:
        return _not_empty(scratch(parts()), name)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise AudioError(f"cannot read {name}: {error}; expected a binary file object") from None


def _not_empty(file: IO[bytes], name: str) -> IO[bytes]:
    try:
        empty = file.seek(0, io.SEEK_END) == 0
        file.seek(0)
    except OSError as error:
        file.close()
        raise AudioError(f"cannot read {name}: {error.strerror}; expected an audio file") from None
    if empty:
        file.close()
        raise AudioError(f"{name} is empty, or was read to its end before; expected an audio file")
    return file


def _true_content(file: IO[bytes], name: str, shown: str) -> IO[bytes]:
    """Return ``file``, or a copy whose header states its length where its own does not."""
    n_bytes = file.seek(0, io.SEEK_END)
    start = after_tags(file)
    file.seek(start)
    head = file.read(64)
    for position, magic, kind in _FOREIGN:
        if head[position : position + len(magic)] == magic:
            raise AudioError(f"{name} is {kind}, which is not decoded here; convert it on the way: {conversion(shown)}")
    copy: IO[bytes] | None = None
    if start == 0 and head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        copy = _wave(file, n_bytes, name)
    elif start == 0 and head[:4] == b"caff":
        copy = _core_audio(file, n_bytes)
    elif start == 0 and head[:8] == b"fLaC\0\0\0\x22" and int.from_bytes(head[21:26], "big") & (2**36 - 1) == 0:
        copy = _patched(file, 21, (_flac_samples(file, n_bytes) | (head[21] & 0xF0) << 32).to_bytes(5, "big"))
    elif start > 0 or head[:1] == b"\xff":
        frames = frames_alone(file, start, n_bytes, name)
        copy = None if frames is None else scratch(frames)
    file.seek(0)
    return file if copy is None else copy


def _patched(file: IO[bytes], position: int, patch: bytes) -> IO[bytes]:
    file.seek(0)
    copy = scratch(iter(lambda: file.read(_PART_BYTES), b""))
    copy.seek(position)
    copy.write(patch)
    copy.seek(0)
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
        position += n + n % 2 if order == "little" else n


def _wave(file: IO[bytes], n_bytes: int, name: str) -> IO[bytes] | None:
    """Return a copy that goes to the file's end where the header of a WAVE file was never completed, and MP3 out of WAVE."""
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
                frames = frames_alone(file, start, min(n_bytes, start + n), name)
                return None if frames is None else scratch(frames)
            # An empty recording that was closed properly tells its own length right; what follows its data is no sound.
            never_closed = n == 0 and start < n_bytes and riff_bytes != n_bytes - 8
            if never_closed and form == b"RIFF":
                return _patched(file, start - 4, b"\xff\xff\xff\xff")
            if form == b"RF64" and start < n_bytes and long_bytes == 0 and n in (0, 2**32 - 1):
                return _patched(file, 0, b"RIFF")
            return None
    return None


def _core_audio(file: IO[bytes], n_bytes: int) -> IO[bytes] | None:
    """Return a copy that states its length where the length in a CAF file says "to the end of the file"."""
    for chunk, start, n in _chunks(file, 8, 8, "big"):
        if chunk == b"data" and n == 2**64 - 1:
            return _patched(file, start - 8, (n_bytes - start).to_bytes(8, "big"))
    return None


def _flac_samples(file: IO[bytes], n_bytes: int) -> int:
    """Return how many samples a FLAC file holds by its last whole frame (RFC 9639, section 9), 0 if there is none."""
    file.seek(8)
    info = file.read(34)
    block, n_channels, n_bits = (
        int.from_bytes(info[2:4], "big"),
        (info[12] >> 1 & 7) + 1,
        ((info[12] & 1) << 4 | info[13] >> 4) + 1,
    )
    file.seek(0)
    position, last = 4, False
    while not last:
        file.seek(position)
        header = file.read(4)
        if len(header) < 4:
            return 0
        position, last = position + 4 + int.from_bytes(header[1:], "big"), bool(header[0] & 0x80)
    file.seek(position)
    opening = file.read(4)
    if len(opening) < 4 or opening[0] != 0xFF or opening[1] & 0xFE != 0xF8:
        return 0
    tail_start = max(position, n_bytes - 2 * (4 * block * n_channels + 64))
    file.seek(tail_start)
    tail = file.read(n_bytes - tail_start)
    first = tail.rfind(opening[:2])
    while first >= 0:
        frame = tail[first:]
        # The rate and the sample size are those of the first frame; stereo may be coded otherwise in every one.
        if len(frame) > 16 and frame[2] & 15 == opening[2] & 15 and frame[3] & 15 == opening[3] & 15:
            found = _flac_frame(frame, block)
            if found is not None:
                begins, n = found
                whole = _crc(frame[:-2], 16, 0x8005) == int.from_bytes(frame[-2:], "big")
                return begins + n if whole else begins
        first = tail.rfind(opening[:2], 0, first)
    return 0


def _flac_frame(frame: bytes, block: int) -> tuple[int, int] | None:
    """Return a frame's first sample and its number of samples; None where this is no frame header."""
    n_more = 0  # the bytes that the number's first one announces, as in UTF-8
    while n_more < 7 and frame[4] & (0x80 >> n_more):
        n_more += 1
    if n_more == 1:
        return None
    number, at = frame[4] & (0x7F >> n_more), 5
    for _ in range(n_more - 1):
        number, at = number << 6 | frame[at] & 0x3F, at + 1
    code, rate_code = frame[2] >> 4, frame[2] & 15
    if code in (6, 7):
        n, at = int.from_bytes(frame[at : at + code - 5], "big") + 1, at + code - 5
    else:
        n = 192 if code == 1 else 576 << code - 2 if 2 <= code <= 5 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if code == 0 or _crc(frame[:at], 8, 0x07) != frame[at]:
        return None
    return (number if frame[1] & 1 else number * block), n


def _crc(content: bytes, width: int, polynomial: int) -> int:
    top, mask, crc = 1 << width - 1, (1 << width) - 1, 0
    for byte in content:
        crc ^= byte << width - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & mask
    return crc
