"""Profiles as files: how small they are, and that wrong and hostile ones are refused in one line, nothing being lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.cli import cli
from edge_ser.personal.person import Heard, Person
from edge_ser.personal.profile import Profile


def heard(label: str, size: int = 960) -> Heard:
    """Return an utterance of noise."""
    rng = np.random.default_rng(size)
    statistics = rng.integers(0, 65536, size).astype(np.uint16)
    return Heard(label, statistics, rng.integers(-65536, 65536, 64).astype(np.int32), np.zeros(4, np.int32))


@pytest.fixture(scope="module")
def adapted() -> EmotionRecognizer:
    recognizer = EmotionRecognizer(min_speech=0)  # a tone is no speech
    for hz, label in ((120, "neutral"), (150, "neutral"), (240, "happy")):
        recognizer.adapt((0.1 * np.sin(2 * np.pi * hz * np.arange(16000) / 16000), 16000), label)
    return recognizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, u: p.update(weights_sha256=7), "weights_sha256 is int"),
        (lambda p, u: p.update(weights_sha256="0" * 64), "another model"),
        (lambda p, u: p.update(utterances={}), "utterances is dict"),
        (lambda p, u: p.update(only=1), "only is int"),
        (lambda p, u: p.update(name="Ann"), "'name' is unknown"),
        (lambda p, u: p.update(utterances=401 * u[:1]), "401 utterances of the person; expected at most 400"),
        (lambda p, u: p.update(utterances=[u[0] | {"label": f"word{i}"} for i in range(17)]), "17 labels; expected at most 16"),
        (lambda p, u: u[0].update(label="a\nb"), "expected a word"),
        (lambda p, u: u[0].update(label="x" * 41), "at most 40 characters"),
        (lambda p, u: u[0].update(label=3), "label is 3"),
        (lambda p, u: u.__setitem__(0, 3), "an utterance is int"),
        (lambda p, u: u[0].pop("logits"), "'logits' is missing"),
        (lambda p, u: u[0].update(embedding=float("nan")), "embedding of an utterance is no base64"),
        (lambda p, u: u[0].update(embedding="AAA="), "embedding of an utterance is no base64"),
        (lambda p, u: u[0].update(embedding="AAAA"), "embedding of an utterance is no base64"),
        (lambda p, u: u[0].update(embedding="////fwAA" * 32), "beyond any model's"),
        (lambda p, u: u[0].update(statistics="AAAA"), "differ in length|no base64"),
        (lambda p, u: p.update(utterances=[h | {"logits": "AAAAAA=="} for h in u]), "another model's size"),
        (lambda p, u: p.update(utterances=[h | {"statistics": "AAAAAA=="} for h in u]), "another model's size"),
    ],
)
def test_a_wrong_person_is_refused(
    adapted: EmotionRecognizer, tmp_path: Path, change: Callable[[dict[str, Any], list[dict[str, Any]]], object], message: str
) -> None:
    path = tmp_path / "me.json"
    adapted.profile.save(path)
    table = json.loads(path.read_text())
    change(table["person"], table["person"]["utterances"])
    path.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message):
        EmotionRecognizer(profile=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[" * 100_000, "is no JSON"), (b"\xff\xfe", "is no JSON"), (b" " * 4_000_001, "larger than 4 MB"), (b"", "is no JSON")],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "me.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as refused:
        Profile.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("verb", ["predict", "show", "adapt", "merge", "learn"])
def test_every_command_refuses_a_hostile_profile_in_one_line_and_leaves_it(
    verb: str, adapted: EmotionRecognizer, speech: Path, tmp_path: Path
) -> None:
    path, me = tmp_path / "them.json", tmp_path / "me.json"
    adapted.profile.save(me)
    mine, table = me.read_bytes(), json.loads(me.read_text())
    heard = table["person"]["utterances"][0]
    arguments = {
        "predict": ["predict", str(speech), "--profile", str(path)],
        "show": ["adapt", "--show", "--profile", str(path)],
        "adapt": ["adapt", "happy", str(speech), "--profile", str(path)],
        "merge": ["adapt", "--merge", str(path), "--profile", str(me)],
        "learn": ["listen", "--realtime", str(speech), "--learn", "--profile", str(path)],
    }[verb]

    def refused(message: str) -> None:
        size = path.stat().st_size
        result = CliRunner().invoke(cli, arguments)
        assert isinstance(result.exception, ConfigError), result.output
        assert message in str(result.exception)
        assert len(str(result.exception).splitlines()) == 1
        assert len(str(result.exception)) < 500
        assert path.stat().st_size == size
        assert me.read_bytes() == mine

    with path.open("wb") as file:
        file.truncate(1_000_000_000)
    refused("larger than 4 MB")
    path.write_text("[" * 1_000_000)
    refused("no JSON")
    path.write_text('{"format": ' * 100_000)
    refused("no JSON")
    path.write_text(json.dumps(table).replace('"only": false', '"only": NaN'))
    refused("only is float")
    path.write_text(json.dumps(table | {"format_version": 1e999}))
    refused("format_version is inf")
    few = heard | {"statistics": "", "embedding": "", "logits": ""}
    path.write_text(json.dumps(table | {"person": table["person"] | {"utterances": 10_000 * [few]}}))
    refused("would hold 10000 utterances of the person; expected at most 400")
    path.write_text(json.dumps(table | {"person": table["person"] | {"weights_sha256": "0" * 64}}))
    refused("another model")


def test_forty_utterances_are_small_and_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    word = 39 * "ü"
    Profile(person=Person("0" * 64, tuple(heard(f"{word}{i % 10}") for i in range(40)))).save(path)
    assert path.stat().st_size <= 200_000
    whole = path.read_bytes()
    large = heard("sad", 20_000)
    with pytest.raises(ConfigError, match=r"would have 16\.\d MB; expected at most 4 MB: take utterances back"):
        Profile(person=Person("0" * 64, 300 * (large,))).save(path)
    assert path.read_bytes() == whole
