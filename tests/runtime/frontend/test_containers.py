"""Files as other programs leave them: what each one is decoded to, or says."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_ser.arrays import AnyArray, Float32Array
from edge_ser.errors import AudioError, AudioWarning, EdgeSerError
from edge_ser.frontend import containers
from edge_ser.frontend.audio import AudioReader
from tests.commanding import COMMAND
from tests.needs import need
from tests.sounds import encoded

GOLDEN = Path(__file__).parents[2] / "golden"
INPUTS = GOLDEN / "inputs"
SPEECH: Float32Array = soundfile.read(GOLDEN / "synthetic_speech.flac", dtype="float32")[0][:40000]
Read = Callable[[bytes], Float32Array]


@pytest.fixture
def read(capfd: pytest.CaptureFixture[str]) -> Read:
    """Return a reader of a file's bytes that fails where the decoder prints anything."""

    def checked(content: bytes) -> Float32Array:
        with AudioReader(content) as reader:
            samples = reader.samples()
            assert len(samples) == reader.n_samples
        assert capfd.readouterr() == ("", "")
        return samples

    return checked


def mp3(rate_hz: int, mode: str, level: float, samples: AnyArray = SPEECH) -> bytes:
    """Return an MP3 as an encoder writes it to a pipe: without its first frame, which states the length."""
    content = encoded(samples, rate_hz, format="MP3", bitrate_mode=mode, compression_level=level)
    first = content.index(b"\xff", 0)
    marker = max(content.find(b"Xing"), content.find(b"Info"))
    if marker < 0:  # the frames are too short for it
        return content
    return content[content.index(content[first : first + 2], marker) :]


@pytest.mark.parametrize("rate_hz", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize(("mode", "level"), [("CONSTANT", 0.0), ("CONSTANT", 0.5), ("CONSTANT", 0.9), ("VARIABLE", 0.3)])
def test_an_mp3_without_its_length_is_decoded_to_its_end(rate_hz: int, mode: str, level: float, read: Read) -> None:
    stated = encoded(SPEECH, rate_hz, format="MP3", bitrate_mode=mode, compression_level=level)
    with AudioReader(mp3(rate_hz, mode, level), rate_hz) as reader, AudioReader(stated, rate_hz) as expected:
        samples, whole = reader.samples(), expected.samples()
        # The encoder's delay and its padding, which nothing tells here, stay.
        delay = 0 if len(whole) == len(samples) else 576
        np.testing.assert_allclose(samples[delay : delay + len(whole)], whole, atol=1e-6)
        assert len(samples) >= len(SPEECH)
        assert len(samples) < len(SPEECH) + 3 * 1152
    read(mp3(rate_hz, mode, level))


def test_loud_and_silent_halves_of_a_variable_bit_rate_are_both_there(read: Read) -> None:
    noise = (0.5 * np.random.default_rng(0).standard_normal(16000 * 5)).astype(np.float32)
    for parts in ((noise, 0 * noise), (0 * noise, noise)):
        samples = read(mp3(16000, "VARIABLE", 0.3, np.concatenate(parts)))
        assert len(samples) == pytest.approx(160000, abs=2000)
        quiet, loud = sorted(float(half.std()) for half in (samples[:78000], samples[82000:]))
        assert (quiet < 1e-3, loud > 0.1) == (True, True)


ID3 = b"ID3\x04\0\0\0\0\x02\x00" + bytes(256)
TRAILERS = [b"TAG" + bytes(125), b"APETAGEX" + struct.pack("<II", 2000, 32) + bytes(16 + 32), bytes(3000), b"\xff\xfb" * 700]


@pytest.mark.parametrize("trailer", [b"", *TRAILERS])
@pytest.mark.parametrize("stated", [True, False])
def test_tags_and_rubbish_around_an_mp3_change_nothing(stated: bool, trailer: bytes, read: Read) -> None:
    content = encoded(SPEECH, format="MP3") if stated else mp3(16000, "CONSTANT", 0.5)
    expected = read(content)
    assert np.array_equal(read(ID3 + content + trailer), expected)
    cut = read(mp3(16000, "CONSTANT", 0.5) + content[-300:-200])  # a frame that was being written
    assert len(cut) >= len(SPEECH)


def test_an_mp3_with_a_hole_is_refused_before_a_block_is_read() -> None:
    plain = mp3(16000, "CONSTANT", 0.5)
    hole = plain[: len(plain) // 2] + bytes(20000) + plain[len(plain) // 2 :]
    with pytest.raises(AudioError, match=r"is damaged at 1\.\d\d s: what follows is no MP3"):
        AudioReader(hole)


@pytest.mark.parametrize("name", ["cbr-no-xing-pipe.mp3", "vbr-from-pipe.mp3"])
def test_what_encoders_write_to_a_pipe(name: str, read: Read) -> None:
    samples = read((INPUTS / name).read_bytes())
    assert 2.5 <= len(samples) / 16000 <= 2.6


def test_an_mp3_that_begins_in_the_middle_of_a_frame(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = mp3(44100, "CONSTANT", 0.5)
    (tmp_path / "radio.mp3").write_bytes(content[10:])
    with AudioReader(content) as whole, AudioReader(tmp_path / "radio.mp3") as reader:
        assert whole.n_source_frames - reader.n_source_frames == 1152
        assert len(reader.samples()) == reader.n_samples
    assert capfd.readouterr() == ("", "")


def test_a_recording_of_unknown_length_plays_to_its_end_as_a_microphone() -> None:
    from edge_ser.live.capture import in_real_time

    with AudioReader(INPUTS / "vbr-from-pipe.mp3") as reader:
        heard = [c.chunk for c in in_real_time(reader, clock=lambda: 0.0, sleep=lambda s: None)]
    assert sum(map(len, heard)) == reader.n_samples


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("n", [1, 4095, 40000])
def test_flac_of_unknown_length(n: int, channels: int, read: Read) -> None:
    samples = np.stack([SPEECH[-n:]] * channels, axis=1)
    whole = encoded(samples, format="FLAC", subtype="PCM_16")
    content = bytearray(whole)
    content[21] &= 0xF0  # the 36 bits of the number of samples
    content[22:26] = bytes(4)
    assert np.array_equal(read(bytes(content)), read(whole))
    if n == 40000:  # killed while it wrote a frame: what is whole
        samples = read(bytes(content[:-100]))
        assert 30000 < len(samples) < 40000
        assert np.array_equal(samples, read(whole)[: len(samples)])
    with pytest.raises(AudioError, match="holds no samples"):
        read(bytes(content[:60]))


def wave(riff_bytes: int, data_bytes: int, behind: bytes = b"", rf64: bool = False) -> bytes:
    content = bytearray(encoded(SPEECH, format="RF64" if rf64 else "WAV", subtype="PCM_16") + behind)
    data = content.index(b"data")
    content[4:8] = struct.pack("<I", riff_bytes)
    content[data + 4 : data + 8] = struct.pack("<I", data_bytes)
    if rf64:
        content[20:44] = bytes(24)
    return bytes(content)


@pytest.mark.parametrize("riff_bytes", [0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("data_bytes", [0, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_wave_file_that_was_never_closed_goes_to_its_end(riff_bytes: int, data_bytes: int, read: Read) -> None:
    np.testing.assert_allclose(read(wave(riff_bytes, data_bytes)), SPEECH, atol=1 / 2**15)
    assert np.array_equal(read(wave(0xFFFFFFFF, 0xFFFFFFFF, rf64=True)), read(wave(riff_bytes, data_bytes)))


def test_an_empty_recording_has_no_sound_in_what_follows_it() -> None:
    content = bytearray(encoded(SPEECH[:0], format="WAV", subtype="PCM_16") + b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf59.27.100\0")
    content[4:8] = struct.pack("<I", len(content) - 8)
    with pytest.raises(AudioError, match="holds no samples, only a header; expected some speech"):
        AudioReader(bytes(content))


@pytest.mark.parametrize("name", ["WAV", "W64", "AIFF", "AU"])
def test_a_header_that_announces_what_is_not_there_holds_no_samples(name: str) -> None:
    content = encoded(SPEECH, format=name, subtype="PCM_16")
    header = content[: len(content) - 2 * len(SPEECH)]
    with pytest.raises(AudioError, match="holds no samples, only a header; expected some speech"):
        AudioReader(header)


@pytest.mark.parametrize(("n", "rate_hz"), [(64, 768_000), (17, 192_000), (100, 16000)])
def test_more_channels_and_rate_than_speech_has_are_refused(n: int, rate_hz: int) -> None:
    content = encoded(np.zeros((10, n), dtype=np.float32), rate_hz, format="WAV", subtype="PCM_16")
    with pytest.raises(AudioError, match=rf"has {n} channels at {rate_hz} Hz; expected at most 64 channels, .* 3072000 samples"):
        AudioReader(content)


def test_a_block_is_bounded_whatever_the_channels() -> None:
    with AudioReader(encoded(np.zeros((20000, 60), dtype=np.float32), 48000, format="WAV", subtype="PCM_16"), 48000) as reader:
        assert max(map(len, reader.blocks())) * 60 <= 2**20


def test_more_samples_than_bytes_can_hold_are_refused() -> None:
    content = bytearray(encoded(SPEECH, format="FLAC"))
    content[21:26] = (content[21] & 0xF0 | 15).to_bytes(1, "big") + b"\xff" * 4
    with pytest.raises(AudioError, match=r"announces 68719476735 samples of 1 channels in \d+ bytes; expected at most 512"):
        AudioReader(bytes(content[:200]))
    with pytest.warns(AudioWarning, match=r"announces 4294967\.30 s, 2\.50 s are there"), AudioReader(bytes(content)) as reader:
        assert len(reader.samples()) == len(SPEECH)


@pytest.mark.parametrize("name", ["phone.m4a", "browser.webm"])
def test_what_phones_and_browsers_record_names_the_pipe_that_works(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a b {name}"
    shutil.copy(INPUTS / name, path)
    with pytest.raises(AudioError, match="which is not decoded here; convert it on the way: ffmpeg ") as caught:
        AudioReader(path)
    assert "\n" not in str(caught.value)
    ffmpeg, _, predict = str(caught.value).partition("on the way: ")[2].partition(" | ")
    assert predict == "edge-ser predict -"
    need("ffmpeg")
    wav = subprocess.run(shlex.split(ffmpeg), capture_output=True, check=True).stdout
    command = [*COMMAND, *shlex.split(predict)[1:], "--json"]
    answer = subprocess.run(command, input=wav, capture_output=True, check=True)
    assert b'"duration_s": 2.5' in answer.stdout
    assert answer.stderr == b""


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftyp3gp4", "MP4"),
        (b"#!AMR\n<", "AMR"),
        (b"#!AMR-WB\n", "AMR"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "WMA"),
        (b"\xff\xf1\x50\x80", "AAC"),
        (b"ID3\x04\0\0\0\0\0\x00\xff\xf1\x50\x80", "AAC"),
        (b"OggS" + bytes(24) + b"Speex   1.2", "Speex"),
    ],
)
def test_what_is_not_decoded_here_says_what_it_is(head: bytes, kind: str) -> None:
    with pytest.raises(AudioError, match=rf"audio is {kind}.*ffmpeg -v error -i FILE -f wav - \| edge-ser predict -$"):
        AudioReader(head + bytes(200))


def test_nothing_calls_back_into_python_while_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("libsndfile's callbacks swallow a Ctrl-C")

    content = encoded(SPEECH, format="FLAC")
    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", refuse)
    expected = AudioReader(content).samples()
    assert np.array_equal(AudioReader(io.BytesIO(content)).samples(), expected)

    class Interrupted(io.BytesIO):
        def read(self, n: int | None = -1) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AudioReader(Interrupted(content))


def test_a_file_object_is_read_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(b"what lies before" + encoded(SPEECH, format="WAV"))
    with (tmp_path / "two").open("rb") as file:
        file.seek(16)
        assert len(AudioReader(file).samples()) == len(SPEECH)
        with pytest.raises(AudioError, match="read to its end before"):
            AudioReader(file)


@pytest.mark.parametrize("has_memfd", [True, False])
def test_what_is_copied_is_the_same_in_memory_and_on_disk(has_memfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr(containers, "_IN_MEMORY_BYTES", 1000)
    parts = [bytes([i]) * 300 for i in range(9)]
    with containers.scratch(parts) as file:
        assert file.read() == b"".join(parts)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "r+"))
    with pytest.raises(AudioError, match="cannot read audio: No space left on device"):
        AudioReader(bytes(2000))


def info(content: bytes) -> bytes:
    """Return a WAVE file with what ffmpeg writes about itself before the samples."""
    return content[:36] + b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf59.27.100\0" + content[36:]


WAVES = [
    *(encoded(np.stack([SPEECH[20000:20300]] * n, axis=1), format="WAV", subtype="PCM_16") for n in (1, 2, 3)),
    info(encoded(SPEECH[20000:20300], format="WAV", subtype="PCM_16")),
    encoded(SPEECH[20000:20300], format="WAV", subtype="PCM_16") + b"LIST\x04\0\0\0INFO",
]


def outcome(content: bytes) -> Any:
    """Return what is read of a file, or the complaint."""
    try:
        with AudioReader(content) as reader:
            return reader.source_rate_hz, reader.duration_s, reader.samples().tobytes()
    except AudioError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(
    base=st.integers(0, len(WAVES) - 1),
    edits=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2),
    cut=st.integers(1, 1000),
)
@example(base=0, edits=[], cut=1000)
@example(base=3, edits=[], cut=1000)
def test_samples_that_are_read_as_they_are_are_those_of_libsndfile(base: int, edits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(WAVES[base][:cut] if cut < 700 else WAVES[base])
    for position, value in edits:
        if position < len(content):
            content[position] = value
    read_here = outcome(bytes(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "_wave_of_16_bits", lambda file: None)
        decoded = outcome(bytes(content))
    if not (isinstance(read_here, str) and isinstance(decoded, str)):  # of a rate beyond 2^31 they complain in other words
        assert read_here == decoded


@pytest.mark.parametrize("base", range(len(WAVES)))
def test_wave_of_16_bits_needs_no_libsndfile(base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outcome(WAVES[base])
    assert len(expected) == 3
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert outcome(WAVES[base]) == expected


BASES = [
    encoded(SPEECH[:4000], format="WAV", subtype="PCM_16"),
    encoded(SPEECH[:4000], format="FLAC"),
    mp3(16000, "VARIABLE", 0.3)[:6000],
    encoded(SPEECH[:8000], format="MP3"),
    wave(0, 0)[:9000],
    wave(0, 0, rf64=True)[:9000],
    encoded(SPEECH[:8000], format="CAF", subtype="PCM_16"),
    encoded(SPEECH[:4000], format="W64", subtype="PCM_16"),
    b"fLaC\0\0\0\x22" + encoded(SPEECH[:8000], format="FLAC")[8:21] + bytes(5) + encoded(SPEECH[:8000], format="FLAC")[26:],
]


@settings(max_examples=200, deadline=None)
@given(
    base=st.integers(0, len(BASES) - 1),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 9000),
)
def test_damaged_files_fail_only_with_our_errors(base: int, edits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(BASES[base][:cut] if cut < len(BASES[base]) else BASES[base])
    for position, value in edits:
        if position < len(content):
            content[position] = value
    try:
        with AudioReader(bytes(content)) as reader:
            for block in reader.blocks():
                assert np.isfinite(block).all()
    except EdgeSerError:
        pass
