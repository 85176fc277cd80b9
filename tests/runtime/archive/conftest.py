from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.commanding import COMMAND, run
from tests.conftest import ROOT

TROUBLED = [sys.executable, "-c", "import tests.runtime.archive.troubled; from edge_ser.cli import main; main()"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Archive:
    """A folder of recordings, and what `edge-ser predict` says of them."""

    folder: Path
    answers: dict[str, Record]
    """By file."""
    refused: set[str]
    """The files that have no answer."""


@pytest.fixture(scope="session")
def make_archive(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Callable[..., Archive]:
    """A function that makes an archive of ``n`` recordings in two folders, ``named`` ones among them, and some that are none."""
    samples, rate_hz = soundfile.read(speech, dtype="int16")

    def make(n: int = 40, named: Iterable[str] = (), broken: bool = False) -> Archive:
        folder = tmp_path_factory.mktemp("archive")
        names = [f"{'ab'[i % 2]}/{i:03}.wav" for i in range(n)]
        for i, name in enumerate([*names, *named]):
            (folder / name).parent.mkdir(exist_ok=True)
            start = 500 * i % (len(samples) // 2)
            soundfile.write(folder / name, samples[start : start + rate_hz], rate_hz)
        refused = set()
        if broken:
            (folder / "a/empty.wav").touch()
            (folder / "b/corrupt.flac").write_bytes(b"fLaC" + bytes(range(256)) * 4)
            (folder / "b/silent.wav").touch()
            soundfile.write(folder / "b/silent.wav", np.zeros(16000), 16000)
            refused = {"a/empty.wav", "b/corrupt.flac", "b/silent.wav"}
        done = run("predict", "--json", folder)
        assert done.returncode == (1 if broken else 0)
        answers = {record["file"]: record for record in map(json.loads, done.stdout.splitlines())}
        assert len(answers) == len({*names, *named})
        if broken:
            (folder / "a/link.wav").symlink_to("nowhere.wav")  # predict passes it over
            refused.add("a/link.wav")
        return Archive(folder, answers, {str(folder / name) for name in refused})

    return make


@pytest.fixture(scope="session")
def archive(make_archive: Callable[..., Archive]) -> Archive:
    """An archive that tests only read."""
    return make_archive(broken=True)


def environment(unit_files: int | None = None) -> dict[str, str]:
    """Return the environment of a command whose processes find the tests' modules."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path} | ({"UNIT_FILES": str(unit_files)} if unit_files else {})


def label(
    *arguments: object, unit_files: int | None = None, troubled: bool = False, status: int = 0, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run `edge-ser label`, which must end with ``status``."""
    if troubled or unit_files or more:
        command = [*(TROUBLED if troubled or unit_files else COMMAND), "label", *map(str, arguments)]
        more |= {"env": environment(unit_files), "capture_output": True, "text": True, "timeout": 240}
        done = subprocess.run(command, check=False, **more)
    else:
        said = run("label", *arguments)
        done = subprocess.CompletedProcess(said.args, said.returncode, said.stdout.decode(), said.stderr.decode())
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of complaint."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("edge-ser: error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0].removeprefix("edge-ser: error: ")


def rows(out: Path) -> list[Record]:
    """Return all rows of a dataset as another program reads them."""
    from pyarrow import parquet

    found: list[Record] = parquet.read_table(out).to_pylist()
    return found


def require_same(out: Path, archive: Archive, also_refused: Iterable[str] = ()) -> None:
    """Fail unless a dataset has exactly one row of each recording, with the answers that `edge-ser predict` gives."""
    refused = archive.refused | set(also_refused)
    answered = {file: answer for file, answer in archive.answers.items() if file not in refused}
    found = rows(out)
    assert sorted(row["file"] for row in found) == sorted([*answered, *refused])
    for row in found:
        assert (row["error"] is not None, row["label"] is None) == (row["file"] in refused,) * 2, row
        if row["error"] is None:
            answer = answered[row["file"]]
            assert [row[k] for k in ("label", "start_s", "stop_s")] == [
                answer["label"],
                0,
                pytest.approx(answer["duration_s"], abs=1e-6),
            ]
            for name in ("confidence", "probabilities", "duration_s"):
                assert row[name] == pytest.approx(answer[name], abs=1e-6)
