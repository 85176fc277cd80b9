from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser.errors import ConfigError
from edge_ser.frontend.features import (
    FRONT_ENDS,
    LOGMEL_PAPER,
    LOGMEL_V1,
    LOGSTFT_V1,
    FeatureStream,
    FrontEndConfig,
    extract,
    extract_blocks,
    frame_count,
    mel_filterbank,
    middle_window,
)
from edge_ser.geometry import ENCODER_STRIDE
from tests.golden.make_golden import reference

GOLDEN = Path(__file__).parents[2] / "golden"
SPEECH, _ = soundfile.read(GOLDEN / "synthetic_speech.flac", dtype="float32")
NOISE = (0.1 * np.random.default_rng(0).standard_normal(40_000)).astype(np.float32)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_golden_vectors(name: str) -> None:
    golden = np.load(GOLDEN / "features.npz")
    features = extract(SPEECH, FRONT_ENDS[name])[:: int(golden["every"])]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, golden[name][: len(features)], atol=1e-3)
    assert len(features) == len(golden[name])


def test_mel_filterbank_is_librosas() -> None:
    theirs = librosa.filters.mel(sr=16000, n_fft=1024, n_mels=128, fmin=0, fmax=8000)
    np.testing.assert_allclose(mel_filterbank(LOGMEL_V1), theirs, atol=1e-7)


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_parity_with_librosa_on_real_clips(name: str, real_clips: list[Path]) -> None:
    config = FRONT_ENDS[name]
    for clip in real_clips:
        samples, _ = soundfile.read(clip, dtype="float32")
        theirs = reference(samples.astype(np.float64), config.kind == "logmel", config.centered)
        ours = extract(samples, config)
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-3, err_msg=str(clip))


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 5000), max_size=40),
    length=st.integers(0, 40_000),
    config=st.sampled_from([LOGMEL_V1, LOGSTFT_V1]),
    source=st.sampled_from([SPEECH, NOISE]),
)
def test_any_chunking_equals_offline(cuts: list[int], length: int, config: FrontEndConfig, source: np.ndarray) -> None:
    samples = source[:length]
    stream = FeatureStream(config)
    frames, position = [], 0
    for cut in cuts:
        frames.append(stream.push(samples[position : position + cut]))
        position += cut
    frames.append(stream.push(samples[position:], last=True))
    frames.append(stream.push(samples[:0], last=True))  # the end comes once
    assert np.array_equal(np.concatenate(frames), extract(samples, config))


def test_single_samples_equal_offline() -> None:
    samples = NOISE[:9000]
    stream = FeatureStream(LOGMEL_V1)
    frames = [stream.push(samples[i : i + 1]) for i in range(len(samples))]
    assert np.array_equal(np.concatenate(frames), extract(samples))


def test_long_audio_takes_the_middle_and_holds_only_that() -> None:
    n_samples = 16000 * 60
    samples = (0.1 * np.random.default_rng(1).standard_normal(n_samples)).astype(np.float32)
    n_frames = frame_count(n_samples, LOGMEL_V1)
    start, stop = middle_window(n_frames, LOGMEL_V1)
    assert stop - start == 1400
    assert start % ENCODER_STRIDE == 0
    assert abs((start + stop) / 2 - n_frames / 2) <= ENCODER_STRIDE
    stream = FeatureStream(LOGMEL_V1)
    whole = stream.push(samples)
    blocks = [samples[i : i + 12_345] for i in range(0, n_samples, 12_345)]
    assert np.array_equal(extract_blocks(blocks, n_samples, LOGMEL_V1), whole[start:stop])


def test_short_audio_is_padded_with_silence() -> None:
    short = NOISE[:3000]
    padded = np.concatenate([short, np.zeros(LOGMEL_V1.min_samples - 3000, dtype=np.float32)])
    features = extract(short)
    assert features.shape == (49, 128)
    assert np.array_equal(features, extract(padded))
    assert features[-1].max() == pytest.approx(-100, abs=1e-4)


def test_the_papers_front_end_clips_and_cannot_stream() -> None:
    quiet = np.concatenate([SPEECH, np.zeros(8000, dtype=np.float32)])
    features = extract(quiet, LOGMEL_PAPER)
    assert features.min() == pytest.approx(features.max() - 80, abs=1e-4)
    with pytest.raises(ConfigError, match="cannot stream"):
        FeatureStream(LOGMEL_PAPER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "mfcc"}, "expected 'logmel' or 'logstft'"),
        ({"hop_samples": 0}, "0 < hop_samples"),
        ({"frame_samples": 2048}, "frame_samples <= n_fft"),
        ({"n_mels": 0}, "n_mels is 0"),
        ({"f_max_hz": 9000.0}, "f_max_hz <= rate_hz / 2"),
        ({"floor": 0.0}, "positive power"),
        ({"max_frames": 48}, "at least 49"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(LOGMEL_V1, **change)
