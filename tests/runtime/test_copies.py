from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ser import EmotionRecognizer, Prediction
from edge_ser.model.manifest import shipped_model_path


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def label_of(recognizer: EmotionRecognizer, path: Path) -> tuple[str, list[float]]:
    answer = recognizer.predict(path)
    return answer.label, answer.logits.tolist()


@pytest.fixture(scope="module")
def taught(speech: Path) -> EmotionRecognizer:
    recognizer = EmotionRecognizer(min_confidence=0.99, min_speech=0)
    recognizer.adapt(speech, "angry")
    recognizer.adapt((0.1 * np.sin(np.arange(16000, dtype=np.float32)), 16000), "sad")
    return recognizer


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_answers_as_the_recognizer_does(way: Callable[[Any], Any], taught: EmotionRecognizer, speech: Path) -> None:
    other = way(taught)
    expected, answer = taught.predict(speech), other.predict(speech)
    assert answer.label == expected.label == "uncertain"
    assert answer.probabilities == expected.probabilities != EmotionRecognizer().predict(speech).probabilities
    assert other.profile.person.counts == {"angry": 1, "sad": 1}
    other.adapt(speech, "happy")
    assert (taught.profile.person.counts if taught.profile.person else {}) == {"angry": 1, "sad": 1}  # each has its own
    with other.stream() as stream:
        stream.feed(np.zeros(100, dtype=np.int16))


def test_a_copy_needs_no_file_and_keeps_the_settings(speech: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(shipped_model_path(".onnx"), tmp_path / "mine.onnx"))
    recognizer = EmotionRecognizer(path, threads=2)
    path.unlink()
    for other in (copy.deepcopy(recognizer), pickled(recognizer)):
        assert (other.path, other.provider, other._engine) == (path, "cpu", ("auto", 2, "cpu"))
        assert np.array_equal(other.predict(speech).logits, recognizer.predict(speech).logits)


def test_another_process_gets_the_recognizer(taught: EmotionRecognizer, speech: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(label_of, (taught, speech)) == label_of(taught, speech)


def test_answers_and_profiles_are_data(taught: EmotionRecognizer, speech: Path) -> None:
    answer: Prediction = taught.predict(speech)
    for way in (copy.deepcopy, pickled):
        other = way(answer)
        assert other.record() == answer.record()
        assert np.array_equal(other.embedding, answer.embedding)
        found, expected = (profile.correction(taught.manifest) for profile in (way(taught.profile), taught.profile))
        assert found is not None
        assert expected is not None
        assert np.array_equal(found.statistics, expected.statistics)


def test_what_holds_an_engine_says_what_to_copy_instead(taught: EmotionRecognizer) -> None:
    for way in (copy.copy, copy.deepcopy, pickled):
        with pytest.raises(TypeError, match="copy the EmotionRecognizer and open a stream of that one"):
            way(taught.stream())
