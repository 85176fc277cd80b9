from __future__ import annotations

import csv
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.cli import cli
from edge_ser.commands.predict import command as predict
from edge_ser.frontend.audio import AudioReader
from edge_ser.live.segmenter import utterances
from edge_ser.timeline.formats import Envelope, Segment, audacity, csv_header, csv_rows, jsonl, rttm, timeline
from edge_ser.timeline.segments import FORMATS
from tests.commanding import run as in_a_process
from tests.commanding import without
from tests.sounds import loud


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["predict", "--segments", *map(str, arguments)], input=stdin)


def lines(*arguments: object, stdin: bytes | None = None) -> list[str]:
    """Return what a successful command prints."""
    done = run(*arguments, stdin=stdin)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def meeting(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real recordings with silence between them, in stereo, as a 16-bit FLAC."""
    parts = [np.zeros(16000, dtype=np.int16)]
    for clip in sorted((data_dir / "emodb" / "audio").glob("*.flac"))[5::140]:
        parts += [soundfile.read(clip, dtype="int16")[0], np.zeros(20000, dtype=np.int16)]
    path = tmp_path_factory.mktemp("meeting") / "our meeting.flac"
    mono = np.concatenate(parts)
    soundfile.write(path, np.stack([mono, mono], axis=1), 16000)
    return path


@pytest.fixture(scope="module")
def segments(recognizer: EmotionRecognizer, meeting: Path) -> list[Segment]:
    with AudioReader(meeting) as reader:
        return list(timeline(recognizer, reader))


def test_a_timeline_is_the_utterances_and_their_answers(
    recognizer: EmotionRecognizer, meeting: Path, segments: list[Segment]
) -> None:
    samples, _ = soundfile.read(meeting, dtype="float32")
    found = list(utterances([samples[:, 0]]))
    assert len(found) == len(segments) == 4
    for utterance, segment in zip(found, segments, strict=True):
        assert (segment.start_s, segment.stop_s) == (utterance.start_s, utterance.stop_s)
        assert np.array_equal(segment.prediction.logits, recognizer.predict(utterance.audio).logits)


def test_the_table(meeting: Path, segments: list[Segment]) -> None:
    header, *rows = lines(meeting)
    assert header.split() == ["start", "length", "emotion", "confidence", "neutral", "angry", "happy", "sad"]
    assert len(rows) == len(segments)
    for row, segment in zip(rows, segments, strict=True):
        assert row.split()[0] == f"0:{int(segment.start_s * 10) / 10:04.1f}"
        assert f" {segment.prediction.label} " in row
    assert lines(meeting, meeting) == [header, str(meeting), *rows, str(meeting), *rows]


def test_jsonl(meeting: Path, segments: list[Segment]) -> None:
    records = [json.loads(line) for line in lines("--format", "jsonl", meeting)]
    keys = ["file", "start_s", "stop_s", "cut", "label", "confidence", "probabilities", "speech", "duration_s"]
    assert [list(record) for record in records] == [keys] * len(segments)
    for record, segment in zip(records, segments, strict=True):
        assert record["file"] == str(meeting)
        assert (record["start_s"], record["stop_s"]) == (segment.start_s, segment.stop_s)
        assert record["duration_s"] == pytest.approx(segment.stop_s - segment.start_s)
        assert record["probabilities"] == pytest.approx(segment.prediction.probabilities, abs=1e-6)


def test_csv_written_to_a_file(meeting: Path, segments: list[Segment], tmp_path: Path) -> None:
    assert lines("--format", "csv", "-o", tmp_path / "out.csv", meeting, "--min-confidence", 1) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"uncertain"}
    for row, segment in zip(rows, segments, strict=True):
        assert (row["file"], float(row["start_s"])) == (str(meeting), segment.start_s)
        assert row["cut"] == "false"
        for label, p in segment.prediction.probabilities.items():
            assert float(row[label]) == pytest.approx(p, abs=1e-6)


def test_audacity_and_rttm(meeting: Path, segments: list[Segment]) -> None:
    labels = [line.split("\t") for line in lines("--format", "audacity", meeting)]
    marks = [line.split() for line in lines("--format", "rttm", meeting)]
    for label, mark, segment in zip(labels, marks, segments, strict=True):
        answer = segment.prediction
        assert [float(x) for x in label[:2]] == [segment.start_s, segment.stop_s]
        assert label[2] == f"{answer.label} {answer.confidence:.0%}"
        # Ten fields: type, file, channel, start, length, two unused, name, confidence, one unused.
        assert (mark[:3], mark[5:8]) == (["SPEAKER", "our_meeting", "1"], ["<NA>", "<NA>", answer.label])
        assert len(mark) == 10
        assert float(mark[3]) == pytest.approx(segment.start_s, abs=5e-4)
        assert float(mark[4]) == pytest.approx(segment.stop_s - segment.start_s, abs=5e-4)
        assert float(mark[8]) == pytest.approx(answer.confidence, abs=5e-4)


def test_names_that_would_break_a_format(segments: list[Segment]) -> None:
    odd = 'a, "b"\tc é.wav'
    (row,) = csv.reader(csv_rows(odd, segments[:1]).splitlines())
    assert row[0] == odd
    assert len(row) == len(csv_header(segments[0].prediction.probabilities).split(","))
    assert json.loads(jsonl(odd, segments[:1]))["file"] == odd
    spaced = [replace(segments[0], prediction=replace(segments[0].prediction, label="very happy"))]
    assert rttm("  .wav", spaced).split()[1] == "audio" or len(rttm("  .wav", spaced).split()) == 10
    assert len(rttm(odd, spaced).split()) == 10
    assert len(audacity(odd, spaced).split("\t")) == 3


def test_settings_and_the_picture(meeting: Path, tmp_path: Path) -> None:
    one = lines("--set", "hangover_ms=4000", "--plot", tmp_path / "one.png", "--format", "jsonl", meeting)
    assert len(one) < 4
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


@pytest.mark.parametrize("n", [0, 1, 300])
def test_any_number_of_utterances_is_drawn(
    recognizer: EmotionRecognizer, segments: list[Segment], tmp_path: Path, n: int
) -> None:
    from matplotlib.image import imread

    from edge_ser.timeline.plot import _columns, draw_timeline

    envelope = Envelope(16000)
    envelope.add(np.linspace(-0.5, 0.5, 16000, dtype=np.float32))
    many = [replace(segments[i % 4], start_s=10.0 * i, stop_s=10.0 * i + 2) for i in range(n)]
    with (tmp_path / "t.png").open("wb") as file:
        draw_timeline(file, f"{n} utterances", max(10.0, 10.0 * n), envelope, many, recognizer.labels)
    picture = imread(tmp_path / "t.png")
    assert picture.shape[:2] == (504, 1440)
    starts, widths, p = _columns(many, 10.0 * n, recognizer.labels)
    assert len(starts) == len(widths) == len(p) == min(n, 100)
    assert p.sum(axis=1) == pytest.approx(1)


def test_mistakes_of_usage_exit_with_2(meeting: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--json", meeting], "it is --format jsonl"),
        (["--format", "wav", meeting], "is not one of"),
        (["--format", "audacity", meeting, meeting], "is of one recording; 2 were given"),
        (["--plot", tmp_path / "x.png", meeting, meeting], "is of one recording"),
        (["--set", "hangover=1", meeting], "did you mean 'hangover_ms'"),
        (["--set", "hold_s=1", meeting], "unknown setting"),
        (["--set", "max_s=20", meeting], "expected 1 to 14 s"),
    ):
        done = run(*arguments)
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
    without = CliRunner().invoke(cli, ["predict", str(meeting), "--format", "csv"])
    assert without.exit_code == 2
    assert "go with --segments" in without.output


def test_every_format_can_be_asked_for() -> None:
    (choice,) = (option.type for option in predict.params if option.name == "form")
    assert isinstance(choice, click.Choice)
    assert list(choice.choices) == list(FORMATS)


def test_a_damaged_recording_leaves_no_half_a_timeline(meeting: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.flac"
    content, half = meeting.read_bytes(), meeting.stat().st_size // 2
    torn.write_bytes(content[:half] + bytes(20000) + content[half + 20000 :])
    out = tmp_path / "out.rttm"
    out.write_text("before\n")
    done = run("--format", "rttm", "-o", out, torn)
    assert done.exit_code == 1
    assert "torn.flac" in done.output
    assert out.read_text() == "before\n"
    assert run("--format", "rttm", "-o", out, torn, meeting).exit_code == 1
    assert {line.split()[1] for line in out.read_text().splitlines()} == {"our_meeting"}
    assert run("--format", "rttm", torn).exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.rttm", "torn.flac"]


def test_what_cannot_be_written_is_said_before_the_work(meeting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_ser.timeline.segments.timeline", lambda *_: pytest.fail("the work was begun"))
    for option in ("-o", "--plot"):
        for path, reason in ((tmp_path / "no" / "x.png", "No such file"), (tmp_path, "Is a directory")):
            error = run(option, path, meeting).exception
            assert isinstance(error, ConfigError)
            assert f"cannot write {path}: {reason}" in str(error)
    assert list(tmp_path.iterdir()) == []


def test_the_command_answers_and_complains_on_one_line(meeting: Path, tmp_path: Path) -> None:
    done = in_a_process("predict", "--segments", "--format", "rttm", meeting, tmp_path / "gone.wav")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr.decode().splitlines()[-1].startswith("edge-ser: error: cannot open ")
    assert len(done.stderr.splitlines()) == 1
    done = in_a_process("predict", "--segments", "--plot", "x.png", meeting, command=without("matplotlib"))
    assert b"pip install 'edge-ser[plot]'" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_recording_without_speech_says_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(32000), 16000)
    done = run("--format", "jsonl", tmp_path / "quiet.wav")
    assert done.exit_code == 0
    assert "quiet.wav: no speech was found" in done.output


def test_standard_input(meeting: Path, segments: list[Segment]) -> None:
    records = [json.loads(line) for line in lines("--format", "jsonl", "-", stdin=meeting.read_bytes())]
    assert [record["start_s"] for record in records] == [segment.start_s for segment in segments]
    assert {record["file"] for record in records} == {"-"}


def test_memory_does_not_grow_with_the_recording(recognizer: EmotionRecognizer, tmp_path: Path) -> None:
    peaks = []
    minute = np.zeros(60 * 16000, dtype=np.int16)
    minute[16000:48000] = (3000 * np.random.default_rng(0).standard_normal(32000)).astype(np.int16)
    for minutes in (1, 2, 5):
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 16000, 1) as file:
            for _ in range(minutes):
                file.write(minute)
        tracemalloc.start()
        with AudioReader(path) as reader:
            envelope = Envelope(reader.n_samples)
            assert sum(1 for _ in timeline(recognizer, reader, None, envelope.add, loud)) == minutes
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 1e6, peaks


@given(n_samples=st.integers(1, 500), n_bins=st.integers(1, 40), cuts=st.lists(st.integers(0, 60), min_size=1, max_size=10))
def test_the_envelope_is_that_of_the_whole(n_samples: int, n_bins: int, cuts: list[int]) -> None:
    samples = np.random.default_rng(n_samples).standard_normal(n_samples).astype(np.float32)
    envelope = Envelope(n_samples, n_bins)
    edges = np.cumsum(np.resize([*cuts, 1], n_samples))
    for block in np.split(samples, edges[edges < n_samples]):
        envelope.add(block)
    parts = [samples[np.arange(n_samples) * len(envelope.low) // n_samples == i] for i in range(len(envelope.low))]
    assert envelope.low.tolist() == [min(0, part.min()) for part in parts]
    assert envelope.high.tolist() == [max(0, part.max()) for part in parts]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_is_written_by_any_number_of_processes(speech: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out.csv"
    assert run("--format", "csv", "-o", out, "--jobs", jobs, speech, speech, tmp_path / "none.wav").exit_code == 1
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["file", str(speech), str(speech)]
