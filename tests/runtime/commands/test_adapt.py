"""What adapt refuses before anybody speaks, and numbers that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser import EmotionRecognizer
from edge_ser.files import holding
from edge_ser.personal.profile import Profile
from tests.commanding import complaint, run


def test_a_profile_that_cannot_be_written_is_refused_before_anybody_speaks(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "me.json"
    done = run("adapt", "--record", "--source", speech, "--profile", path)
    assert str(path) in complaint(done)
    assert done.stdout == b""


def test_a_profile_is_changed_by_one_process_at_a_time(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    with holding(tmp_path / ".me.json.adapting"):
        assert "another process is changing" in complaint(run("adapt", "happy", speech, "--profile", path))
    assert not list(tmp_path.iterdir())


def test_a_label_is_the_one_that_is_there_whatever_its_case(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    assert b"Happy is taken for happy, which is there already" in run("adapt", "Happy", speech, "--profile", path).stdout
    assert b"is taken for" not in run("adapt", "Tired ", speech, "--profile", path).stdout
    assert b"tired is taken for Tired" in run("adapt", "tired", speech, "--profile", path).stdout
    person = Profile.load(path).person
    assert person is not None
    assert person.counts == {"happy": 1, "Tired": 2}
    takes = run("adapt", "--record", "TIRED", "weary", "Weary", "--source", speech, "--profile", path).stdout.decode()
    assert "1/8 Tired: say" in takes


@pytest.mark.parametrize("arguments", [["--forget", "all"], ["--forget", "1"], ["--show"], ["--only"], ["--merge", "OTHER"]])
def test_a_profile_that_is_not_there_is_named_and_not_made(arguments: list[str], speech: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    recognizer = EmotionRecognizer(min_speech=0)
    recognizer.adapt(speech, "happy").save(other)
    words = [str(other) if word == "OTHER" else word for word in arguments]
    for mistyped in (tmp_path / "me.jsno", tmp_path / "nowhere" / "me.json"):
        assert f"{mistyped}: No such file or directory" in complaint(run("adapt", *words, "--profile", mistyped))
    assert [p.name for p in tmp_path.iterdir()] == ["other.json"]
    # With recordings, too, what changes a profile changes one that is there.
    if words[0] != "--show":
        run("adapt", "happy", speech, *words, "--profile", tmp_path / "me.jsno")
        assert [p.name for p in tmp_path.iterdir()] == ["other.json"]


@pytest.mark.parametrize("arguments", [["benchmark", "--duration"], ["predict", "x.wav", "--min-speech"], ["serve", "--idle"]])
def test_nan_is_no_number_of_a_range(arguments: list[str]) -> None:
    done = run(*arguments, "nan")
    assert (done.returncode, b"nan is not in the range" in done.stderr) == (2, True)
