"""Profiles of microphones: one negative test for each invariant, and the exactness of what they do to features."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.calibration import Correction, Profile, SpeechStatistics, speech_frames
from edge_ser.features import LOGMEL_PAPER, LOGMEL_V1, LOGSTFT_V1, FeatureStream, extract
from edge_ser.model_file import read_model_file, shipped_model_path

RNG = np.random.default_rng(5)
FEATURES = (12 * RNG.standard_normal((1500, 128)) - 45).astype(np.float32)


def measured(scale: bool = False) -> Profile:
    statistics = SpeechStatistics()
    statistics.add(FEATURES)
    return statistics.result(scale)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mic.json"
    measured(scale=True).save(path)
    return path


def test_speech_frames_leave_pauses_and_silence_out(speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    pause = 1e-4 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    features = extract(np.concatenate([pause, samples, np.zeros(16000, dtype=np.float32)]))
    found = speech_frames(features)
    n = len(samples) // 160
    assert found[104 : n + 96].mean() > 0.7
    assert not found[:90].any()
    assert not found[n + 104 :].any()
    # The level does not matter.
    assert np.array_equal(speech_frames(extract(0.1 * samples)), speech_frames(extract(samples)))
    assert not speech_frames(extract(np.zeros(16000, dtype=np.float32))).any()
    assert not speech_frames(extract(np.zeros(16000, dtype=np.float32), LOGSTFT_V1), LOGSTFT_V1).any()
    assert speech_frames(np.empty((0, 128), dtype=np.float32)).shape == (0,)


def test_statistics_are_numpys() -> None:
    statistics = SpeechStatistics()
    loudest = np.zeros((1, 128), dtype=np.float32)
    for part in np.split(FEATURES, 5):
        statistics.add(np.concatenate([part, loudest - 95]))  # a pause
    assert statistics.n_frames == 1500
    np.testing.assert_allclose(statistics.mean, FEATURES.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, FEATURES.std(axis=0, dtype=np.float64), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"shape \(10, 64\); expected \(T, 128\)"):
        statistics.add(FEATURES[:10, :64])


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 24000), max_size=12), scale=st.booleans())
def test_a_corrected_stream_is_the_corrected_whole_bit_for_bit(cuts: list[int], scale: bool) -> None:
    samples = (0.1 * np.random.default_rng(1).standard_normal(24000)).astype(np.float32)
    manifest = read_model_file(shipped_model_path()).manifest
    model = [np.array(v, dtype=np.float32) for v in (manifest.speech_mean, manifest.speech_std)]
    correction = measured(scale).correction(LOGMEL_V1, *model)
    whole = correction.apply(extract(samples))
    stream = FeatureStream(LOGMEL_V1)
    parts = [correction.apply(stream.push(part)) for part in np.split(samples, sorted(cuts))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float32


def test_a_correction_brings_the_microphone_to_the_model() -> None:
    model_mean, model_std = np.full(128, -36, dtype=np.float32), np.full(128, 15, dtype=np.float32)
    for scale in (False, True):
        profile = measured(scale)
        before = FEATURES.copy()
        after = profile.correction(LOGMEL_V1, model_mean, model_std).apply(FEATURES)
        assert np.array_equal(FEATURES, before)
        np.testing.assert_allclose(after.mean(axis=0, dtype=np.float64), model_mean, atol=1e-3)
        np.testing.assert_allclose(after.std(axis=0, dtype=np.float64), model_std if scale else profile.std, rtol=1e-4)
    in_place = FEATURES.copy()
    correction = Correction(np.ones(128, dtype=np.float32), np.full(128, 2, dtype=np.float32))
    assert correction.apply(in_place, out=in_place) is in_place
    assert np.array_equal(in_place, 2 * FEATURES + 1)


def test_the_ratio_of_deviations_is_bounded() -> None:
    std = np.full(128, 10, dtype=np.float32)
    std[:3] = 0, 1, 90
    profile = Profile("logmel-v1", std - 50, std, 2000, scale=True)
    gain = profile.correction(LOGMEL_V1, std - 40, np.full(128, 10, dtype=np.float32)).gain
    assert gain is not None
    assert gain[:4].tolist() == [2, 2, 0.5, 1]


def test_a_profile_survives_its_file(saved: Path) -> None:
    profile, again = measured(scale=True), Profile.load(saved)
    assert (again.front_end, again.n_frames, again.scale) == (profile.front_end, 1500, True)
    assert np.array_equal(again.mean, profile.mean)
    assert np.array_equal(again.std, profile.std)
    assert os.listdir(saved.parent) == [saved.name]


def test_too_little_speech_and_silence_are_refused() -> None:
    statistics = SpeechStatistics()
    with pytest.raises(ConfigError, match="no speech was found"):
        statistics.result()
    statistics.add(np.full((2000, 128), -100, dtype=np.float32))
    with pytest.raises(ConfigError, match="digital silence"):
        statistics.result()
    statistics.add(FEATURES[:999])
    with pytest.raises(ConfigError, match=r"10\.0 s of speech; expected at least 10 s"):
        statistics.result()
    hum = SpeechStatistics()
    hum.add(np.full((2000, 128), -30, dtype=np.float32))
    with pytest.raises(ConfigError, match="silence or a steady tone"):
        hum.result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("format"), "format is not 'edge-ser-profile'"),
        (lambda t: t.update(format_version=2), "format_version is 2"),
        (lambda t: t.update(format_version=True), "format_version is True"),
        (lambda t: t.pop("std"), "'std' is missing"),
        (lambda t: t.update(code="import os"), "'code' is unknown"),
        (lambda t: t.update(front_end="logmel-v2"), r"did you mean 'logmel-v1'\?"),
        (lambda t: t.update(front_end=["logmel-v1"]), "front_end is"),
        (lambda t: t.update(front_end="logstft-v1"), r"mean is float32 \(128,\); expected float32 \(513,\)"),
        (lambda t: t["mean"].pop(), r"mean is float32 \(127,\)"),
        (lambda t: t.update(mean="x"), "mean is no list of numbers"),
        (lambda t: t["std"].__setitem__(0, True), "std is no list of numbers"),
        (lambda t: t["std"].__setitem__(0, "1"), "std is no list of numbers"),
        (lambda t: t["mean"].__setitem__(0, float("nan")), "mean holds NaN"),
        (lambda t: t["mean"].__setitem__(0, 1e300), "mean holds NaN, infinity"),
        (lambda t: t["mean"].__setitem__(0, 10**400), "beyond all decibels"),
        (lambda t: t["std"].__setitem__(0, -1.0), "negative"),
        (lambda t: t.update(std=[0.01] * 128), "silence or a steady tone"),
        (lambda t: t.update(n_frames=999), r"on 10\.0 s of speech"),
        (lambda t: t.update(n_frames=3000.0), r"n_frames is 3000\.0"),
        (lambda t: t.update(scale=1), "scale 1"),
    ],
)
def test_a_wrong_profile_is_refused(saved: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    table = json.loads(saved.read_text())
    change(table)
    saved.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message):
        EmotionRecognizer(profile=saved)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, 6000), content=st.binary(max_size=30))
def test_any_bytes_fail_only_with_our_errors(tmp_path_factory: pytest.TempPathFactory, start: int, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "mic.json"
    measured().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + content + whole[start + len(content) :])
    with contextlib.suppress(ConfigError):
        Profile.load(path)


def test_wrong_paths_are_one_line(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "gone.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=f"cannot read the profile .*{message}"):
            Profile.load(path)
    for path in (tmp_path / "gone" / "mic.json", tmp_path, Path("a\0b")):
        with pytest.raises(ConfigError, match="cannot write the profile"):
            measured().save(path)
    with pytest.raises(ConfigError):
        Profile.load("a\0b")
    assert not list(tmp_path.iterdir())


def test_another_front_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="front end logmel-v1, the model works on logmel-paper"):
        measured().correction(LOGMEL_PAPER, FEATURES[0], FEATURES[0])
    stft = Profile("logstft-v1", np.zeros(513, dtype=np.float32), np.ones(513, dtype=np.float32), 2000)
    with pytest.raises(ConfigError, match="the model works on logmel-v1"):
        EmotionRecognizer(profile=stft)


def test_the_recognizer_undoes_a_microphone(speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    plain = EmotionRecognizer().predict((samples, 16000))
    manifest = EmotionRecognizer().manifest
    mean, std = (np.array(v, dtype=np.float32) for v in (manifest.speech_mean, manifest.speech_std))
    same = EmotionRecognizer(profile=Profile("logmel-v1", mean, std, 2000, scale=True)).predict((samples, 16000))
    np.testing.assert_allclose(same.logits, plain.logits, atol=1e-4)
    # Exact: half the amplitude is 6.02 dB less in every bin that stays above the floor.
    quieter = Profile("logmel-v1", mean - np.float32(20 * np.log10(2)), std, 2000)
    halved = EmotionRecognizer(profile=quieter).predict((0.5 * samples, 16000))
    np.testing.assert_allclose(halved.logits, plain.logits, atol=0.02)
    assert abs(EmotionRecognizer().predict((0.5 * samples, 16000)).logits - plain.logits).max() > 0.05
