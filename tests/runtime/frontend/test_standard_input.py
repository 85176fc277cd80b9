"""Standard input: what is a recording there, and what raw samples."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from edge_ser import AudioError
from edge_ser.frontend.audio import AudioReader
from edge_ser.frontend.standard_input import is_recording, sound_of
from tests.needs import need
from tests.sounds import Pipe, encoded

T = np.arange(24000) / 16000
SAMPLES = np.rint(8000 * np.sin(2 * np.pi * 200 * T) * np.sin(2 * np.pi * T)).astype(np.int16)


def heard(data: bytes, rate_hz: int = 16000, channels: int = 1, piece: int = 1 << 20) -> np.ndarray[Any, Any]:
    return np.concatenate(list(sound_of(io.BufferedReader(Pipe(data, piece)), rate_hz, channels)))


def recording(form: str, rate_hz: int = 16000, subtype: str | None = None, channels: int = 1) -> bytes:
    return encoded(np.repeat(SAMPLES[:, None] / 32768, channels, axis=1), rate_hz, format=form, subtype=subtype)


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_16"), ("FLAC", None), ("OGG", None), ("AIFF", None)]
)
def test_a_recording_is_decoded(form: str, subtype: str | None, piece: int) -> None:
    data = recording(form, 16000, subtype)
    with AudioReader(data) as reader:
        np.testing.assert_array_equal(heard(data, piece=piece).reshape(-1), reader.samples())


def test_a_recording_says_its_own_rate_and_channels() -> None:
    for form, subtype in (("WAV", "PCM_16"), ("FLAC", None)):
        data = recording(form, 48000, subtype, channels=2)
        with AudioReader(data) as reader:
            np.testing.assert_array_equal(heard(data, 16000, channels=1), reader.samples())


def test_mp3_is_known_with_and_without_a_tag() -> None:
    data = recording("MP3", 16000)
    n = heard(data).size
    assert abs(n - SAMPLES.size) < 5000
    assert heard(b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + data).size == n


def wav(data_bytes: int, body: bytes, *more: bytes) -> bytes:
    header = b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    return header + b"".join(more) + b"data" + struct.pack("<I", data_bytes) + body


def test_a_wav_header_that_does_not_know_its_length_yet() -> None:
    body = SAMPLES.tobytes()
    for announced in (0, 0xFFFFFFFF, 0x7FFFFFFF - 35, len(body)):
        np.testing.assert_array_equal(heard(wav(announced, body)) * 32768, SAMPLES)
    listed = wav(len(body), body + b"LIST\4\0\0\0abcd", b"LIST" + struct.pack("<I", 5) + b"hello\0")
    np.testing.assert_array_equal(heard(listed) * 32768, SAMPLES)


def test_it_is_heard_as_it_comes() -> None:
    given: list[int] = []

    class Live(Pipe):
        def readinto(self, buffer: Any) -> int:
            given.append(super().readinto(buffer))
            return given[-1]

    for data in (SAMPLES.tobytes(), wav(0, SAMPLES.tobytes())):
        given.clear()
        chunks: Iterator[np.ndarray[Any, Any]] = sound_of(io.BufferedReader(Live(data, 640), 640), 16000)
        assert next(chunks).size > 0
        assert sum(given) == 640


@given(st.binary(min_size=2, max_size=40))
def test_raw_samples_lose_an_odd_byte_alone(data: bytes) -> None:
    if not is_recording(data):
        np.testing.assert_array_equal(heard(data)[:, 0], np.frombuffer(data[: len(data) // 2 * 2], dtype="<i2"))


@pytest.mark.parametrize("seed", range(3))
def test_no_raw_sound_is_taken_for_a_recording(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quiet = np.rint(rng.normal(0, 2, 200_000)).astype("<i2")  # -1 and -2 look like the beginning of an MPEG frame
    loud = np.rint(rng.normal(0, 3000, 200_000)).astype("<i2")
    for samples in (quiet, loud):
        assert not any(is_recording(samples[i : i + 2048].tobytes()) for i in range(0, len(samples), 50))


def test_what_is_no_sound() -> None:
    for data, message in (
        (b"", "ended without a sample"),
        (b"a", "ended without a sample"),
        (wav(0, b""), "ended without a sample"),
        (b"fLaC" + bytes(100), "standard input is not readable audio"),
        (b"RIFF\0\0\0\0AVI " + bytes(100), "standard input is AVI, which is not decoded here"),
    ):
        with pytest.raises(AudioError, match=message):
            heard(data)


def test_what_ffmpeg_writes_to_a_pipe(speech: Path) -> None:
    need("ffmpeg")
    command = ["ffmpeg", "-loglevel", "error", "-i", str(speech), "-ar", "16000", "-f", "wav", "-"]
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    samples, _ = soundfile.read(speech, dtype="int16")
    assert heard(piped).size == len(samples)
