"""Microphones and the file they are kept in: one negative test for each invariant, and the exactness of what they do."""

from __future__ import annotations

import contextlib
import csv
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
from scipy import signal

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.commands.calibrate import ORDINARY
from edge_ser.frontend.features import LOGMEL_V1, LOGSTFT_V1, bin_centres_hz, extract
from edge_ser.model.manifest import Manifest, read_model_file, shipped_model_path
from edge_ser.personal.microphone import (
    STRENGTH,
    Encoder,
    Microphone,
    SpeechListener,
    SpeechStatistics,
    speech_frames,
    speech_vectors,
)
from edge_ser.personal.profile import Profile

RNG = np.random.default_rng(5)
FEATURES = (12 * RNG.standard_normal((1500, 128)) - 45).astype(np.float32)
SIZE = 480
MANIFEST: Manifest = read_model_file(shipped_model_path()).manifest
WEIGHTS = MANIFEST.training["weights_sha256"]


def means_of_bins(features: np.ndarray) -> np.ndarray:
    """An encoder that can be followed: the mean of every bin over the 49 frames, and zeros."""
    rows = [features[16 * i : 16 * i + 49].mean(axis=0) + 100 for i in range((len(features) - 49) // 16 + 1)]
    return np.pad(np.array(rows, dtype=np.float32), ((0, 0), (0, SIZE - 128)))


ENCODER = Encoder(LOGMEL_V1, WEIGHTS, SIZE, means_of_bins)


def measured() -> Microphone:
    statistics = SpeechStatistics(ENCODER)
    statistics.add(FEATURES)
    return statistics.result("mixed")


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
    assert speech_frames(np.empty((0, 128), dtype=np.float32)).shape == speech_vectors(FEATURES[:48]).shape == (0,)


def test_vectors_count_near_speech_and_not_in_long_pauses() -> None:
    features = np.concatenate([FEATURES[:500], FEATURES[:1000] - 60, FEATURES[:300]])
    counted = speech_vectors(features)
    assert len(counted) == (1800 - 49) // 16 + 1
    for i, counts in enumerate(counted):
        frames = np.arange(16 * i, 16 * i + 49)
        assert counts == (((frames < 540) | (frames >= 1460)).sum() >= 25), i
    quiet = speech_vectors(np.full((500, 128), -100, dtype=np.float32))
    assert len(quiet) == 29
    assert not quiet.any()


def test_statistics_are_numpys() -> None:
    statistics = SpeechStatistics(ENCODER)
    loudest = np.zeros((1, 128), dtype=np.float32)
    for part in np.split(FEATURES, 5):
        statistics.add(np.concatenate([part, loudest - 95]))  # a pause
    assert (statistics.n_frames, statistics.speech_s) == (1500, 15.0)
    np.testing.assert_allclose(statistics.mean, FEATURES.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, FEATURES.std(axis=0, dtype=np.float64), rtol=1e-6)
    vectors = np.concatenate([means_of_bins(part) for part in np.split(FEATURES, 5)])
    assert statistics.n_vectors == len(vectors)
    assert statistics.vector_s == pytest.approx(0.16 * len(vectors))
    np.testing.assert_allclose(statistics.vector, vectors.mean(axis=0, dtype=np.float64), rtol=1e-6)
    known = SpeechStatistics(ENCODER)
    known.add(FEATURES, np.ones((91, SIZE), dtype=np.float32))
    assert known.vector.tolist() == [1] * SIZE
    for other in (statistics, known):
        known.include(other)
    assert (known.n_frames, known.n_vectors) == (2 * (1500 + 1500), 2 * (len(vectors) + 91))
    with pytest.raises(ConfigError, match=r"shape \(10, 64\); expected \(T, 128\)"):
        statistics.add(FEATURES[:10, :64])


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=8))
def test_a_listener_counts_by_the_minute_however_the_frames_come(cuts: list[int]) -> None:
    frames = np.concatenate([np.tile(FEATURES[:500], (10, 1)), np.tile(FEATURES[500:900] - 50, (10, 1))])
    whole, parts, rest = (SpeechStatistics(ENCODER) for _ in range(3))
    for stretch in (frames[:6000], frames[6000:]):
        whole.add(stretch)
    assert whole.n_frames > 5000  # the second minute is softer, and counts by its own loudest frame
    listener = SpeechListener(parts, rest, lambda piece: True)
    for part in np.split(frames, sorted({*cuts, 6000})):
        listener.push(part)
    listener.flush()
    listener.flush()
    assert (parts.n_frames, parts.n_vectors) == (whole.n_frames, whole.n_vectors)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.vector, whole.vector, rtol=1e-6)
    assert rest.n_frames == rest.n_vectors == 0


def test_a_listener_judges_piece_by_piece() -> None:
    loud = FEATURES[:1000] + 10
    features = np.concatenate([FEATURES[:1200], loud, FEATURES[:500] - 60, FEATURES[1200:]])
    statistics, rest = SpeechStatistics(ENCODER), SpeechStatistics(ENCODER)
    lengths = []

    def is_speech(piece: SpeechStatistics) -> bool:
        lengths.append(piece.vector_s)
        return float(piece.mean.mean()) < -40

    listener = SpeechListener(statistics, rest, is_speech)
    for stretch in (features, FEATURES[:500] - 100, FEATURES[:48]):  # the last two hold no vector of speech
        listener.push(stretch)
        listener.flush()
    assert 2 < min(lengths) <= max(lengths) < 3.2
    # A piece about a border goes to one side as a whole.
    assert rest.speech_s == pytest.approx(10, abs=2.6)
    assert rest.vector_s == pytest.approx(10, abs=2.6)
    assert statistics.n_frames + rest.n_frames == 2500
    assert float(rest.mean.mean()) == pytest.approx(-35, abs=1.5)
    assert float(statistics.mean.mean()) == pytest.approx(-45, abs=1.5)
    statistics.include(rest)
    whole = SpeechStatistics(ENCODER)
    whole.add(features)
    assert statistics.n_vectors == whole.n_vectors
    np.testing.assert_allclose(statistics.vector, whole.vector, rtol=1e-6)
    np.testing.assert_allclose(statistics.std, whole.std, rtol=1e-6)


@pytest.mark.parametrize("backend", ["onnx", "tflite", "native"])
def test_every_engine_shifts_the_vectors_alike_in_parts_and_as_a_whole(
    speech: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "native":
        request.getfixturevalue("native_library")
    samples, _ = soundfile.read(speech, dtype="float32")
    reference, recognizer = EmotionRecognizer(backend="onnx"), EmotionRecognizer(backend=backend)
    features = extract(samples)
    vectors = recognizer.statistics().encoder.vectors(features)
    # Engines that round features or scales otherwise meet another of the 256 levels here and there.
    level = read_model_file(shipped_model_path(".eser")).manifest.quantization["vector_scale"]
    np.testing.assert_allclose(vectors, reference.statistics().encoder.vectors(features), atol=3.01 * level)
    assert np.array_equal(vectors, recognizer.statistics().encoder.vectors(features[: len(features) // 16 * 16 + 1]))
    away = np.array(MANIFEST.speech_vector) + np.linspace(-0.5, 0.5, SIZE)
    microphone = Microphone(WEIGHTS, away.clip(0, None).astype(np.float32), 100, "mixed")
    before = recognizer.predict((samples, 16000)).logits
    reference.profile = recognizer.profile = Profile(microphone)
    after = recognizer.predict((samples, 16000)).logits
    assert abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, reference.predict((samples, 16000)).logits, atol=0.02)
    for n_parts in (2, 29):
        with recognizer.stream() as stream:
            for part in np.array_split(samples, n_parts):
                stream.feed(part)
            assert np.array_equal(stream.finish().logits, after)
    recognizer.profile = Profile()
    assert np.array_equal(recognizer.predict((samples, 16000)).logits, before)


def test_an_offset_goes_most_of_the_way_to_the_speech_that_was_asked_for() -> None:
    speech, ordinary = (np.array(v, dtype=np.float32) for v in (MANIFEST.speech_vector, MANIFEST.ordinary_vector))
    assert abs(speech - ordinary).max() > 0.1
    for microphone in (Microphone(WEIGHTS, speech + 1, 100, "mixed"), Microphone(WEIGHTS, ordinary + 1, 100)):
        offset = Profile(microphone).offset(MANIFEST)
        assert offset is not None
        np.testing.assert_allclose(offset, -STRENGTH, atol=1e-5)
    assert Profile().offset(MANIFEST) is None


def test_a_profile_survives_its_file(saved: Path) -> None:
    microphone, again = measured(), Profile.load(saved).microphone
    assert again is not None
    assert (again.weights_sha256, again.n_vectors, again.speech) == (WEIGHTS, 91, "mixed")
    assert np.array_equal(again.vector, microphone.vector)
    assert os.listdir(saved.parent) == [saved.name]
    Profile().save(saved)
    assert Profile.load(saved) == Profile()


def test_too_little_speech_and_silence_are_refused() -> None:
    statistics = SpeechStatistics(ENCODER)
    with pytest.raises(ConfigError, match="no speech was found"):
        statistics.result()
    statistics.add(np.full((2000, 128), -100, dtype=np.float32))
    with pytest.raises(ConfigError, match="digital silence"):
        statistics.result()
    statistics.add(FEATURES[:1030])
    with pytest.raises(ConfigError, match=r"on 9\.9 s of speech; expected at least 10 s"):
        statistics.result()
    hum = SpeechStatistics(ENCODER)
    hum.add(np.full((2000, 128), -30, dtype=np.float32))
    with pytest.raises(ConfigError, match="silence or a steady tone"):
        hum.result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("format"), "format is not 'edge-ser-profile'"),
        (lambda t, m: t.update(format_version=2), "format_version is 2; .*write it anew with edge-ser calibrate or adapt"),
        (lambda t, m: t.update(format_version=True), "format_version is True"),
        (lambda t, m: t.pop("person"), "'person' is missing"),
        (lambda t, m: t.update(code="import os"), "'code' is unknown"),
        (lambda t, m: t.update(microphone=[1]), "microphone is list; expected an object with n_vectors, speech"),
        (lambda t, m: m.pop("vector"), "'vector' is missing"),
        (lambda t, m: m.update(code="import os"), "'code' is unknown"),
        (lambda t, m: m.update(weights_sha256="0" * 64), r"another model \(weights 000000000000….*edge-ser calibrate"),
        (lambda t, m: m.update(weights_sha256=7), "weights_sha256 is 7; expected 64 hexadecimal"),
        (lambda t, m: m.update(weights_sha256="xyz"), "weights_sha256 is 'xyz'"),
        (lambda t, m: m["vector"].pop(), "vector has 479 numbers; expected 480"),
        (lambda t, m: m.update(vector="x"), "vector is no list of numbers"),
        (lambda t, m: m["vector"].__setitem__(0, True), "vector is no list of numbers"),
        (lambda t, m: m["vector"].__setitem__(0, "1"), "vector is no list of numbers"),
        (lambda t, m: m["vector"].__setitem__(0, float("nan")), "vector holds NaN"),
        (lambda t, m: m["vector"].__setitem__(0, 1e300), "vector holds NaN, negative numbers or some beyond"),
        (lambda t, m: m["vector"].__setitem__(0, 10**400), "beyond all bounds"),
        (lambda t, m: m["vector"].__setitem__(0, -1.0), "negative"),
        (lambda t, m: m.update(n_vectors=62), r"on 9\.9 s of speech"),
        (lambda t, m: m.update(n_vectors=3000.0), r"n_vectors is 3000\.0"),
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


def test_what_another_model_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"float64 \(480,\); expected float32"):
        Microphone(WEIGHTS, np.zeros(480), 100)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="vector is list"):
        Microphone(WEIGHTS, [1.0], 100)  # type: ignore[arg-type]
    recognizer = EmotionRecognizer()
    before = recognizer.profile
    with pytest.raises(ConfigError, match="measured with another model"):
        recognizer.profile = Profile(Microphone("0" * 64, np.zeros(SIZE, dtype=np.float32), 100))
    assert recognizer.profile is before


def test_a_calibrated_microphone_answers_more_like_the_models_own(data_dir: Path) -> None:
    """A telephone's filter moves answers; what other people said through it moves them back."""
    with (data_dir / "cremad" / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "dev" and row["emotion"] == "neutral"]
    sos = signal.butter(3, (500, 2500), "bandpass", fs=16000, output="sos")
    recognizer = EmotionRecognizer()
    plain = [soundfile.read(data_dir / "cremad" / row["file"], dtype="float32")[0] for row in rows]
    filtered = [signal.sosfilt(sos, x).astype(np.float32) for x in plain]
    statistics = recognizer.statistics()
    for x in filtered[:40]:
        statistics.add(extract(x))
    apart = []
    for profile in (Profile(), Profile(statistics.result())):
        recognizer.profile = Profile()
        expected = [recognizer.predict((x, 16000)).logits for x in plain[60:]]
        recognizer.profile = profile
        found = [recognizer.predict((x, 16000)).logits for x in filtered[60:]]
        apart.append(float(np.linalg.norm(np.array(found) - np.array(expected), axis=1).mean()))
    assert apart[1] < 0.8 * apart[0], apart


def test_ordinary_speech_is_as_loud_and_varied_as_stated(data_dir: Path) -> None:
    with (data_dir / "cremad" / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    everything, ordinary = SpeechStatistics(ENCODER), SpeechStatistics(ENCODER)
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
