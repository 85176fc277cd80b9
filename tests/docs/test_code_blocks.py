"""What the README and the site show is true: Python blocks run, command lines that need nothing special run, the others parse."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

from edge_ser.cli import cli
from edge_ser.engines.clib import SOURCES
from edge_ser.model.c_source import source_of
from tests.commanding import run as in_process
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECORDINGS = ("hello.wav", "mine.wav", "meeting.wav", "minute.wav", "a.wav", "b.wav", "c.wav", "d.wav", "recordings/one.wav")
PARSED_ALONE = {
    "label",
    "listen",
    "serve",
    "train",
    "reproduce",
    "export",
    "evaluate",
    "corpus",
    "benchmark",
    "calibrate",
    "doctor",
}
"""Verbs that need a microphone, a broker, a bucket, corpora or minutes: their lines are parsed, not run."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for i, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            yield f"{page.relative_to(ROOT)}-{i}", block


def command_lines() -> Iterator[tuple[str, str]]:
    for name, block in blocks("sh"):
        for line in block.splitlines():
            if re.search(r"(^|\| )edge-ser ", line):
                yield f"{name}: {line}", line


PYTHON, COMMANDS = list(blocks("python")), list(command_lines())


@pytest.fixture
def folder(tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with everything that the blocks name."""
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    for name in RECORDINGS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, samples, rate_hz)
    for name in ("tests/golden/synthetic_speech.flac", "edge_ser/model/files/edge-ser.onnx"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("DATA/cremad", "RUN", "runs/mine", "MODEL"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "edge_ser/model/files/edge-ser.onnx", tmp_path / "mine.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_blocks_to_look_at() -> None:
    assert len(PYTHON) >= 3
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=[name for name, _ in PYTHON])
def test_python_runs(name: str, block: str, folder: Path) -> None:
    microphone = np.array_split((0.1 * np.sin(np.arange(96000))).astype(np.float32), 20)
    exec(compile(block, name, "exec"), {"microphone": microphone})


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_a_command_line_runs_or_parses(name: str, line: str, folder: Path, native_library: Path) -> None:
    command = line.split(" #")[0].rpartition("| ")[2] if "ffmpeg" not in line else "edge-ser predict -"
    arguments, _, stdin = command.partition(" < ")
    _, verb, *rest = shlex.split(arguments)
    if "DIR" in rest or verb in PARSED_ALONE or "--record" in rest:
        parse(verb, rest)
        return
    if (verb == "predict" and "--profile" in rest) or {"--only", "--show"} & {*rest}:
        run(["adapt", "happy", "mine.wav", "--profile", "me.json"], None)
    run([verb, *rest], folder / (stdin or "hello.wav"))


def test_the_c_of_the_firmware_page_compiles(tmp_path: Path) -> None:
    (source,) = [block for name, block in blocks("c") if "firmware.md" in name]
    source_of().write(tmp_path)
    (tmp_path / "page.c").write_text(source)
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}", "-c", "page.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def parse(verb: str, arguments: list[str]) -> None:
    with click.Context(cli) as context:
        command = cli.get_command(context, verb)
        assert command is not None
        if isinstance(command, click.Group):
            verb, *arguments = arguments
            command = command.get_command(context, verb)
            assert command is not None
        command.make_context(verb, arguments, parent=context)


def run(arguments: list[str], stdin: Path | None) -> None:
    done = in_process(*arguments, stdin=stdin.read_bytes() if stdin else b"")
    assert done.returncode == 0, done.stderr.decode()
