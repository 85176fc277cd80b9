from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_ser import EmotionRecognizer
from edge_ser.engines import BACKENDS
from edge_ser.errors import ModelFileError
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser.model.scores import record_score
from tests.conftest import ROOT

PAGES = [" ".join((ROOT / page).read_text(encoding="utf-8").split()) for page in ("README.md", "docs/accuracy.md")]
ROWS = {"cremad": "CREMA-D test actors: the kind of speech it learnt from", "ravdess": "RAVDESS: other actors, another studio"}


def scores_of(suffix: str) -> dict[str, dict[str, Any]]:
    return {score["corpus"]: score for score in read_model_file(shipped_model_path(suffix)).manifest.scores}


@pytest.mark.parametrize("corpus", ROWS)
def test_the_pages_state_what_the_shipped_file_scores(corpus: str) -> None:
    score = scores_of(".eser")[corpus]
    low, high = score["ua_95"]
    figures = f"{100 * score['ua']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] | {score['ece']:.3f} |"
    readme, accuracy = PAGES
    assert f"| {ROWS[corpus]} | {figures}" in readme
    assert f"| {ROWS[corpus]} | {score['n_clips']}, {score['n_speakers']} | {figures}" in accuracy


def test_the_pages_state_its_scores_by_gender() -> None:
    female, male = ([f"{100 * s['by_gender'][g]['ua']:.1f} %" for s in scores_of(".eser").values()] for g in ("female", "male"))
    sentence = f"UA {female[0]} and {male[0]} on CREMA-D, {female[1]} and {male[1]} on RAVDESS"
    assert sentence in PAGES[1]


@pytest.mark.parametrize("suffix", BACKENDS.values())
@pytest.mark.parametrize("room", [1, 2000])
def test_a_recorded_score_changes_no_answer(suffix: str, room: int, speech: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(shipped_model_path(suffix), tmp_path))
    before = read_model_file(path).manifest
    evaluation = before.scores[0] | {"ua": 0.1234567, "protocol": "p" * room, "confusion": [[1]]}
    for _ in range(2):
        record_score(path, evaluation, "an engine")
    after = read_model_file(path).manifest
    first, *others = after.scores
    expected = {k: v for k, v in evaluation.items() if k != "confusion"} | {"ua": 0.123457, "engine": "an engine"}
    assert (first, others) == (expected, list(before.scores[1:]))
    assert (after.graph_sha256 == before.graph_sha256) is (suffix != ".tflite")  # whose hash is of the file, manifest included
    assert abs(path.stat().st_size - shipped_model_path(suffix).stat().st_size) < 30 * room + 200
    recorded, shipped = (EmotionRecognizer(file).predict(speech).logits for file in (path, shipped_model_path(suffix)))
    assert np.array_equal(recorded, shipped)


def test_a_manifest_that_grows_again_and_again_takes_its_own_room(tmp_path: Path) -> None:
    path = Path(shutil.copy(shipped_model_path(".tflite"), tmp_path))
    score = read_model_file(path).manifest.scores[0]
    sizes = []
    for room in (4000, 5000, 6000):
        record_score(path, score | {"protocol": "p" * room}, "an engine")
        sizes.append(path.stat().st_size)
    assert sizes[2] - sizes[0] == pytest.approx(2000, abs=32)


def test_a_damaged_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(shipped_model_path().read_bytes()[:-100])
    with pytest.raises(ModelFileError):
        record_score(path, {}, "an engine")
    assert path.stat().st_size == shipped_model_path().stat().st_size - 100
