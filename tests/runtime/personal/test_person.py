"""Persons: what moves the centres, how far, what it does to answers, and how it is kept, undone and refused."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edge_ser import AudioError, ConfigError, EmotionRecognizer
from edge_ser.cli import cli
from edge_ser.model.eser_file import parse, read_eser, serialise
from edge_ser.model.manifest import Manifest, shipped_model_path
from edge_ser.personal.microphone import Microphone
from edge_ser.personal.person import EVIDENCE, OWN, SHARED, Person, evidence
from edge_ser.personal.profile import Profile
from edge_ser.prediction import decide, softmax

LABELS = ("neutral", "angry", "happy", "sad")
RNG = np.random.default_rng(3)
CENTRES = RNG.standard_normal((4, 64))


def voice(hz: float, seconds: float = 1.0) -> tuple[np.ndarray, int]:
    """Return a buzz with harmonics, as samples and rate."""
    t = np.arange(int(16000 * seconds)) / 16000
    return np.asarray(0.1 * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 12)), dtype=np.float32), 16000


@pytest.fixture
def adapted() -> EmotionRecognizer:
    recognizer = EmotionRecognizer()
    for hz, label in ((120, "neutral"), (150, "neutral"), (240, "happy")):
        recognizer.adapt(voice(hz), label)
    return recognizer


def test_centres_move_by_the_equations() -> None:
    z = RNG.standard_normal((5, 64))
    person = Person("w")
    for row, label in zip(z, ("happy", "happy", "happy", "sad", "happy"), strict=True):
        person = person.hear(label, row)
    happy, sad = z[[0, 1, 2, 4]].mean(axis=0) - CENTRES[2], z[3] - CENTRES[3]
    # Ridge: what all share, m, and what is an emotion's own, d, minimise
    #   sum of n · |mean displacement - m - d|² + OWN · |d|² + SHARED · |m|².
    n = np.array([0.0, 0.0, 4.0, 1.0])
    design = np.hstack([np.ones((4, 1)), np.eye(4)])
    normal = design.T @ (n[:, None] * design) + np.diag([SHARED, *4 * [OWN]])
    shown = np.stack([np.zeros(64), np.zeros(64), happy, sad])
    solution = np.linalg.solve(normal, design.T @ (n[:, None] * shown))
    np.testing.assert_allclose(person.centres(LABELS, CENTRES), CENTRES + design @ solution, atol=1e-12)
    # The last step is eq. 4 of the paper.
    shared, alpha = solution[0], 4 / (4 + OWN)
    moved = person.centres(LABELS, CENTRES)[2]
    np.testing.assert_allclose(moved, (1 - alpha) * (CENTRES[2] + shared) + alpha * (CENTRES[2] + happy), atol=1e-12)


def test_many_utterances_bring_the_centre_to_their_mean() -> None:
    z = RNG.standard_normal(64)
    person = Person("w")
    for _ in range(2000):
        person = person.hear("sad", z)
    np.testing.assert_allclose(person.centres(LABELS, CENTRES)[3], z, atol=0.02)


def test_evidence_is_the_log_ratio_of_two_gaussians() -> None:
    from scipy.stats import multivariate_normal

    moved, z, width = CENTRES + 0.1 * RNG.standard_normal((4, 64)), RNG.standard_normal((3, 64)), 2.5
    cov = width**2 / (2 * EVIDENCE)
    expected = [
        [
            multivariate_normal.logpdf(row, m, cov) - multivariate_normal.logpdf(row, c, cov)
            for m, c in zip(moved, CENTRES, strict=True)
        ]
        for row in z
    ]
    np.testing.assert_allclose(evidence(z, CENTRES, moved, width), expected, atol=1e-9)
    np.testing.assert_allclose(evidence(z[0], CENTRES, moved, width), expected[0], atol=1e-9)
    assert not evidence(z, CENTRES, CENTRES, width).any()


def test_an_answer_goes_by_the_persons_centres() -> None:
    manifest = EmotionRecognizer().manifest
    centres = np.array(manifest.centres)
    logits, z = np.array([1, 0.5, 0, -1], dtype=np.float32), centres[2].astype(np.float32)
    moved = centres.copy()
    moved[0] -= 0.3 * (centres[2] - centres[0])  # this person's neutral lies farther from happy
    plain = decide(logits, z, manifest, 1.0)
    answer = decide(logits, z, manifest, 1.0, person_centres=moved)
    p = softmax(logits / manifest.temperature + evidence(z, centres, moved, manifest.novelty_distance))
    assert list(answer.probabilities.values()) == pytest.approx(p.tolist())
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.probabilities["neutral"] < plain.probabilities["neutral"]
    assert np.array_equal(answer.logits, plain.logits)
    moved = centres + 0.5 * manifest.novelty_distance
    assert decide(logits, moved[1], manifest, 1.0, person_centres=moved).distance == 0
    unmoved = decide(logits, z, manifest, 1.0, person_centres=centres)
    assert unmoved.probabilities == pytest.approx(plain.probabilities, abs=1e-12)


def test_adapting_teaches_and_is_undone(speech: Path) -> None:
    recognizer = EmotionRecognizer()
    before, plain = recognizer.profile, recognizer.predict(speech)
    wanted = min(plain.probabilities, key=lambda label: plain.probabilities[label])
    shares = [plain.probabilities[wanted]]
    for _ in range(4):
        recognizer.adapt(speech, wanted)
        shares.append(recognizer.predict(speech).probabilities[wanted])
    assert shares == sorted(shares)
    assert shares[-1] > 2 * shares[0]
    assert recognizer.predict(speech).distance < plain.distance
    recognizer.profile = before
    assert recognizer.predict(speech).probabilities == plain.probabilities


def test_an_answer_can_be_corrected_as_well_as_a_recording(speech: Path) -> None:
    one, other = EmotionRecognizer(), EmotionRecognizer()
    one.adapt(one.predict(speech), "sad")
    other.adapt(speech, "sad")
    assert one.predict(speech).probabilities == other.predict(speech).probabilities


def test_a_person_survives_the_file_and_serves_streams(adapted: EmotionRecognizer, speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    adapted.profile.save(path)
    assert path.stat().st_size < 20_000
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
    assert final.distance == answer.distance


def test_the_tflite_twin_knows_the_same_person(adapted: EmotionRecognizer, speech: Path) -> None:
    twin = EmotionRecognizer(backend="tflite", profile=adapted.profile)
    plain = EmotionRecognizer(backend="tflite").predict(speech)
    person = adapted.profile.person
    assert person is not None
    centres = person.centres(twin.labels, np.array(twin.manifest.centres))
    expected = decide(plain.logits, plain.embedding, twin.manifest, plain.duration_s, person_centres=centres)
    assert twin.predict(speech).probabilities == pytest.approx(expected.probabilities)
    assert expected.probabilities != plain.probabilities


def test_threads_lose_no_utterance() -> None:
    recognizer = EmotionRecognizer()
    answer = recognizer.predict(voice(200))
    threads = [threading.Thread(target=lambda: [recognizer.adapt(answer, "happy") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    person = recognizer.profile.person
    assert person is not None
    assert person.utterances["happy"].n == 80


def test_wrong_labels_and_silence_are_refused_and_change_nothing(adapted: EmotionRecognizer) -> None:
    before = adapted.profile
    with pytest.raises(ConfigError, match=r"label is 'hapy' \(did you mean 'happy'\?\); expected one of neutral, angry"):
        adapted.adapt(voice(100), "hapy")
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, u: p.update(weights_sha256=7), "weights_sha256 is no text"),
        (lambda p, u: p.update(weights_sha256="0" * 64), "another model"),
        (lambda p, u: p.update(utterances=[]), "utterances no object"),
        (lambda p, u: p.update(name="Ann"), "'name' is unknown"),
        (lambda p, u: u.update(glad=u["happy"]), "label is 'glad'"),
        (lambda p, u: u.update(happy=3), "person: happy is int; expected an object with embedding, n"),
        (lambda p, u: u["happy"].pop("n"), "'n' is missing"),
        (lambda p, u: u["happy"].update(n=0), "n is 0; expected how many"),
        (lambda p, u: u["happy"].update(n=True), "n is True"),
        (lambda p, u: u["happy"].update(n=1.5), r"n is 1\.5"),
        (lambda p, u: u["happy"]["embedding"].pop(), "happy has 63 numbers; the model's embedding has 64"),
        (lambda p, u: u["happy"]["embedding"].__setitem__(0, float("nan")), "finite numbers"),
        (lambda p, u: u["happy"]["embedding"].__setitem__(0, 1e30), "finite numbers"),
        (lambda p, u: u["happy"]["embedding"].__setitem__(0, 10**400), "beyond all bounds"),
        (lambda p, u: u["happy"]["embedding"].__setitem__(0, "1"), "no list of numbers"),
        (lambda p, u: u["happy"].update(embedding=[[0.0] * 64]), "no list of numbers"),
    ],
)
def test_a_wrong_person_is_refused(
    adapted: EmotionRecognizer, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "me.json"
    adapted.profile.save(path)
    table = json.loads(path.read_text())
    change(table["person"], table["person"]["utterances"])
    path.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message):
        EmotionRecognizer(profile=path)


def test_the_command_extends_a_profile_or_leaves_it(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, ["adapt", *map(str, arguments), "--profile", str(path)])
        return result.output if result.exit_code == 0 else f"{result.exit_code} {result.exception}"

    assert "hapy" in run("hapy", speech)
    assert not path.exists()
    output = run("happy", speech, speech)
    assert f"{speech}  happy; was heard as" in output
    assert output.endswith("2 happy\n")
    whole = path.read_bytes()
    assert run("sad", speech, tmp_path / "gone.wav").startswith("1 cannot open")
    assert path.read_bytes() == whole
    assert run("sad", speech).endswith("2 happy, 1 sad\n")
    expected = EmotionRecognizer()
    for label in ("happy", "happy", "sad"):
        expected.adapt(speech, label)
    answer = json.loads(CliRunner().invoke(cli, ["predict", "--json", "--profile", str(path), str(speech)]).output)
    assert answer["confidence"] == pytest.approx(expected.predict(speech).confidence, abs=1e-6)
    calibrate = CliRunner().invoke(cli, ["calibrate", *3 * [str(speech)], "-o", str(path)])
    assert "knows a person, who spoke through the microphone as it was" in str(calibrate.exception)
    for wrong in (("happy",), (), ("happy", "--forget")):
        assert run(*wrong).startswith("2 ")


def test_the_command_forgets_the_person_and_keeps_the_microphone(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    vector = np.linspace(0, 3, 480, dtype=np.float32)
    Profile(Microphone(EmotionRecognizer().manifest.training["weights_sha256"], vector, 2000)).save(path)
    for arguments in (["happy", str(speech)], ["--forget", "angry", str(speech)]):
        assert CliRunner().invoke(cli, ["adapt", *arguments, "--profile", str(path)]).exit_code == 0
    profile = Profile.load(path)
    assert profile.person is not None
    assert {label: heard.n for label, heard in profile.person.utterances.items()} == {"angry": 1}
    output = CliRunner().invoke(cli, ["adapt", "--forget", "--profile", str(path)]).output
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
