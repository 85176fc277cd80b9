"""MPEG audio layer III counted frame by frame, so that a length is known where no header states it, or a wrong one.

The decoder guesses the length of an MP3 without a Xing header from its size and first bit rate, complains about tags on
standard error, and stops where it guessed. So it gets the frames alone, behind a header that states how many there are.
Source: ISO/IEC 11172-3 and 13818-3, the frame header; the Xing header as LAME writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from edge_ser.errors import AudioError

_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version: MPEG 1, 2, 2.5
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HEADER_KBITS_INDEX = 8  # a bit rate whose frame holds a Xing header, whatever the version and rate
_JUNK_BYTES = 2**13  # that may lie between two frames, or behind the last
_VBRI_AT = 36


@dataclass(frozen=True)
class Header:
    """What the first four bytes of a frame say."""

    n_bytes: int
    n_samples: int
    kind: tuple[int, int, bool]  # version, rate in Hz, mono: the same in all frames of a stream
    xing_at: int  # behind the side information


@lru_cache(maxsize=4096)
def frame_header(four: bytes) -> Header | None:
    """Return what a frame's first four bytes say; None if they are no header of layer III at a stated bit rate."""
    if len(four) < 4 or four[0] != 0xFF or four[1] & 0xE6 != 0xE2:
        return None
    version, kbits, rate = four[1] >> 3 & 3, four[2] >> 4, four[2] >> 2 & 3
    if version == 1 or kbits in (0, 15) or rate == 3:
        return None
    n_samples, mono, rate_hz = 1152 if version == 3 else 576, four[3] >> 6 == 3, _RATES_HZ[version][rate]
    bits_s = (_KBITS_1 if version == 3 else _KBITS_2)[kbits] * 1000
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Header(n_samples // 8 * bits_s // rate_hz + (four[2] >> 1 & 1), n_samples, (version, rate_hz, mono), 4 + side)


def _at(file: IO[bytes], position: int, n: int) -> bytes:
    file.seek(position)
    return file.read(n)


def _tag_bytes(start: bytes) -> int:
    """Return the length of the tag that begins with these 32 bytes, 0 if it is none: ID3v2, ID3v1 or APE."""
    if start[:3] == b"ID3" and len(start) >= 10:
        footer = 10 if start[5] & 0x10 else 0
        return 10 + footer + sum((byte & 127) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    if start[:3] == b"TAG":
        return 128
    if start[:8] == b"APETAGEX":
        return 32 + int.from_bytes(start[12:16], "little")
    return 0


def after_tags(file: IO[bytes]) -> int:
    """Return where the audio begins, behind the tags at the front of ``file``."""
    position = 0
    while n := _tag_bytes(_at(file, position, 32)):
        position += n
    return position


def _next_frame(file: IO[bytes], position: int, stop: int, kind: tuple[int, int, bool] | None) -> int | None:
    """Return where the next frame begins that another one, or the end, follows; None if none is near."""
    while n := _tag_bytes(_at(file, position, 32)):
        position += n
    near = _at(file, position, min(_JUNK_BYTES, max(0, stop - position)))
    first = near.find(0xFF)
    while first >= 0:
        header = frame_header(near[first : first + 4])
        if header is not None and kind in (None, header.kind):
            behind = position + first + header.n_bytes
            following = frame_header(_at(file, behind, 4))
            if behind == stop or (following is not None and following.kind == header.kind):
                return position + first
        first = near.find(0xFF, first + 1)
    return None


def frames_alone(file: IO[bytes], start: int, stop: int, name: str) -> tuple[Iterator[bytes] | None, float]:
    """Return the stream in bytes [start, stop) of ``file`` as parts: a header that states its length, then its frames alone.

    None when the file is so already, or when these are no frames of layer III (left to the decoder). Behind that, how many times
    as many frames as are there its header announces; 1 if all are. AudioError where more than some bytes in the middle are no
    audio.
    """
    first = position = _next_frame(file, start, stop, None)
    if first is None or position is None:
        return None, 1.0
    opening = _at(file, first, 4)
    header = frame_header(opening)
    if header is None:
        return None, 1.0
    runs, n_frames = [[first, first]], 0
    file.seek(position)
    while position < stop:
        frame = frame_header(file.read(4))
        if frame is not None and frame.kind == header.kind:
            if position + frame.n_bytes > stop:
                break  # cut off while it was written
            position += frame.n_bytes
            n_frames += 1
            runs[-1][1] = position
            file.seek(position)
            continue
        behind = _next_frame(file, position, stop, header.kind)
        if behind is None:
            tags = _tag_bytes(_at(file, position, 32))
            if not tags and stop - position > _JUNK_BYTES:
                at_s = n_frames * header.n_samples / header.kind[1]
                raise AudioError(f"{name} is damaged at {at_s:.2f} s: what follows is no MP3, {stop - position} bytes")
            position = position + tags if tags else stop
        else:
            runs.append([behind, behind])
            position = behind
            file.seek(position)
    told = _at(file, first, header.n_bytes)
    is_xing = told[header.xing_at : header.xing_at + 4] in (b"Xing", b"Info")
    is_vbri = told[_VBRI_AT : _VBRI_AT + 4] == b"VBRI"
    announced = None
    if is_xing and told[header.xing_at + 7] & 1:
        announced = int.from_bytes(told[header.xing_at + 8 : header.xing_at + 12], "big")
    elif is_vbri:
        announced = int.from_bytes(told[_VBRI_AT + 14 : _VBRI_AT + 18], "big")
    n_audio = n_frames - (is_xing or is_vbri)
    if is_xing and announced == n_audio:
        return None if runs == [[0, stop]] else _parts(file, b"", runs), 1.0
    if is_xing or is_vbri:
        runs[0][0] += header.n_bytes
    times = announced / n_audio if announced is not None and announced > n_audio + 1 > 1 else 1.0  # some count the header
    return _parts(file, _stating(opening, n_audio, sum(b - a for a, b in runs)), runs), times


def _stating(opening: bytes, n_frames: int, n_bytes: int) -> bytes:
    """Return a silent frame like the one that starts with ``opening``, whose Xing header states the stream's length."""
    start = bytes([0xFF, opening[1] | 1, _HEADER_KBITS_INDEX << 4 | opening[2] & 0x0C, opening[3]])
    header = frame_header(start)
    assert header is not None
    whole = start + bytes(header.xing_at - 4) + b"Info" + (3).to_bytes(4, "big")
    whole += n_frames.to_bytes(4, "big") + (n_bytes + header.n_bytes).to_bytes(4, "big")
    return whole + bytes(header.n_bytes - len(whole))


def _parts(file: IO[bytes], front: bytes, runs: list[list[int]]) -> Iterator[bytes]:
    yield front
    for start, stop in runs:
        while start < stop:
            part = _at(file, start, min(2**20, stop - start))
            if not part:  # shortened meanwhile
                return
            yield part
            start += len(part)
