from __future__ import annotations

import base64
import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import AudioError, ConfigError, EmotionRecognizer
from edge_ser.engines import open_backend
from edge_ser.frontend.audio import AudioSource
from edge_ser.frontend.features import LOGMEL_V1, extract
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser.prediction import NO_SPEECH, UNCERTAIN, Prediction, decide, distance_of

NO_STATISTICS = np.zeros(960, dtype=np.uint16)


@pytest.fixture(scope="module", params=["auto", "onnx"])
def recognizer(request: pytest.FixtureRequest) -> EmotionRecognizer:
    return EmotionRecognizer(backend=request.param)


def test_the_shipped_model_answers(recognizer: EmotionRecognizer, speech: Path) -> None:
    prediction = recognizer.predict(speech)
    assert recognizer.labels == ("neutral", "angry", "happy", "sad")
    assert prediction.label in recognizer.labels
    assert list(prediction.probabilities) == list(recognizer.labels)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.confidence == max(prediction.probabilities.values())
    assert prediction.probabilities[prediction.label] == prediction.confidence
    assert prediction.embedding.shape == (64,)
    assert prediction.embedding.dtype == np.float32
    assert prediction.duration_s == pytest.approx(soundfile.info(speech).duration)


def test_every_kind_of_source_gives_the_same_answer(recognizer: EmotionRecognizer, speech: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    sources: list[AudioSource] = [speech, str(speech), speech.read_bytes(), io.BytesIO(speech.read_bytes()), (samples, rate_hz)]
    first, *others = recognizer.predict_many(sources)
    for other in others:
        assert np.array_equal(other.logits, first.logits)
        assert other.probabilities == first.probabilities


def test_stereo_and_rates_change_little(recognizer: EmotionRecognizer, speech: Path) -> None:
    import soxr

    samples, _ = soundfile.read(speech, dtype="float32")
    base = recognizer.predict(speech)
    stereo = recognizer.predict((np.stack([samples, samples], axis=1), 16000))
    assert np.array_equal(stereo.logits, base.logits)
    up = recognizer.predict((soxr.resample(samples, 16000, 48000), 48000))
    assert up.label == base.label


@pytest.mark.parametrize("n_samples", [1, 639, 640, 8319, 8320, 8321, 16000 * 14, 16000 * 14 + 480, 16000 * 20])
def test_any_length_is_answered(recognizer: EmotionRecognizer, n_samples: int) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(n_samples)).astype(np.float32)
    prediction = recognizer.predict((noise, 16000))
    assert np.isfinite(prediction.logits).all()
    assert prediction.duration_s == n_samples / 16000


def test_silence_has_no_answer(recognizer: EmotionRecognizer) -> None:
    with pytest.raises(AudioError, match="is silent"):
        recognizer.predict((np.zeros(16000, dtype=np.int16), 16000))


def test_the_middle_of_a_long_recording_is_judged(recognizer: EmotionRecognizer) -> None:
    rng = np.random.default_rng(3)
    samples = (0.1 * rng.standard_normal(16000 * 30)).astype(np.float32)
    whole = recognizer.predict((samples, 16000))
    changed = samples.copy()
    changed[: 16000 * 7] = 0  # outside the middle 14 s
    changed[-16000 * 7 :] = 0
    assert np.array_equal(recognizer.predict((changed, 16000)).logits, whole.logits)


def test_one_recognizer_serves_many_threads(recognizer: EmotionRecognizer, speech: Path) -> None:
    expected = recognizer.predict(speech).logits
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(answer.logits, expected) for answer in pool.map(recognizer.predict, [speech] * 8))


@pytest.mark.parametrize("parts", [[49], [65, 81], [49, 49, 161], [1025]])
def test_the_graph_in_parts_equals_the_graph_at_once(speech: Path, parts: list[int]) -> None:
    backend = open_backend(read_model_file(shipped_model_path()))
    samples, _ = soundfile.read(speech, dtype="float32")
    features = extract(np.tile(samples, 3), LOGMEL_V1)
    past, start = None, 0
    for n in parts:
        answer = backend.run(features[start : start + n], past)
        past = answer.encoded
        start += n - 49 + 16
    whole = backend.run(features[: start + 33])
    assert np.array_equal(answer.encoded, whole.encoded)
    assert np.array_equal(answer.logits, whole.logits)


def test_the_shipped_file_is_small_and_not_trained_on_ravdess() -> None:
    model = read_model_file(shipped_model_path())
    assert len(model.content) <= 3e6
    assert [corpus["name"] for corpus in model.manifest.training["corpora"]] == ["cremad", "emodb"]


def test_confidence_is_the_tempered_softmax() -> None:
    manifest = read_model_file(shipped_model_path()).manifest
    logits = np.array([1.0, 3.0, 0.0, -1.0], dtype=np.float32)
    prediction = decide(logits, np.zeros(64, dtype=np.float32), NO_STATISTICS, manifest, 1.0, min_speech=0)
    distance = distance_of(NO_STATISTICS, manifest.distance, manifest.statistics_step)
    tempered = np.exp(logits.astype(np.float64) / (manifest.temperature * distance))
    assert prediction.label == manifest.labels[1]
    assert prediction.confidence == pytest.approx(tempered[1] / tempered.sum())


def test_below_min_confidence_the_label_is_uncertain(recognizer: EmotionRecognizer, speech: Path) -> None:
    plain = recognizer.predict(speech)
    for min_confidence, label in ((0.0, plain.label), (plain.confidence, plain.label), (1.0, UNCERTAIN)):
        answer = EmotionRecognizer(recognizer.path, min_confidence=min_confidence).predict(speech)
        assert (answer.label, answer.confidence, answer.probabilities) == (label, plain.confidence, plain.probabilities)


@pytest.mark.parametrize("wrong", [-0.1, 1.01, float("nan"), 80])
def test_min_confidence_is_a_probability(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"min_confidence is .*; expected a probability from 0 \(off\) to 1"):
        EmotionRecognizer(min_confidence=wrong)


def test_a_model_may_have_a_label_of_that_name() -> None:
    manifest = read_model_file(shipped_model_path()).manifest
    manifest = replace(manifest, labels=(UNCERTAIN, *manifest.labels[1:]))
    logits, z = np.array([9, 0, 0, 0], dtype=np.float32), np.zeros(64, dtype=np.float32)
    answer = decide(logits, z, NO_STATISTICS, manifest, 1.0, 0.5, min_speech=0)
    assert (answer.label, answer.confidence) == (UNCERTAIN, answer.probabilities[UNCERTAIN])


def test_what_is_farther_from_the_training_speech_is_answered_less_surely() -> None:
    manifest, logits = read_model_file(shipped_model_path()).manifest, np.array([3, 0, 1, 0], dtype=np.float32)
    mean, step = np.zeros(960, dtype=np.uint8), manifest.statistics_step
    mean[:2] = 3, 4
    distance = {"mean": base64.b64encode(mean.tobytes()).decode(), "unit": 100 * step, "scale": 1 / (250 * step)}
    manifest, z = replace(manifest, distance=distance), np.zeros(64, dtype=np.float32)

    def temperature(first: int, second: int) -> float:
        statistics = np.array([first, second] + 958 * [0], dtype=np.uint16)
        assert distance_of(statistics, distance, step) == pytest.approx(max(0.5, math.hypot(first - 300, second - 400) / 250))
        p = decide(logits, z, statistics, manifest, 1.0, min_speech=0).probabilities
        assert max(p, key=lambda label: p[label]) == "neutral"
        return 3 / math.log(p["neutral"] / p["angry"])  # of logits 3 apart

    expected = [manifest.temperature * distance for distance in (0.5, 0.5, 1, 2, 200)]
    found = [temperature(*at) for at in ((300, 400), (300, 410), (550, 400), (0, 0), (50300, 400))]
    assert found == pytest.approx(expected)


def test_where_speech_is_improbable_the_label_says_so() -> None:
    manifest, logits = read_model_file(shipped_model_path()).manifest, np.array([9, 0, 0, 0], dtype=np.float32)
    weights = np.array([2] + 959 * [0], dtype=np.int8)
    speech = {"weights": base64.b64encode(weights.tobytes()).decode(), "scale": 0.5 / manifest.statistics_step / 1000}
    distance = manifest.distance | {"scale": 0.0}  # the statistics then change nothing but the probability of speech
    manifest = replace(manifest, speech=speech | {"bias": -1.0, "threshold": 0.4}, distance=distance)
    z = np.zeros(64, dtype=np.float32)

    def answer(thousandths: int, min_confidence: float = 0.0, min_speech: float | None = None) -> Prediction:
        statistics = np.array([thousandths] + 959 * [7], dtype=np.uint16)
        return decide(logits, z, statistics, manifest, 1.0, min_confidence, min_speech)

    found = [answer(x) for x in (500, 700, 1000)]
    assert [one.speech for one in found] == pytest.approx([1 / (1 + math.exp(1 - x)) for x in (0.5, 0.7, 1.0)], abs=1e-6)
    assert [one.label for one in found] == [NO_SPEECH, "neutral", "neutral"]
    assert found[0].probabilities == found[1].probabilities
    assert answer(500, min_speech=0).label == "neutral"
    assert answer(500, min_speech=0.3).label == "neutral"
    assert answer(500, min_confidence=0.9999).label == NO_SPEECH  # before uncertain
    manifest = replace(manifest, speech=manifest.speech | {"bias": -1e5})
    assert answer(0).speech < 1e-100


def test_a_limit_of_speech_is_a_probability() -> None:
    with pytest.raises(ConfigError, match=r"min_speech is 1\.5; expected a probability from 0 \(off\) to 1, or None"):
        EmotionRecognizer(min_speech=1.5)


def test_white_noise_is_no_speech(recognizer: EmotionRecognizer, speech: Path) -> None:
    rng = np.random.default_rng(0)
    assert recognizer.predict(speech).label != NO_SPEECH
    found = []
    for level_db in range(-60, 0, 10):
        noise = 10 ** (level_db / 20) * rng.standard_normal(3 * 16000) / 4
        found.append(recognizer.predict((noise.astype(np.float32), 16000)).label)
    assert set(found) == {NO_SPEECH}
