"""Persons: what moves the centres, how far, what it does to answers, and how it is kept, undone and refused."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edge_ser import AudioError, ConfigError, EmotionRecognizer
from edge_ser.cli import cli
from edge_ser.model.eser_file import parse, read_eser, serialise
from edge_ser.model.manifest import Manifest, shipped_model_path
from edge_ser.personal.correction import Learnt, learn
from edge_ser.personal.microphone import Microphone
from edge_ser.personal.person import EVIDENCE, OWN, SHARED, Heard, Person, moved_centres
from edge_ser.personal.profile import Profile
from edge_ser.personal.within import WITHIN, Within

LABELS = ("neutral", "angry", "happy", "sad")
RNG = np.random.default_rng(3)
CENTRES = RNG.standard_normal((4, 64))


def voice(hz: float, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    """Return a buzz with harmonics, as samples and rate."""
    t = np.arange(int(16000 * seconds)) / 16000
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 12)), dtype=np.float32), 16000


@pytest.fixture
def adapted() -> EmotionRecognizer:
    recognizer = EmotionRecognizer(min_speech=0)  # a buzz is no speech
    for hz, label in ((120, "neutral"), (150, "neutral"), (240, "happy")):
        recognizer.adapt(voice(hz), label)
    return recognizer


def heard(label: str, seed: int, towards: int | None = None) -> Heard:
    """Return an utterance whose statistics lean a way of their label's."""
    rng = np.random.default_rng(seed)
    lean = 400 * np.sin(np.arange(960) * (1 + sum(label.encode())))
    statistics = (2000 + lean + 300 * rng.standard_normal(960)).clip(0, 65535).astype(np.uint16)
    logits = np.zeros(4) if towards is None else 2.0 * np.eye(4)[towards]
    z = (65536 * 0.1 * rng.standard_normal(64)).astype(np.int32)
    return Heard(label, statistics, z, (65536 * logits).astype(np.int32))


def model() -> Learnt:
    return Learnt(LABELS, 1.1, CENTRES, 1 / 1024, 0.2, 480)


def test_centres_move_by_the_equations() -> None:
    z = RNG.standard_normal((5, 64))
    of = {"happy": (4, z[[0, 1, 2, 4]].mean(axis=0)), "sad": (1, z[3])}
    happy, sad = of["happy"][1] - CENTRES[2], z[3] - CENTRES[3]
    # Ridge: what all share, m, and what is an emotion's own, d, minimise
    #   sum of n · |mean displacement - m - d|² + OWN · |d|² + SHARED · |m|².
    n = np.array([0.0, 0.0, 4.0, 1.0])
    design = np.hstack([np.ones((4, 1)), np.eye(4)])
    normal = design.T @ (n[:, None] * design) + np.diag([SHARED, *4 * [OWN]])
    shown = np.stack([np.zeros(64), np.zeros(64), happy, sad])
    solution = np.linalg.solve(normal, design.T @ (n[:, None] * shown))
    np.testing.assert_allclose(moved_centres(LABELS, CENTRES, of), CENTRES + design @ solution, atol=1e-12)
    assert EVIDENCE > 0


def test_what_is_learnt_tells_new_utterances_and_starts_from_the_network() -> None:
    labels = ("neutral", "angry", "happy", "sad")
    person = Person("w", tuple(heard(label, i) for i, label in enumerate(4 * labels)))
    correction = learn(person, model())
    assert correction is not None
    for i, label in enumerate(labels):
        assert correction.labels[int(correction.scores(heard(label, 100 + i)).argmax())] == label
    assert (correction.loo.argmax(axis=1) == [labels.index(h.label) for h in person.utterances]).all()
    again = learn(person, model())
    assert again is not None
    assert np.array_equal(again.statistics, correction.statistics)
    assert again.temperature == correction.temperature


def test_what_a_labels_utterances_differ_by_counts_less() -> None:
    x, y = RNG.standard_normal((7, 30)), np.array([0, 0, 0, 2, 2, 1, 1])
    residuals = np.concatenate([x[y == c] - x[y == c].mean(axis=0) for c in range(3)])
    covariance = residuals.T @ residuals
    values, vectors = np.linalg.eigh(np.eye(30) + covariance / (WITHIN * np.trace(covariance) / 30))
    expected = x @ (vectors / np.sqrt(values)) @ vectors.T
    expected *= np.linalg.norm(x) / np.linalg.norm(expected)
    within = Within(x, y)
    assert within.is_there
    np.testing.assert_allclose(within.of(x), expected, atol=1e-12)
    for nothing_differs in (Within(x, np.arange(7)), Within(x[[0, 0, 5, 5]], np.array([0, 0, 1, 1])), Within(0 * x, y)):
        assert not nothing_differs.is_there


def test_one_label_alone_changes_nothing_and_those_not_given_keep_their_scores() -> None:
    assert learn(Person("w", (heard("sad", 0), heard("sad", 1))), model()) is None
    assert learn(Person("w"), model()) is None
    two = learn(Person("w", tuple(heard(label, i) for i, label in enumerate(4 * ("angry", "sad")))), model())
    assert two is not None
    assert not two.statistics[[0, 2]].any()


def test_words_of_ones_own_join_the_labels_or_replace_them() -> None:
    utterances = tuple(heard(label, i) for i, label in enumerate(4 * ("tired", "happy")))
    person = Person("w", utterances)
    correction = learn(person, model())
    assert correction is not None
    assert correction.labels == (*LABELS, "tired")
    assert correction.source == (0, 1, 2, 3, -1)
    assert correction.labels[int(correction.scores(heard("tired", 99)).argmax())] == "tired"
    alone = learn(replace(person, only=True), model())
    assert alone is not None
    assert alone.labels == ("happy", "tired")
    assert Person("w", utterances[:1]).labels(LABELS) == LABELS


def test_profiles_merge_without_doubles_and_utterances_are_taken_back() -> None:
    one, other = Person("w", (heard("sad", 0), heard("happy", 1))), Person("w", (heard("happy", 1), heard("happy", 2)))
    merged = one.merge(other)
    assert merged.counts == {"sad": 1, "happy": 2}
    assert merged.forget(1).counts == {"happy": 2}
    with pytest.raises(ConfigError, match="no utterance 4; expected 1 to 3"):
        merged.forget(4)
    with pytest.raises(ConfigError, match="another model"):
        one.merge(Person("v", (heard("sad", 3),)))
    assert one.merge(Person("w", (heard("Happy", 1), heard("SAD", 3), heard("Tired", 4)))).counts == {
        "sad": 2,
        "happy": 2,
        "Tired": 1,
    }


@pytest.mark.parametrize("backend", ["onnx", "tflite", "native"])
def test_every_engine_learns_and_answers_own_words_in_streams_too(backend: str, speech: Path) -> None:
    recognizer = EmotionRecognizer(backend=backend, min_speech=0)
    plain = recognizer.predict(speech)
    for hz, label in ((120, "tired"), (150, "tired"), (240, "happy"), (260, "happy")):
        recognizer.adapt(voice(hz), label)
    assert recognizer.labels == (*LABELS, "tired")
    answer = recognizer.predict(speech)
    assert tuple(answer.probabilities) == recognizer.labels
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert np.array_equal(answer.logits, plain.logits)
    samples, rate_hz = soundfile.read(speech, dtype="float32")
    other = EmotionRecognizer(backend=backend)
    with other.stream(rate_hz, profile=recognizer.profile) as s, other.stream(rate_hz) as nobody:
        for part in np.array_split(samples, 23):
            s.feed(part)
            nobody.feed(part)
        assert s.finish().probabilities == answer.probabilities
        assert nobody.finish().probabilities == plain.probabilities


def test_an_answer_can_be_corrected_as_well_as_a_recording(speech: Path) -> None:
    one, other = EmotionRecognizer(min_speech=0), EmotionRecognizer(min_speech=0)
    one.adapt(one.predict(speech), "sad")
    other.adapt(speech, "sad")
    assert one.predict(speech).probabilities == other.predict(speech).probabilities


def test_a_person_survives_the_file_and_serves_streams(adapted: EmotionRecognizer, speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    adapted.profile.save(path)
    assert path.stat().st_size < 3 * 5_000
    assert [p.name for p in tmp_path.iterdir()] == ["me.json"]
    again = EmotionRecognizer(profile=path)
    answer = again.predict(speech)
    assert answer.probabilities == adapted.predict(speech).probabilities
    assert answer.probabilities != EmotionRecognizer().predict(speech).probabilities
    samples, rate_hz = soundfile.read(speech, dtype="float32")
    with again.stream(rate_hz) as s:
        for part in np.array_split(samples, 23):
            s.feed(part)
        final = s.finish()
    assert final.probabilities == answer.probabilities


def test_labels_that_differ_by_case_and_blanks_are_one() -> None:
    recognizer = EmotionRecognizer(min_speech=0)
    for label in ("Happy", " happy ", "Müde", "MU\u0308DE", "müde"):  # the fourth in letters and accents apart
        recognizer.adapt(voice(200), label)
    person = recognizer.profile.person
    assert person is not None
    assert person.counts == {"happy": 2, "Müde": 3}
    assert recognizer.labels == (*recognizer.manifest.labels, "Müde")


def test_threads_lose_no_utterance() -> None:
    recognizer = EmotionRecognizer(min_speech=0)
    answer = recognizer.predict(voice(200))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: recognizer.adapt(answer, "happy"), range(80)))
    person = recognizer.profile.person
    assert person is not None
    assert person.counts == {"happy": 80}


def test_what_is_no_word_and_silence_are_refused_and_change_nothing(adapted: EmotionRecognizer) -> None:
    before = adapted.profile
    for word in ("", " ", "a\tb", "uncertain", "No_Speech ", "x" * 41):
        with pytest.raises(ConfigError, match="label is"):
            adapted.adapt(voice(100), word)
    with pytest.raises(AudioError, match="is silent"):
        adapted.adapt((np.zeros(16000, dtype=np.float32), 16000), "happy")
    assert adapted.profile is before


def test_another_model_is_refused(adapted: EmotionRecognizer, native_library: Path, tmp_path: Path) -> None:
    other_model, content = tmp_path / "other.eser", shipped_model_path(".eser").read_bytes()
    manifest = Manifest.from_json(read_eser(content)[0])
    manifest = replace(manifest, training=manifest.training | {"weights_sha256": "0" * 64})
    other_model.write_bytes(serialise(manifest.to_json(), parse(content, 4), 4))
    with pytest.raises(ConfigError, match=r"learnt a person with another model \(weights .*adapt this model"):
        EmotionRecognizer(other_model, profile=adapted.profile)
    other = EmotionRecognizer(other_model)
    with pytest.raises(ConfigError, match="another model"):
        other.profile = adapted.profile
    assert other.profile == Profile()


def test_numbers_at_their_ends_are_learnt_from_without_a_complaint() -> None:
    rng, limit = np.random.default_rng(5), 2**29
    for only in 10 * (False, True):
        utterances = tuple(
            Heard(
                ("sad", "happy", "tired")[i % (2 + only)],
                np.asarray(rng.choice([0, 65535], 960), dtype=np.uint16),
                np.asarray(rng.choice([-limit, limit], 64), dtype=np.int32),
                np.asarray(rng.choice([-limit, 0, limit], 4), dtype=np.int32),
            )
            for i in range(5)
        )
        correction = learn(Person("w", 2 * utterances, only), model())
        assert correction is not None
        assert np.isfinite(correction.loo).all()
        assert np.isfinite(correction.temperature)
        assert np.abs(correction.scores(utterances[0])).max() <= limit


def test_the_command_extends_a_profile_or_leaves_it(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, ["adapt", *map(str, arguments), "--profile", str(path)])
        return result.output if result.exit_code == 0 else f"{result.exit_code} {result.exception}"

    assert "expected a word" in run("a\tb", speech)
    assert not path.exists()
    output = run("happy", speech, speech)
    assert f"{speech}  happy; was heard as" in output
    assert output.endswith("2 happy\n")
    whole = path.read_bytes()
    assert run("sad", speech, tmp_path / "gone.wav").startswith("1 cannot open")
    assert path.read_bytes() == whole
    assert run("sad", speech).endswith("2 happy, 1 sad\n")
    expected = EmotionRecognizer(min_speech=0)
    for label in ("happy", "happy", "sad"):
        expected.adapt(speech, label)
    answer = json.loads(CliRunner().invoke(cli, ["predict", "--json", "--profile", str(path), str(speech)]).output)
    assert answer["confidence"] == pytest.approx(expected.predict(speech).confidence, abs=1e-6)
    calibrate = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)])
    assert "knows a person, who spoke through the microphone as it was" in str(calibrate.exception)
    for wrong in (("happy",), (), ("happy", "--forget", "all")):
        assert run(*wrong).startswith("2 ")


def test_the_command_forgets_the_person_and_keeps_the_microphone(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    manifest = EmotionRecognizer().manifest
    vector = 1.01 * np.array(manifest.ordinary_vector, dtype=np.float32)
    Profile(Microphone(manifest.training["weights_sha256"], vector, 2000)).save(path)
    for arguments in (["happy", str(speech)], ["--forget", "all", "angry", str(speech)]):
        assert CliRunner().invoke(cli, ["adapt", *arguments, "--profile", str(path)]).exit_code == 0
    profile = Profile.load(path)
    assert profile.person is not None
    assert profile.person.counts == {"angry": 1}
    output = CliRunner().invoke(cli, ["adapt", "--forget", "all", "--profile", str(path)]).output
    assert output.endswith(": none\n")
    profile = Profile.load(path)
    assert profile.person is None
    assert profile.microphone is not None
    assert np.array_equal(profile.microphone.vector, vector)


def test_a_few_utterances_help_with_voices_the_model_hears_wrong(data_dir: Path) -> None:
    with (data_dir / "ravdess" / "labels.csv").open() as file:
        clips = [row for row in csv.DictReader(file) if row["emotion"] in LABELS]
    recognizer = EmotionRecognizer()
    before, right = recognizer.profile, {"plain": 0, "adapted": 0}
    for speaker in sorted({row["speaker"] for row in clips}):
        recognizer.profile = before
        # Files come in pairs, the same sentence said twice: one is learnt from, the other judged.
        own = [(data_dir / "ravdess" / row["file"], row["emotion"]) for row in clips if row["speaker"] == speaker]
        judged = [(path, label, recognizer.predict(path)) for path, label in own[1::2]]
        for path, label in own[::2]:
            recognizer.adapt(path, label)
        for path, label, plain in judged:
            answer = recognizer.predict(path)
            right["plain"] += plain.label == label
            right["adapted"] += answer.label == label
    assert right["adapted"] >= right["plain"] + 5, right


def test_what_is_answered_no_speech_is_not_learnt() -> None:
    recognizer = EmotionRecognizer(min_speech=1)
    before = recognizer.profile
    answer = replace(recognizer.predict(voice(120)), label="no_speech")
    with pytest.raises(AudioError, match="there probably is no speech in it") as refused:
        recognizer.adapt(answer, "happy")
    assert "\n" not in str(refused.value)
    assert recognizer.profile is before
