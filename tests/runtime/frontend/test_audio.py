from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser.arrays import AnyArray
from edge_ser.errors import AudioError, AudioWarning
from edge_ser.frontend.audio import AudioReader, AudioStream
from tests.sounds import Pipe, encoded

NOISE = (0.1 * np.random.default_rng(0).standard_normal(30_000)).astype(np.float32)


def read(source: Any) -> np.ndarray:
    with AudioReader(source) as reader:
        samples = reader.samples()
        assert samples.dtype == np.float32
        assert len(samples) == reader.n_samples
        return np.asarray(samples)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_arrays_of_any_rate_and_channels(rate_hz: int, channels: int) -> None:
    stacked = np.stack([NOISE] * channels, axis=1)
    samples = read((stacked, rate_hz))
    np.testing.assert_allclose(samples, soxr.resample(NOISE, rate_hz, 16000), atol=1e-6)


@pytest.mark.parametrize(("dtype", "scale"), [("int16", 2**15), ("int32", 2**31), ("float32", 1), ("float64", 1)])
def test_dtypes_mean_the_same_signal(dtype: str, scale: int) -> None:
    samples = read(((NOISE.astype(np.float64) * scale).astype(dtype), 16000))
    np.testing.assert_allclose(samples, NOISE, atol=1 / 2**15)


@pytest.mark.parametrize(
    ("how", "tolerance"),
    [
        ({"format": "WAV", "subtype": "PCM_16"}, 1e-4),
        ({"format": "WAV", "subtype": "FLOAT"}, 0),
        ({"format": "FLAC", "subtype": "PCM_24"}, 1e-6),
        ({"format": "OGG", "subtype": "VORBIS"}, 0.1),
        ({"format": "MP3"}, 0.1),
    ],
)
@pytest.mark.parametrize("wrap", [bytes, io.BytesIO, memoryview, bytearray])
def test_files_as_bytes_and_objects(how: dict[str, Any], tolerance: float, wrap: Callable[[bytes], Any]) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(32_000, dtype=np.float32) / 16000)
    samples = read(wrap(encoded(tone, 16000, **how)))
    assert len(samples) == len(tone)
    assert np.sqrt(np.mean((samples - tone) ** 2)) <= tolerance


def test_path_file_object_and_pipe_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(NOISE, 44100, format="WAV"))

    expected = read(path)
    assert np.array_equal(read(str(path)), expected)
    assert np.array_equal(read(Pipe(path.read_bytes())), expected)
    with path.open("rb") as file:
        assert np.array_equal(read(file), expected)
        assert not file.closed


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "how",
    [
        *({"format": "WAV", "subtype": subtype} for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")),
        *({"format": name} for name in ("RF64", "W64", "CAF", "AIFF", "AU", "FLAC", "MP3")),
    ],
)
def test_a_file_cut_short_gives_what_is_there_and_a_warning_with_both_lengths(how: dict[str, Any], channels: int) -> None:
    content = encoded(np.stack([np.tile(NOISE, 8)] * channels, axis=1), 16000, **how)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = read(content)
    assert caught == []
    with pytest.warns(AudioWarning, match="is cut off") as told:
        samples = read(content[: len(content) * 6 // 10])
    assert len(told) == 1
    lengths = re.search(r"announces ([\d.]+) s, ([\d.]+) s are there", str(told[0].message))
    assert lengths is not None
    assert float(lengths[1]) == pytest.approx(len(whole) / 16000, abs=0.15)
    assert float(lengths[2]) == pytest.approx(len(samples) / 16000, abs=0.005)
    assert 0.4 * len(whole) < len(samples) < 0.7 * len(whole)
    if how["format"] != "MP3":  # whose decoder looks back
        n = len(samples) - 1100  # half a block of ADPCM is noise
        assert np.array_equal(samples[:n], whole[:n])


def test_compressed_packets_that_are_cut_off_are_refused_rather_than_repeated() -> None:
    content = encoded(np.tile(NOISE, 8), 16000, format="CAF", subtype="ALAC_16")
    with pytest.raises(AudioError, match="is malformed"):
        read(content[: len(content) // 2])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_without_its_last_page_is_told(subtype: str) -> None:
    content = encoded(np.tile(NOISE, 8), 16000, format="OGG", subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = read(content)
    with pytest.warns(AudioWarning, match=r"is cut off: its last page is missing, \d\.\d\d s are there"):
        samples = read(content[: len(content) * 6 // 10])
    assert 0 < len(samples) < len(whole)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_what_follows_an_ogg_file_is_no_missing_page(subtype: str) -> None:
    content = encoded(NOISE, 16000, format="OGG", subtype=subtype)
    whole = read(content)
    mark = content.rfind(b"OggS")
    at_a_border = [bytes(2**20 - (len(content) - mark) + i) for i in range(8)]  # the mark lies across two parts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for behind in (bytes(70_000), bytes(2_200_000), *at_a_border):
            assert np.array_equal(read(content + behind), whole)
    with pytest.warns(AudioWarning, match="its last page is missing"):
        read(content[: mark + 4] + bytes(70_000))


def test_a_header_that_counts_a_sample_too_many_is_no_cut() -> None:
    content = encoded(NOISE, 16000, format="WAV", subtype="PCM_16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(content[:-2])


def spoiled(index: int, value: float) -> np.ndarray:
    samples = NOISE.copy()
    samples[index] = value
    return np.asarray(samples)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.wav", "cannot open missing.wav: No such file"),
        (".", "Is a directory"),
        ("nul\0.wav", "cannot open"),
        (b"", "empty"),
        (b"These are words, not sound. " * 40, "not readable audio"),
        (b"RIFF", "not readable audio"),
        (io.StringIO("text"), "expected"),
        (42, "got int; expected a path"),
        (None, "got NoneType"),
        (NOISE, "array without its rate"),
        ((NOISE,), "expected \\(samples, rate_hz\\)"),
        ((16000, NOISE), "expected \\(samples, rate_hz\\)"),
        (([1, 2, 3], 16000), "samples are int64; expected int16"),
        (([[0.1], [0.1, 0.2]], 16000), "list gives no numpy array"),
        (([], 16000), "empty"),
        ((NOISE, 0), "rate of 0"),
        ((NOISE, -16000), "rate of -16000"),
        ((NOISE, 16000.5), "rate of 16000.5"),
        ((NOISE, float("nan")), "rate of nan"),
        ((NOISE, "16000"), "rate of '16000'"),
        ((NOISE, True), "rate of True"),
        ((NOISE.astype(np.complex64), 16000), "samples are complex64"),
        ((NOISE.astype(np.uint8), 16000), "samples are uint8"),
        ((np.array(["a"]), 16000), "expected int16"),
        ((NOISE.reshape(-1, 10, 10), 16000), "shape \\(300, 10, 10\\)"),
        ((np.array(1.0, dtype=np.float32), 16000), "shape \\(\\)"),
        ((NOISE.reshape(100, -1), 16000), "shape \\(100, 300\\); expected \\(n, channels\\) with 1 to 64 channels"),
        ((np.empty((100, 0), np.float32), 16000), "1 to 64 channels"),
        ((NOISE[:0], 16000), "empty"),
        ((spoiled(123, np.nan), 16000), "first at sample 123"),
        ((spoiled(29_999, -np.inf), 16000), "first at sample 29999"),
        ((spoiled(5, 1.0).astype(np.float64) * 1e300, 16000), "NaN or infinite"),
        ((NOISE * 32768, 16000), "divide int16 values by 32768"),
    ],
)
def test_what_is_no_audio_is_refused_in_one_line(source: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read(source)
    assert "\n" not in str(caught.value)


def test_memory_stays_small_for_hours(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 48000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(48000 * 60, dtype=np.int16))
    tracemalloc.start()
    with AudioReader(path) as reader:
        assert reader.duration_s == 3600
        assert sum(len(block) for block in reader.blocks()) == reader.n_samples == 3600 * 16000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


class Tensor:
    """Converts itself as a tensor does, or says why it cannot."""

    def __init__(self, samples: AnyArray, reason: str = "") -> None:
        self._samples, self._reason = samples, reason

    def __array__(self, dtype: Any = None, copy: Any = None) -> AnyArray:
        if self._reason:
            raise TypeError(self._reason)
        return self._samples


@pytest.mark.parametrize(
    "same",
    [
        NOISE.astype(">f4"),
        NOISE.astype("<f8"),
        NOISE.astype(">f8"),
        NOISE.tolist(),
        NOISE.reshape(1, -1),
        np.stack([NOISE, NOISE]),
        Tensor(NOISE),
        Tensor(NOISE.reshape(1, -1)),
    ],
)
def test_the_same_samples_in_other_clothes_are_the_same_audio(same: Any) -> None:
    assert np.array_equal(read((same, 16000)), NOISE)
    stream = AudioStream(16000)
    assert np.array_equal(np.concatenate([stream.push(same), stream.flush()]), NOISE)


def test_every_byte_order_and_width_has_its_full_scale() -> None:
    quarter = np.full(100, 0.25)
    for dtype, full in (("<i2", 2**15), (">i2", 2**15), ("<i4", 2**31), (">i4", 2**31), ("<f2", 1), (">f2", 1)):
        samples = (quarter * full).astype(dtype)
        assert np.array_equal(read((samples, 16000)), quarter)
        stream = AudioStream(16000)
        assert np.array_equal(stream.push(samples), quarter)


def test_a_short_row_is_one_sample_of_many_channels() -> None:
    assert len(read((np.zeros((1, 64), dtype=np.float32), 16000))) == 1
    assert len(read((np.zeros((1, 65), dtype=np.float32), 16000))) == 65


def test_a_gpu_tensor_gets_one_line() -> None:
    tensor = Tensor(NOISE, "can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu() to copy it first.")
    for refused in (lambda: read((tensor, 16000)), lambda: AudioStream(16000).push(tensor)):
        with pytest.raises(
            AudioError, match=r"Tensor gives no numpy array: can't convert cuda:0 .*tensor\.detach\(\)\.cpu\(\)"
        ) as caught:
            refused()
        assert "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="array without its rate"):
        read(tensor)


@pytest.mark.parametrize(
    ("other", "cancels"), [(-1.0, True), (-0.97, True), (-0.7, True), (-0.3, False), (0.0, False), (1.0, False)]
)
def test_channels_that_cancel_are_said(other: float, cancels: bool) -> None:
    stereo = np.stack([NOISE, np.float32(other) * NOISE], axis=1)
    stream = AudioStream(16000)
    for play in (lambda: read((stereo, 16000)), lambda: (stream.push(stereo), stream.flush())):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            play()
        assert [w.category for w in caught] == [AudioWarning] * cancels
        assert all("cancel each other (opposite phase)" in str(w.message) for w in caught)


def test_unrelated_channels_do_not_cancel() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read((0.1 * np.random.default_rng(0).standard_normal((2000, 64)), 16000))
        read((1e-4 * np.stack([NOISE, -NOISE], axis=1), 16000))  # too soft to tell


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 100_000), rate_hz=st.integers(1000, 192_000))
def test_n_samples_is_exact_for_any_rate(n: int, rate_hz: int) -> None:
    with AudioReader((np.zeros(n, dtype=np.int16), rate_hz)) as reader:
        assert sum(len(block) for block in reader.blocks()) == reader.n_samples


@pytest.mark.parametrize(("peak_db", "quiet"), [(-90, True), (-51, True), (-49, False), (0, False)])
def test_a_very_quiet_recording_is_said(peak_db: float, quiet: bool) -> None:
    samples = 10 ** (peak_db / 20) * np.sin(np.arange(16000, dtype=np.float32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AudioReader((samples.astype(np.float32), 16000)).samples()
    assert [w.category for w in caught] == [AudioWarning] * quiet
    assert all(f"loudest sample lies at {peak_db} dB of full scale" in str(w.message) for w in caught)
