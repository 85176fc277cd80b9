from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser import AudioError, EmotionRecognizer, Prediction
from edge_ser import stream as streaming_module
from edge_ser.arrays import AnyArray
from edge_ser.frontend.audio import AudioStream
from edge_ser.personal.microphone import Microphone
from edge_ser.personal.profile import Profile


@pytest.fixture(scope="module", params=["onnx", "tflite", "native"])
def recognizer(request: pytest.FixtureRequest) -> EmotionRecognizer:
    if request.param == "tflite":
        pytest.importorskip("ai_edge_litert")
    if request.param == "native":
        request.getfixturevalue("native_library")
    return EmotionRecognizer(backend=request.param)


@pytest.fixture(scope="module")
def clips(real_clips: list[Path]) -> list[tuple[AnyArray, int]]:
    return [soundfile.read(path, dtype="float32") for path in real_clips[::5]]


def cut(samples: AnyArray, sizes: Sequence[int]) -> list[AnyArray]:
    """Return ``samples`` in chunks of the sizes given, over and over."""
    chunks: list[AnyArray] = []
    start = 0
    while start < len(samples):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(samples[start : start + size])
        start += size
    return chunks


def same(a: Prediction, b: Prediction) -> bool:
    return (
        np.array_equal(a.logits, b.logits)
        and np.array_equal(a.embedding, b.embedding)
        and (a.label, a.probabilities, a.speech, a.duration_s) == (b.label, b.probabilities, b.speech, b.duration_s)
    )


def as_dtype(samples: AnyArray, dtype: str) -> AnyArray:
    scale = {"int16": 2**15 - 1, "int32": 2**31 - 1}.get(dtype, 1)
    return (np.clip(samples, -1, 1).astype(np.float64) * scale).astype(dtype)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_stream_answers_what_predict_answers(
    recognizer: EmotionRecognizer, clips: list[tuple[AnyArray, int]], data: st.DataObject
) -> None:
    samples, _ = data.draw(st.sampled_from(clips), label="clip")
    rate = data.draw(st.sampled_from([8000, 16000, 22050, 44100, 48000]), label="played at")
    samples = as_dtype(samples, data.draw(st.sampled_from(["int16", "int32", "float32", "float64"]), label="dtype"))
    if data.draw(st.booleans(), label="stereo"):
        samples = np.stack([samples, samples[::-1]], axis=1)
    sizes = data.draw(st.lists(st.integers(1, 20_000), min_size=1, max_size=6), label="chunks")
    asked = data.draw(st.sets(st.integers(0, 20), max_size=3), label="asked after")
    with recognizer.stream(rate) as stream:
        for i, chunk in enumerate(cut(samples, sizes)):
            stream.feed(chunk)
            if i in asked:
                stream.estimate  # noqa: B018 (asking changes nothing)
        assert same(stream.finish(), recognizer.predict((samples, rate)))


def test_one_sample_at_a_time(recognizer: EmotionRecognizer, clips: list[tuple[AnyArray, int]]) -> None:
    samples = clips[0][0][:12_000]
    with recognizer.stream() as stream:
        for i in range(len(samples)):
            stream.feed(samples[i : i + 1])
        assert same(stream.finish(), recognizer.predict((samples, 16000)))


def test_an_estimate_is_the_answer_for_the_samples_so_far(
    recognizer: EmotionRecognizer, clips: list[tuple[AnyArray, int]]
) -> None:
    samples = np.concatenate([clip for clip, _ in clips])[: 40 * 16000]
    with recognizer.stream() as stream:
        fed = 0
        for chunk in cut(samples, [16000 * 3 + 77]):
            stream.feed(chunk)
            fed += len(chunk)
            estimate = stream.estimate
            assert estimate is not None
            # 40 s of speech: the middle 14 s, which move on while it comes.
            assert same(estimate, recognizer.predict((samples[:fed], 16000)))
        assert same(stream.finish(), recognizer.predict((samples, 16000)))


def test_beyond_the_exact_length_the_last_14_s_are_judged(
    clips: list[tuple[AnyArray, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_module, "EXACT_S", 20)
    recognizer = EmotionRecognizer()
    samples = np.concatenate([clip for clip, _ in clips])[: 30 * 16000 + 640]
    with recognizer.stream() as stream:
        for chunk in cut(samples, [5000]):
            stream.feed(chunk)
        final = stream.finish()
    n_frames = (len(samples) - 640) // 160 + 1
    first = -(-(n_frames - 1400) // 16) * 16
    np.testing.assert_array_equal(final.logits, recognizer.predict((samples[first * 160 :], 16000)).logits)


def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_module, "EXACT_S", 20)
    stream = EmotionRecognizer().stream()
    noise = (0.1 * np.random.default_rng(0).standard_normal(16000 * 5)).astype(np.float32)

    def held() -> int:
        tables = (stream._vectors, stream._loud)
        return sum(table._rows.nbytes for table in tables) + stream._frames.nbytes

    sizes = []
    for _ in range(60):
        stream.feed(noise)
        sizes.append(held())
    assert max(sizes[20:]) <= max(sizes[:20])


def test_a_profile_and_a_confidence_limit_hold_for_streams_too(clips: list[tuple[AnyArray, int]]) -> None:
    recognizer = EmotionRecognizer(min_confidence=1.0, min_speech=0)
    vector = np.linspace(0, 3, 480, dtype=np.float32)
    recognizer.profile = Profile(Microphone(recognizer.manifest.training["weights_sha256"], vector, n_vectors=100))
    samples, rate = clips[1]
    with recognizer.stream(rate) as stream:
        for chunk in cut(samples, [1234]):
            stream.feed(chunk)
        final = stream.finish()
    assert final.label == "uncertain"
    assert same(final, recognizer.predict((samples, rate)))


def test_threads_share_a_recognizer(recognizer: EmotionRecognizer, clips: list[tuple[AnyArray, int]]) -> None:
    expected = [recognizer.predict(clip) for clip in clips[:6]]

    def answers(i: int) -> list[Prediction]:
        with recognizer.stream(clips[i][1]) as stream:
            for chunk in cut(clips[i][0], [700 + 100 * i]):
                stream.feed(chunk)
            return [stream.finish(), recognizer.predict(clips[i])]

    with ThreadPoolExecutor(6) as pool:
        for found, one in zip(pool.map(answers, range(6)), expected, strict=True):
            assert all(same(answer, one) for answer in found)


def test_bytes_are_int16(clips: list[tuple[AnyArray, int]]) -> None:
    samples = as_dtype(clips[0][0], "int16")
    recognizer = EmotionRecognizer()
    with recognizer.stream() as stream:
        for chunk in cut(samples, [999]):
            stream.feed(chunk.tobytes())
        assert same(stream.finish(), recognizer.predict((samples, 16000)))


def test_a_chunk_may_be_overwritten_once_it_was_fed(clips: list[tuple[AnyArray, int]]) -> None:
    recognizer = EmotionRecognizer()
    samples = clips[0][0]
    buffer = np.empty(512, dtype=np.float32)
    with recognizer.stream() as stream:
        for chunk in cut(samples, [512]):
            buffer[: len(chunk)] = chunk
            stream.feed(buffer[: len(chunk)])
            buffer.fill(0.5)
        assert same(stream.finish(), recognizer.predict((samples, 16000)))


def test_a_stream_serves_one_utterance_after_another(clips: list[tuple[AnyArray, int]]) -> None:
    recognizer = EmotionRecognizer()
    stream = recognizer.stream()
    for samples, _ in clips[:3]:
        stream.feed(samples)
        final = stream.finish()
        assert stream.finish() is stream.estimate is final
        assert same(final, recognizer.predict((samples, 16000)))
        with pytest.raises(AudioError, match="has finished"):
            stream.feed(samples)
        stream.reset()


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ("words", "got str"),
        (b"odd", "3 bytes"),
        (np.array([0.0, np.nan], dtype=np.float32), "NaN or infinite samples, the first at sample 161"),
        (np.array([300.0]), "magnitude 300"),
        (np.zeros(4, dtype=np.uint8), "uint8"),
        (np.zeros((2, 2, 2)), "shape"),
    ],
)
def test_a_wrong_chunk_is_refused_and_changes_nothing(chunk: Any, message: str, clips: list[tuple[AnyArray, int]]) -> None:
    recognizer = EmotionRecognizer()
    samples = clips[0][0]
    with recognizer.stream() as stream:
        stream.feed(samples[:160])
        with pytest.raises(AudioError, match=message):
            stream.feed(chunk)
        stream.feed(samples[:0])
        stream.feed(samples[160:])
        assert same(stream.finish(), recognizer.predict((samples, 16000)))


def test_silence_and_nothing_have_no_answer() -> None:
    recognizer = EmotionRecognizer()
    with pytest.raises(AudioError, match="without a sample"):
        recognizer.stream().finish()
    stream = recognizer.stream()
    stream.feed(np.zeros(32000, dtype=np.int16))
    assert stream.estimate is None
    with pytest.raises(AudioError, match="silent"):
        stream.finish()
    with pytest.raises(AudioError, match="rate of 0"):
        recognizer.stream(0)


def test_the_parts_of_an_audio_stream_are_the_whole() -> None:
    samples = (0.3 * np.random.default_rng(3).standard_normal(44100)).astype(np.float32)
    whole, parts = AudioStream(44100), AudioStream(44100)
    expected = np.concatenate([whole.push(samples), whole.flush()])
    found = np.concatenate([*(parts.push(chunk) for chunk in cut(samples, [1, 33, 4410])), parts.flush()])
    np.testing.assert_array_equal(found, expected)
