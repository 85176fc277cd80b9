"""What the commands write never harms what is there, and how they end when they are stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from edge_ser.cli import cli
from edge_ser.personal.profile import Profile
from tests.commanding import COMMAND, ending, on_terminal


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


@pytest.fixture
def clip(speech: Path, tmp_path: Path) -> Path:
    """A recording that a careless command could write to."""
    return Path(shutil.copy(speech, tmp_path / "clip.flac"))


@pytest.fixture
def minute(speech: Path, tmp_path: Path) -> Path:
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    soundfile.write(tmp_path / "minute.flac", np.tile(samples, 4), rate_hz)
    return tmp_path / "minute.flac"


def test_an_output_that_is_read_is_a_mistake_of_usage(clip: Path, tmp_path: Path) -> None:
    before = clip.read_bytes()
    hard, link = tmp_path / "hard.flac", tmp_path / "link.flac"
    hard.hardlink_to(clip)
    link.symlink_to(clip)
    for name in (clip, hard, link):
        for arguments in (
            ["predict", "--segments", clip, "-o", name],
            ["predict", "--segments", clip, "--plot", name],
            ["predict", "--segments", tmp_path, "-o", name],
            ["calibrate", clip, "-o", name],
            ["adapt", "happy", clip, "--profile", name],
            ["benchmark", "--audio", clip, "--json", name],
            ["benchmark", "--audio", clip, "--plot", name],
        ):
            done = run(*arguments)
            assert done.exit_code == 2
            assert "is read, too; write to another file" in " ".join(done.output.split())
    with clip.open("rb") as file:
        command = [*COMMAND, "predict", "--segments", "-", "-o", str(clip)]
        assert subprocess.run(command, stdin=file, capture_output=True, check=False).returncode == 2
    for outputs in (["--plot", "-"], ["--plot", tmp_path / "a", "-o", tmp_path / "a"]):
        done = run("predict", "--segments", clip, *outputs)
        assert done.exit_code == 2
        assert "two outputs are" in done.output
    assert clip.read_bytes() == before


def test_segments_go_through_links_pipes_and_devices(clip: Path, tmp_path: Path) -> None:
    plain = run("predict", "--segments", clip, "--format", "csv").output
    assert run("predict", "--segments", clip, "--format", "csv", "-o", "-").output == plain
    link = tmp_path / "link.csv"
    link.symlink_to("real.csv")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(fifo.read_text()))
    reader.start()
    for output in (link, fifo):
        assert run("predict", "--segments", clip, "--format", "csv", "-o", output).exit_code == 0
    reader.join(20)
    assert [(tmp_path / "real.csv").read_text(), *heard] == [plain, plain]
    full = subprocess.run(
        [*COMMAND, "predict", "--segments", clip, "--format", "csv", "-o", "/dev/full"], capture_output=True, check=False
    )
    assert full.returncode == 1
    assert full.stderr == b"edge-ser: error: cannot write /dev/full: No space left on device\n"
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_profile_goes_through_a_pipe_and_to_standard_output(minute: Path, tmp_path: Path) -> None:
    assert run("calibrate", minute, "-o", tmp_path / "mic.json").exit_code == 0
    expected = (tmp_path / "mic.json").read_text()
    done = run("calibrate", minute, "-o", "-")
    assert done.stdout == expected
    assert "speech    " in done.stderr
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heard: list[Profile] = []
    reader = threading.Thread(target=lambda: heard.append(Profile.load(fifo)))
    reader.start()
    assert run("calibrate", minute, "-o", fifo).exit_code == 0
    reader.join(20)
    assert [json.loads(expected)["microphone"]["n_vectors"]] == [p.microphone.n_vectors for p in heard if p.microphone]
    done = run("adapt", "happy", minute, "--profile", fifo)  # would be read first
    assert done.exit_code == 2
    assert "is no regular file" in done.output


def test_calibrate_hears_a_recording_on_standard_input(minute: Path, tmp_path: Path) -> None:
    assert run("calibrate", minute, "-o", tmp_path / "file.json").exit_code == 0
    samples, _ = soundfile.read(minute, dtype="int16")
    soundfile.write(tmp_path / "minute.wav", samples, 16000)
    raw = samples.astype("<i2").tobytes() + b"\1"
    for given in (minute.read_bytes(), (tmp_path / "minute.wav").read_bytes(), raw):
        done = CliRunner().invoke(cli, ["calibrate", "-", "-o", str(tmp_path / "pipe.json")], input=given)
        assert done.exit_code == 0, done.output
        assert (tmp_path / "pipe.json").read_bytes() == (tmp_path / "file.json").read_bytes()


def test_a_long_recording_says_that_its_middle_was_judged(minute: Path, clip: Path, tmp_path: Path) -> None:
    done = run("predict", minute, clip)
    assert [line.endswith("  middle") for line in done.stdout.splitlines()] == [False, True, False]
    assert "the middle 14 s were judged; --segments answers for every utterance" in done.stderr
    assert "--segments" not in run("predict", clip).stderr
    samples, _ = soundfile.read(minute, dtype="int16")
    n = 640 + 1400 * 160  # of 1401 frames
    for n_samples, is_cut in ((n - 1, False), (n, True)):
        soundfile.write(tmp_path / "edge.wav", samples[:n_samples], 16000)
        assert ("  middle" in run("predict", tmp_path / "edge.wav").stdout) == is_cut


def test_every_utterance_is_printed_when_it_is_found(clip: Path, tmp_path: Path) -> None:
    samples, _ = soundfile.read(clip, dtype="int16")
    pause = np.zeros(20 * 16000, dtype=np.int16)
    soundfile.write(tmp_path / "hour.wav", np.concatenate([samples, pause] * 30), 16000)
    command = [*COMMAND, "predict", "--segments", str(tmp_path / "hour.wav"), "--format", "jsonl"]
    with ending(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["start_s"] < 2
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130
        assert b"Traceback" not in child.stderr.read()


def test_progress_and_rows_share_a_terminal(clip: Path) -> None:
    shown = on_terminal("predict", "--segments", clip, COLUMNS="120")
    (row,) = (line for line in shown.splitlines() if "%" in line and " s  " in line)
    assert row.rpartition("\x1b[K")[2].startswith("   0:0")  # on a line of its own: the bar before it was wiped out
    assert "100%" in shown


def test_ctrl_c_is_130() -> None:
    with ending(subprocess.Popen([*COMMAND, "predict", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(b"RIFF")
        child.stdin.flush()
        deadline = time.monotonic() + 120
        while fcntl.ioctl(child.stdin, termios.FIONREAD, bytes(4)) != bytes(4):  # until it has come to read
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 130
        assert b"Traceback" not in child.stderr.read()
