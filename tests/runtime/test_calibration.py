"""Microphones and the file they are kept in: one negative test for each invariant, and the exactness of what they do."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.calibration import (
    GAIN_RANGE,
    ORDINARY,
    STRENGTH,
    Correction,
    Microphone,
    SpeechListener,
    SpeechStatistics,
    speech_frames,
)
from edge_ser.cli import cli
from edge_ser.features import LOGMEL_PAPER, LOGMEL_V1, LOGSTFT_V1, FeatureStream, bin_centres_hz, extract
from edge_ser.model_file import read_model_file, shipped_model_path
from edge_ser.profile import Profile

RNG = np.random.default_rng(5)
FEATURES = (12 * RNG.standard_normal((1500, 128)) - 45).astype(np.float32)


def measured() -> Microphone:
    statistics = SpeechStatistics()
    statistics.add(FEATURES)
    return statistics.result("mixed")


def of_the_model() -> tuple[np.ndarray, np.ndarray]:
    manifest = read_model_file(shipped_model_path()).manifest
    return np.array(manifest.speech_mean, dtype=np.float32), np.array(manifest.speech_std, dtype=np.float32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "mic.json"
    Profile(measured()).save(path)
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
    assert (statistics.n_frames, statistics.speech_s) == (1500, 15.0)
    np.testing.assert_allclose(statistics.mean, FEATURES.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, FEATURES.std(axis=0, dtype=np.float64), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"shape \(10, 64\); expected \(T, 128\)"):
        statistics.add(FEATURES[:10, :64])


def test_statistics_go_on_from_a_microphone_and_take_several_threads() -> None:
    whole = SpeechStatistics()
    for part in np.split(FEATURES, 10):
        whole.add(part)
    first = SpeechStatistics()
    for part in np.split(FEATURES, 10)[:7]:
        first.add(part)
    second = SpeechStatistics(microphone=first.result())
    threads = [threading.Thread(target=second.add, args=(part,)) for part in np.split(FEATURES, 10)[7:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert second.n_frames == whole.n_frames
    np.testing.assert_allclose(second.mean, whole.mean, rtol=1e-5)
    np.testing.assert_allclose(second.std, whole.std, rtol=1e-4)
    with pytest.raises(ConfigError, match="measured with the front end logmel-v1, the model works on logmel-paper"):
        SpeechStatistics(LOGMEL_PAPER, first.result())


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_a_listener_counts_by_the_minute_however_the_frames_come(cuts: list[int]) -> None:
    frames = np.concatenate([np.tile(FEATURES[:500], (10, 1)), np.tile(FEATURES[500:900] - 50, (10, 1))])
    whole, parts = SpeechStatistics(), SpeechStatistics()
    for stretch in (frames[:6000], frames[6000:]):
        whole.add(stretch)
    assert whole.n_frames > 5000  # the second minute is softer, and counts by its own loudest frame
    listener = SpeechListener(parts)
    for part in np.split(frames, sorted({*cuts, 6000})):
        listener.push(part)
    listener.flush()
    listener.flush()
    assert parts.n_frames == whole.n_frames
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 24000), max_size=12))
def test_a_corrected_stream_is_the_corrected_whole_bit_for_bit(cuts: list[int]) -> None:
    samples = (0.1 * np.random.default_rng(1).standard_normal(24000)).astype(np.float32)
    correction = measured().correction(LOGMEL_V1, *of_the_model())
    whole = correction.apply(extract(samples))
    stream = FeatureStream(LOGMEL_V1)
    parts = [correction.apply(stream.push(part)) for part in np.split(samples, sorted(cuts))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.float32


def test_a_correction_brings_the_microphone_nearer_to_the_model() -> None:
    model_mean, model_std = np.full(128, -36, dtype=np.float32), np.full(128, 15, dtype=np.float32)
    microphone = measured()
    before = FEATURES.copy()
    after = microphone.correction(LOGMEL_V1, model_mean, model_std).apply(FEATURES)
    assert np.array_equal(FEATURES, before)
    mean, std = FEATURES.mean(axis=0, dtype=np.float64), FEATURES.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(after.mean(axis=0, dtype=np.float64), mean + STRENGTH * (model_mean - mean), atol=1e-3)
    np.testing.assert_allclose(after.std(axis=0, dtype=np.float64), std ** (1 - STRENGTH) * model_std**STRENGTH, rtol=1e-4)
    in_place = FEATURES.copy()
    correction = Correction(np.ones(128, dtype=np.float32), np.full(128, 2, dtype=np.float32))
    assert correction.apply(in_place, out=in_place) is in_place
    assert np.array_equal(in_place, 2 * FEATURES + 1)


def test_ordinary_speech_through_the_models_own_microphone_needs_no_correction() -> None:
    model_mean, model_std = of_the_model()
    level_db, share = (np.interp(bin_centres_hz(LOGMEL_V1), ORDINARY[0], v).astype(np.float32) for v in ORDINARY[1:])
    ordinary = Microphone("logmel-v1", model_mean + level_db, model_std * share, 2000)
    mixed = Microphone("logmel-v1", model_mean, model_std, 2000, speech="mixed")
    for microphone in (ordinary, mixed):
        correction = microphone.correction(LOGMEL_V1, model_mean, model_std)
        np.testing.assert_allclose(correction.apply(FEATURES), FEATURES, atol=1e-3)


def test_the_gain_is_bounded() -> None:
    std = np.full(128, 10, dtype=np.float32)
    std[:3] = 0, 1, 90
    microphone = Microphone("logmel-v1", std - 50, std, 2000, speech="mixed")
    gain = microphone.correction(LOGMEL_V1, std - 40, np.full(128, 10, dtype=np.float32)).gain
    low, high = GAIN_RANGE
    assert gain[:2].tolist() == [high, high]
    assert gain[2] == pytest.approx(max(low, (10 / 90) ** STRENGTH))
    assert gain[3] == 1


def test_a_profile_survives_its_file(saved: Path) -> None:
    microphone, again = measured(), Profile.load(saved).microphone
    assert again is not None
    assert (again.front_end, again.n_frames, again.speech) == (microphone.front_end, 1500, "mixed")
    assert np.array_equal(again.mean, microphone.mean)
    assert np.array_equal(again.std, microphone.std)
    assert os.listdir(saved.parent) == [saved.name]
    Profile().save(saved)
    assert Profile.load(saved) == Profile()


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
        (lambda t, m: t.pop("format"), "format is not 'edge-ser-profile'"),
        (lambda t, m: t.update(format_version=1), "format_version is 1"),
        (lambda t, m: t.update(format_version=True), "format_version is True"),
        (lambda t, m: t.pop("person"), "'person' is missing"),
        (lambda t, m: t.update(code="import os"), "'code' is unknown"),
        (lambda t, m: t.update(microphone=[1]), "microphone is list; expected an object with front_end, mean"),
        (lambda t, m: m.pop("std"), "'std' is missing"),
        (lambda t, m: m.update(code="import os"), "'code' is unknown"),
        (lambda t, m: m.update(front_end="logmel-v2"), r"did you mean 'logmel-v1'\?"),
        (lambda t, m: m.update(front_end=["logmel-v1"]), "front_end is"),
        (lambda t, m: m.update(front_end="logstft-v1"), r"mean is float32 \(128,\); expected float32 \(513,\)"),
        (lambda t, m: m["mean"].pop(), r"mean is float32 \(127,\)"),
        (lambda t, m: m.update(mean="x"), "mean is no list of numbers"),
        (lambda t, m: m["std"].__setitem__(0, True), "std is no list of numbers"),
        (lambda t, m: m["std"].__setitem__(0, "1"), "std is no list of numbers"),
        (lambda t, m: m["mean"].__setitem__(0, float("nan")), "mean holds NaN"),
        (lambda t, m: m["mean"].__setitem__(0, 1e300), "mean holds NaN, infinity"),
        (lambda t, m: m["mean"].__setitem__(0, 10**400), "beyond all bounds"),
        (lambda t, m: m["std"].__setitem__(0, -1.0), "negative"),
        (lambda t, m: m.update(std=[0.01] * 128), "silence or a steady tone"),
        (lambda t, m: m.update(n_frames=999), r"on 10\.0 s of speech"),
        (lambda t, m: m.update(n_frames=3000.0), r"n_frames is 3000\.0"),
        (lambda t, m: m.update(speech="sung"), "speech 'sung'; expected a whole number, and ordinary or mixed"),
        (lambda t, m: m.update(speech=["ordinary"]), "speech"),
    ],
)
def test_a_wrong_profile_is_refused(
    saved: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    table = json.loads(saved.read_text())
    change(table, table["microphone"])
    saved.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message):
        EmotionRecognizer(profile=saved)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, 6000), content=st.binary(max_size=30))
def test_any_bytes_fail_only_with_our_errors(tmp_path_factory: pytest.TempPathFactory, start: int, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "mic.json"
    Profile(measured()).save(path)
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
            Profile(measured()).save(path)
    with pytest.raises(ConfigError):
        Profile.load("a\0b")
    assert not list(tmp_path.iterdir())


def test_another_front_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="front end logmel-v1, the model works on logmel-paper"):
        measured().correction(LOGMEL_PAPER, FEATURES[0], FEATURES[0])
    stft = Microphone("logstft-v1", np.zeros(513, dtype=np.float32), np.ones(513, dtype=np.float32), 2000)
    with pytest.raises(ConfigError, match="the model works on logmel-v1"):
        EmotionRecognizer(profile=Profile(stft))
    with pytest.raises(ConfigError, match=r"calibrate counts features of logstft-v1.*expected SpeechStatistics"):
        EmotionRecognizer().stream(calibrate=SpeechStatistics(LOGSTFT_V1))


def test_the_recognizer_undoes_a_share_of_what_a_microphone_does(speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    recognizer = EmotionRecognizer()
    plain, halved = (recognizer.predict((gain * samples, 16000)).logits for gain in (1.0, 0.5))
    mean, std = of_the_model()
    # Exact: half the amplitude is 6.02 dB less in every bin that stays above the floor.
    recognizer.profile = Profile(Microphone("logmel-v1", mean - np.float32(20 * np.log10(2)), std, 2000, speech="mixed"))
    undone = recognizer.predict((0.5 * samples, 16000)).logits
    recognizer.profile = Profile()
    share = recognizer.predict((0.5 ** (1 - STRENGTH) * samples, 16000)).logits
    np.testing.assert_allclose(undone, share, atol=0.02)
    assert abs(undone - plain).max() < abs(halved - plain).max()


def test_a_stream_calibrates_on_what_the_microphone_gave(speech: Path) -> None:
    samples, _ = soundfile.read(speech, dtype="float32")
    expected = SpeechStatistics()
    expected.add(extract(samples))
    plain, corrected = EmotionRecognizer(), EmotionRecognizer(profile=Profile(measured()))
    for recognizer in (plain, corrected):
        statistics = SpeechStatistics()
        with recognizer.stream(calibrate=statistics) as s:
            for part in np.array_split(samples, 37):
                s.feed(part)
            assert statistics.n_frames == 0
            answer = s.finish()
            assert s.finish() is answer
        assert statistics.n_frames == expected.n_frames
        np.testing.assert_allclose(statistics.mean, expected.mean, atol=1e-3)
        assert np.array_equal(answer.logits, recognizer.predict((samples, 16000)).logits)
    statistics = SpeechStatistics()
    with plain.stream(calibrate=statistics) as s:
        s.feed(samples)  # not finished: nobody knows whether it was one utterance
    assert statistics.n_frames == 0


def test_calibrate_writes_what_the_recordings_show(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "mic.json"
    result = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    samples, _ = soundfile.read(speech, dtype="float32")
    expected = SpeechStatistics()
    for _ in range(3):
        expected.add(extract(samples))
    microphone = Profile.load(path).microphone
    assert microphone is not None
    assert (microphone.n_frames, microphone.speech) == (expected.n_frames, "ordinary")
    np.testing.assert_allclose(microphone.mean, expected.mean, atol=1e-3)
    level = float((expected.mean - microphone.expected(*of_the_model())[0]).mean())
    assert f"{expected.speech_s:.1f} s in 13.0 s of audio" in result.output
    assert f"level     {level:+.1f} dB" in result.output
    # The same from raw samples, at another rate.
    import soxr

    raw = np.rint(32767 * soxr.resample(np.tile(samples, 3), 16000, 48000).clip(-1, 1)).astype("<i2").tobytes()
    command = ["calibrate", "-", "--rate", "48000", "--speech", "mixed", "-o", str(path)]
    result = CliRunner().invoke(cli, command, input=raw, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    again = Profile.load(path).microphone
    assert again is not None
    assert again.speech == "mixed"
    below_7_khz = slice(0, 120)  # the resampler's filter takes the rest
    np.testing.assert_allclose(again.mean[below_7_khz], microphone.mean[below_7_khz], atol=1.5)


def test_calibrate_refuses_what_is_no_minute_of_speech(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "mic.json"
    soundfile.write(tmp_path / "silent.flac", np.zeros(320000), 16000)
    t = np.arange(320000) / 16000
    soundfile.write(tmp_path / "hum.flac", 0.1 * np.sin(2 * np.pi * 100 * t), 16000)
    for arguments, raw, message in (
        ([speech], b"", "s of speech; expected at least 10 s"),
        ([tmp_path / "silent.flac"], b"", "no speech was found"),
        ([tmp_path / "hum.flac"], b"", "silence or a steady tone"),
        ([tmp_path / "gone.flac"], b"", "cannot open"),
        (["-"], b"", "no speech was found"),
        (["-"], b"abc", "got 3 bytes; expected whole int16 samples"),
        (["-", "--rate", "10"], b"ab", "rate of 10; expected"),
    ):
        result = CliRunner().invoke(cli, ["calibrate", *map(str, arguments), "-o", str(path)], input=raw)
        assert result.exit_code == 1
        assert message in str(result.exception)
        assert not path.exists()
    path.write_text("my notes")
    result = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)])
    assert "expected a profile that edge-ser wrote" in str(result.exception)
    assert path.read_text() == "my notes"


def test_ordinary_speech_is_as_loud_and_varied_as_stated(data_dir: Path) -> None:
    with (data_dir / "cremad" / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    everything, ordinary = SpeechStatistics(), SpeechStatistics()
    for i in np.random.default_rng(0).permutation(len(rows))[:600]:
        row = rows[i]
        features = extract(soundfile.read(data_dir / "cremad" / row["file"], dtype="float32")[0])
        everything.add(features)
        if row["emotion"] == "neutral":
            ordinary.add(features)
    level_db, share = (np.interp(bin_centres_hz(LOGMEL_V1), ORDINARY[0], v) for v in ORDINARY[1:])
    difference = ordinary.mean - everything.mean - level_db
    assert abs(difference.mean()) < 0.7
    assert difference.std() < 0.8
    np.testing.assert_allclose(ordinary.std / everything.std, share, atol=0.12)
