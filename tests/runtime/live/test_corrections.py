"""Corrections: what they teach, how fast, that nothing is lost; and the guide that records a person."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from edge_ser import ConfigError, EmotionRecognizer, Profile
from edge_ser.cli import cli
from edge_ser.errors import AudioError
from edge_ser.files import holding
from edge_ser.live.capture import Captured
from edge_ser.live.corrections import PAUSE_S, Corrections
from edge_ser.live.guide import ENOUGH, SENTENCES, SKIP, fault, guide, tasks
from tests.sounds import loud


def buzz(hz: float, seconds: float = 1.2, level: float = 0.1) -> np.ndarray:
    t = np.arange(int(16000 * seconds)) / 16000
    return np.asarray(level * sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 8)), dtype=np.float32)


def test_corrections_teach_are_written_and_do_not_come_too_fast(tmp_path: Path) -> None:
    path, now = tmp_path / "me.json", [0.0]
    recognizer = EmotionRecognizer(min_speech=0)
    corrections = Corrections(recognizer, path, lambda: now[0])
    with pytest.raises(ConfigError, match="nothing was answered yet"):
        corrections.correct(None, "happy")
    answer = recognizer.predict((buzz(200), 16000))
    assert corrections.correct(answer, "happy") == "learnt: that was happy (1 so far)"
    with pytest.raises(ConfigError, match="within 2 s of another"):
        corrections.correct(answer, "sad")
    now[0] += PAUSE_S
    assert corrections.correct(answer, "tired") == "learnt: that was tired (1 so far)"  # a slip: the later label counts
    person = Profile.load(path).person
    assert person is not None
    assert person.counts == {"tired": 1}
    now[0] += PAUSE_S
    before = recognizer.profile
    with pytest.raises(ConfigError, match="expected a word"):
        corrections.correct(recognizer.predict((buzz(100), 16000)), "a\nb")
    assert recognizer.profile is before


def test_two_learners_of_one_profile_lose_nothing(tmp_path: Path) -> None:
    path, link = tmp_path / "me.json", tmp_path / "link.json"
    learners = [EmotionRecognizer(min_speech=0) for _ in range(2)]
    answers = [learner.predict((buzz(hz), 16000)) for learner, hz in zip(learners, (100, 200), strict=True)]
    now = iter(range(0, 100, 10))
    one = Corrections(learners[0], path, lambda: next(now))
    assert one.correct(answers[0], "happy") == "learnt: that was happy (1 so far)"
    link.symlink_to(path)
    other = Corrections(learners[1], link, lambda: next(now))
    assert other.correct(answers[1], "Tired") == "learnt: that was Tired (1 so far)"
    assert one.correct(answers[0], "TIRED") == "learnt: that was Tired, for TIRED (2 so far)"  # happy was a slip
    person = Profile.load(path).person
    assert person is not None
    assert person.counts == {"Tired": 2}
    with holding(tmp_path / ".me.json.adapting"):
        before = learners[1].profile
        with pytest.raises(ConfigError, match="another process is changing"):
            other.correct(answers[1], "sad")
    assert learners[1].profile is before
    assert Profile.load(path).person is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "me.json"]


def test_a_profile_that_cannot_be_written_learns_nothing(tmp_path: Path) -> None:
    recognizer = EmotionRecognizer(min_speech=0)
    before = recognizer.profile
    with pytest.raises(ConfigError, match="cannot write the profile"):
        Corrections(recognizer, tmp_path / "gone" / "me.json").correct(recognizer.predict((buzz(200), 16000)), "happy")
    assert recognizer.profile is before


SILENCE = np.zeros(16000, dtype=np.float32)


def pieces(*takes: np.ndarray) -> list[Captured]:
    """Return takes with a second of silence behind each."""
    return [Captured(part, 0.0) for take in takes for part in (take, SILENCE)]


def nothing() -> str:
    return ""


def test_a_round_is_one_sentence_for_every_label() -> None:
    said = tasks(["calm", "glad", "calm"])
    assert [task.label for task in said] == len(SENTENCES) * ["calm", "glad"]
    assert [task.text for task in said] == [text for text in SENTENCES for _ in range(2)]


def test_the_guide_repeats_bad_takes_and_learns_good_ones() -> None:
    bad = [buzz(120, 0.4), buzz(120, level=30).clip(-1, 1), buzz(120, level=0.001)]
    takes = [buzz(120), *bad, *(buzz(hz) for hz in (240, 130, 250, 140, 260, 150, 270))]
    recognizer = EmotionRecognizer(min_speech=0)
    lines: list[str] = []
    levels: list[float] = []
    captured = pieces(*takes)
    good = guide(recognizer, ["calm", "glad"], captured, 16000, lines.append, lambda db, _: levels.append(db), nothing, loud)
    assert good == 2 * len(SENTENCES)
    assert recognizer.profile.person is not None
    assert recognizer.profile.person.counts == {"calm": 4, "glad": 4}
    assert sum("once more" in line for line in lines) == 3
    assert any("clipped" in line for line in lines)
    assert any("too soft" in line for line in lines)
    assert any("say the whole sentence" in line for line in lines)
    assert len(levels) == len(captured) - 1  # it ends with the last take, before the silence is over
    assert lines[0] == f'1/8 calm: say "{SENTENCES[0]}"'
    rounds = [line for line in lines if line.startswith("that sentence is done; told right by the others: ")]
    assert [line.split(" of ")[1] for line in rounds] == ["2", "4", "6"]


def test_a_sentence_is_skipped_also_while_it_is_said_and_enough_is_enough() -> None:
    # A key is asked for after every piece of audio, in turn sound and silence.
    keys = iter(["", "", SKIP, "", "", "", ENOUGH])
    recognizer = EmotionRecognizer(min_speech=0)
    lines: list[str] = []
    captured = pieces(buzz(120), buzz(240), buzz(250), buzz(130), buzz(140))
    good = guide(recognizer, ["calm", "glad"], captured, 16000, lines.append, lambda *_: None, lambda: next(keys), loud)
    assert good == 2
    assert recognizer.profile.person is not None
    assert recognizer.profile.person.counts == {"calm": 2}
    assert lines[2:4] == [f'2/8 glad: say "{SENTENCES[0]}"', "  skipped"]
    assert list(keys) == []


def test_who_has_had_enough_at_once_learns_nothing() -> None:
    recognizer = EmotionRecognizer(min_speech=0)
    assert guide(recognizer, ["calm"], pieces(SILENCE), 16000, print, lambda *_: None, lambda: ENOUGH, loud) == 0
    every = len(SENTENCES) * [SKIP]
    assert guide(recognizer, ["calm"], pieces(*4 * [SILENCE]), 16000, print, lambda *_: None, every.pop, loud) == 0
    assert recognizer.profile.person is None


def test_the_guide_keeps_what_it_has_when_the_audio_ends() -> None:
    recognizer = EmotionRecognizer(min_speech=0)
    lines: list[str] = []
    assert guide(recognizer, ["calm"], pieces(buzz(120)), 16000, lines.append, lambda *_: None, nothing, loud) == 1
    assert lines[-1] == "the audio ended; 1 take was learnt"
    with pytest.raises(AudioError, match="before a sentence was heard"):
        guide(recognizer, ["calm"], pieces(SILENCE), 16000, print, lambda *_: None, nothing, loud)
    assert fault(np.zeros(16000, dtype=np.float32), 1.0).startswith("it is too soft")


def test_adapt_records_shows_forgets_and_merges(speech: Path, tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    takes, me, other = tmp_path / "takes.wav", tmp_path / "me.json", tmp_path / "other.json"
    soundfile.write(takes, np.concatenate([np.concatenate([samples, np.zeros(rate_hz, np.int16)])] * 4), rate_hz)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(cli, ["adapt", *map(str, arguments)])
        return result.output if result.exit_code == 0 else f"{result.exit_code} {result.exception}"

    recorded = run("--record", "tired", "happy", "--source", takes, "--profile", me)
    assert '1/8 tired: say "' in recorded
    assert "the audio ended; 4 takes were learnt" in recorded
    assert recorded.endswith("2 tired, 2 happy\n")
    shown = run("--show", "--profile", me)
    assert "told right by the others: " in shown
    assert "what helps most now: more neutral" in shown
    assert run("--forget", "9", "--profile", me).startswith("1 there is no utterance 9; expected 1 to 4")
    for mistaken in ("x", "-1", "1.5", ""):
        done = CliRunner().invoke(cli, ["adapt", f"--forget={mistaken}", "--profile", str(me)])
        assert done.exit_code == 2
        assert f"--forget is {mistaken!r}; expected a number" in done.output
    assert run("--forget", "last", "--profile", me).endswith("2 tired, 1 happy\n")
    run("sad", speech, "--profile", other)
    assert run("--merge", other, "--profile", me).endswith("2 tired, 1 happy, 1 sad\n")
    assert run("--merge", other, "--profile", me).endswith("2 tired, 1 happy, 1 sad\n")
    run("--only", "--profile", me)
    answer = json.loads(CliRunner().invoke(cli, ["predict", "--json", "--profile", str(me), str(speech)]).output)
    assert list(answer["probabilities"]) == ["happy", "sad", "tired"]
    whole = me.read_bytes()
    assert "expected at most 400" in run("sad", *[speech] * 401, "--profile", me)
    assert me.read_bytes() == whole


def test_what_interrupts_a_recording_keeps_the_good_takes(speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(recognizer: EmotionRecognizer, *_: object) -> None:
        recognizer.adapt(speech, "happy")
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_ser.live.guide.guide", interrupted)
    me = tmp_path / "me.json"
    result = CliRunner().invoke(cli, ["adapt", "--record", "--source", str(speech), "--profile", str(me)])
    assert result.exit_code != 0
    assert result.output.startswith(f"utterances of the person in {me}: 1 happy\n")
    person = Profile.load(me).person
    assert person is not None
    assert person.counts == {"happy": 1}


def test_a_recording_without_speech_is_named(tmp_path: Path) -> None:
    hiss = tmp_path / "hiss.wav"
    soundfile.write(hiss, 0.03 * np.random.default_rng(0).standard_normal(32000), 16000)
    result = CliRunner().invoke(cli, ["adapt", "happy", str(hiss), "--profile", str(tmp_path / "me.json")])
    assert isinstance(result.exception, AudioError)
    assert str(result.exception).startswith(f"{hiss}: there probably is no speech")
    assert not (tmp_path / "me.json").exists()
