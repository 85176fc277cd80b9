"""A person in firmware: the scores of the Python engine, the same on every target, and what is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.errors import BackendError
from edge_ser.personal.c_source import PERSON_FORMAT, write_person
from edge_ser.personal.correction import heard_of
from edge_ser.personal.profile import Profile
from edge_ser_export.c_library import CModel
from tests.firmware.targets import BOARDS, LINUXES, Linux, execute
from tests.needs import need


def buzz(hz: float, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    t = np.arange(int(16000 * seconds)) / 16000
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 12)), dtype=np.float32), 16000


@pytest.fixture(scope="module")
def person(native_library: Path) -> EmotionRecognizer:
    recognizer = EmotionRecognizer(backend="native", min_speech=0)  # a buzz is no speech
    for hz, label in ((120, "tired"), (150, "tired"), (240, "happy"), (260, "happy"), (90, "sad")):
        recognizer.adapt(buzz(hz), label)
    return recognizer


@pytest.fixture(scope="module")
def folder(c_model: Path, person: EmotionRecognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = Path(shutil.copytree(c_model, tmp_path_factory.mktemp("person") / "c"))
    assert write_person(person.profile, person.manifest, found) < 12_000
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> CModel:
    need("cc")
    return CModel.of_sources(folder)


@pytest.mark.parametrize("seconds", [0.3, 1.7, 15.0])
def test_c_gives_the_scores_of_python(model: CModel, person: EmotionRecognizer, seconds: float) -> None:
    samples = np.rint(32767 * buzz(133, seconds)[0] * np.linspace(0.2, 1, int(16000 * seconds))).astype(np.int16)
    stream = model.stream()
    without = stream.n_bytes
    stream.set_person()
    stream.feed(samples)
    result = stream.finish()
    with person.stream() as s:
        s.feed(samples)
        answer = s.finish()
    if seconds < 14:  # of more, a stream in C judges the end, and Python the middle
        correction = person.profile.correction(person.manifest)
        assert correction is not None
        heard = heard_of("any", answer.statistics, answer.embedding, answer.logits)
        assert list(result.logits_q16[: result.n_labels]) == correction.scores(heard).tolist()
        assert result.label.decode() == answer.label
        assert list(result.probabilities[: result.n_labels]) == pytest.approx(list(answer.probabilities.values()), abs=1e-5)
    assert result.n_labels == 5
    assert without == model.stream().n_bytes < 90112


@pytest.mark.slow
@pytest.mark.parametrize("linux", LINUXES, ids=lambda linux: linux.name)
def test_every_linux_answers_alike(linux: Linux, folder: Path, speech: Path, tmp_path: Path) -> None:
    need(*linux.tools)
    pcm = soundfile.read(speech, dtype="int16")[0].astype("<i2").tobytes()
    said = [
        execute([*of.emulator, of.build(folder, tmp_path / str(i))], stdin=pcm)
        for i, of in enumerate(dict.fromkeys((LINUXES[0], linux)))
    ]
    assert len(set(said)) == 1
    assert "tired" in said[0]


@pytest.mark.slow
def test_a_microcontroller_knows_the_person_in_the_bits_of_python(
    folder: Path, person: EmotionRecognizer, speech: Path, tmp_path: Path
) -> None:
    board = BOARDS[1]
    need(*board.tools)
    python = f"PYTHON={sys.executable}"
    # The example itself takes long in an emulator: it is held to its limits, and its answer asked of a shorter program.
    board.build(folder, tmp_path / "example", python)
    assert b"tired\0" in (tmp_path / "example" / "firmware.elf").read_bytes()
    program = Path(__file__).with_name("person.c")
    said = board.run(folder, tmp_path / "bits", python, f"MAIN={program}", "CLIP_S=0.8")
    samples, rate_hz = soundfile.read(speech, dtype="int16", frames=12_800)
    answer = person.predict((samples, rate_hz))
    correction = person.profile.correction(person.manifest)
    assert correction is not None
    scores = correction.scores(heard_of("any", answer.statistics, answer.embedding, answer.logits))
    assert said.splitlines() == [f"{label} {score}" for label, score in zip(correction.labels, scores, strict=True)]


def test_a_person_of_another_model_or_none_is_refused(folder: Path, person: EmotionRecognizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="changes nothing yet"):
        write_person(Profile(), person.manifest, tmp_path)
    text = (folder / "eser_person.c").read_text()
    format_line = f"    {PERSON_FORMAT}u,\n"
    assert format_line in text
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "eser_person.c").write_text(text.replace(format_line, "    9u,\n"))
    need("cc")
    with pytest.raises(BackendError, match="another"):
        CModel.of_sources(other).stream().set_person()
