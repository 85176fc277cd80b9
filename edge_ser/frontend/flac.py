"""The true length of a FLAC file whose header does not know it, or whose end is missing: its last frame says where it is.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9 (frames).
"""

from __future__ import annotations

from typing import IO

_LENGTH_AT = 21  # in the file: four bits of the sample size, then the 36 bits of the number of samples
_TAIL_BYTES = 2**20  # no frame of a streamable file is longer


def is_flac(head: bytes) -> bool:
    """Return whether a file that begins with ``head``, 42 bytes of it, is FLAC."""
    return head[:8] in (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22") and len(head) >= 42


def announced_samples(head: bytes) -> int:
    """Return how many samples per channel the header of such a file announces; 0 where it does not know."""
    return int.from_bytes(head[_LENGTH_AT : _LENGTH_AT + 5], "big") & (2**36 - 1)


def with_length(head: bytes, n_samples: int) -> tuple[int, bytes]:
    """Return where which bytes belong in the file that begins with ``head`` to state its length, in samples per channel."""
    return _LENGTH_AT, ((head[_LENGTH_AT] & 0xF0) << 32 | n_samples).to_bytes(5, "big")


def samples_in(file: IO[bytes], n_bytes: int, announced: int) -> int:
    """Return how many samples a FLAC file of ``n_bytes`` holds, per channel, by its last whole frame; 0 if there is none.

    It is ``announced`` where the last frame ends there: whether that one is whole is left to the decoder.
    """
    file.seek(8)
    info = file.read(34)
    block, n_channels = int.from_bytes(info[2:4], "big"), (info[12] >> 1 & 7) + 1
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
    tail_start = max(position, n_bytes - min(_TAIL_BYTES, 2 * (4 * block * n_channels + 64)))
    file.seek(tail_start)
    tail = file.read(n_bytes - tail_start)
    first, n_found = tail.rfind(opening[:2]), 0
    while first >= 0:
        frame = tail[first : first + 17].ljust(17, b"\0")  # a header is no longer
        # The rate and the sample size are those of the first frame; stereo may be coded otherwise in every one.
        if frame[2] & 15 == opening[2] & 15 and frame[3] & 15 == opening[3] & 15:
            found = _frame(frame, block)
            if found is not None:
                # A frame that is cut off, or damaged, does not count.
                if announced == sum(found):
                    return announced
                if n_found == 0:
                    begins, n = found
                    end = first
                n_found += 1
                if announced == 0 or n_found == 2:  # once in millions of files the last frame holds what looks like a header
                    break
        first = tail.rfind(opening[:2], 0, first)
    if n_found == 0:
        return 0
    whole = _crc(tail[end:-2], 16, 0x8005) == int.from_bytes(tail[-2:], "big")
    return begins + n if whole else begins


def _frame(frame: bytes, block: int) -> tuple[int, int] | None:
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
