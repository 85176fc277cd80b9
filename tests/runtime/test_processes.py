from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_ser.errors import AudioError, AudioWarning, BackendError
from edge_ser.processes import cores, each
from tests.commanding import COMMAND, complaint, run


def halves(shared: str, item: str) -> str:
    if item == "bad":
        raise AudioError(f"{item} is no audio")
    if item == "loud":
        warnings.warn("too loud", AudioWarning, stacklevel=1)
    if "SIG" in item:
        time.sleep(0.5 if item.startswith("late ") else 0)
        os.kill(os.getpid(), signal.Signals[item.removeprefix("late ")])
    return shared + item


@pytest.mark.parametrize("jobs", [1, 2])
def test_answers_come_in_order_and_errors_in_their_place(jobs: int) -> None:
    items = [str(n) for n in range(50)]
    items[7] = "bad"
    found = list(each(halves, "item ", items, jobs))
    assert [str(answer) for answer in found] == [f"item {n}" if n != 7 else "bad is no audio" for n in range(50)]
    assert isinstance(found[7], AudioError)


@pytest.mark.parametrize("jobs", [1, 2])
def test_warnings_are_given_here(jobs: int) -> None:
    with pytest.warns(AudioWarning, match="too loud"):
        assert list(each(halves, "", ["1", "loud"], jobs)) == ["1", "loud"]


@pytest.mark.parametrize("items", [("1", "SIGKILL", "2"), ("1", "SIGTERM", "2"), ("1", "late SIGKILL")])
def test_a_process_that_dies_is_an_error(items: tuple[str, ...]) -> None:
    """Whether another one is at work, or waits for some: Python from 3.12 on ends those by SIGTERM alone."""
    with pytest.raises(BackendError, match="one of the processes died"):
        list(each(halves, "", items, 2))


def four_megabytes(shared: str, item: str) -> bytes:
    return bytes(2**22)


def test_processes_end_while_they_send() -> None:
    answers = each(four_megabytes, "", ["1"] * 200, 2)
    assert next(answers) == bytes(2**22)
    answers.close()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="without a fork server, Ctrl-C counts once the processes run")
def test_ctrl_c_counts_while_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = ProcessPoolExecutor.map

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return begin(*arguments, **options)

    monkeypatch.setattr(ProcessPoolExecutor, "map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(each(halves, "", ["1"] * 50, 2))


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings, the third of them none."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(3)
    for n in range(6):
        soundfile.write(folder / f"{n}.wav", rng.normal(0, 0.1, 12000 + 900 * n).astype(np.float32), 16000)
    (folder / "2.wav").write_bytes(b"no sound")
    return folder


def test_the_command_prints_with_processes_what_it_prints_without(folder: Path) -> None:
    for options in ((), ("--json", "--embedding")):
        alone, shared = (run("predict", folder, *options, "--jobs", jobs) for jobs in (1, 3))
        assert alone.stdout == shared.stdout
        assert alone.stdout.count(b".wav") == 5
        assert complaint(alone) == complaint(shared)


def test_segments_with_processes_are_those_without(folder: Path, speech: Path) -> None:
    for form in ("table", "csv"):
        alone, shared = (run("predict", folder, speech, speech, "--segments", "--format", form, "--jobs", n) for n in (1, 2))
        assert alone.stdout == shared.stdout
        assert alone.stdout.count(speech.name.encode()) >= 2
        assert complaint(alone) == complaint(shared)
        assert sorted(alone.stderr.splitlines()) == sorted(shared.stderr.splitlines())


@pytest.mark.parametrize("options", [(), ("--segments",)])
def test_ctrl_c_ends_all_processes_without_a_word(folder: Path, options: tuple[str, ...]) -> None:
    command = [*COMMAND, "predict", *[str(folder / "0.wav")] * 20000, "--jobs", "2", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()  # all of them are under way
    os.killpg(child.pid, signal.SIGINT)
    _, complaints = child.communicate(timeout=120)
    assert child.returncode == 130
    assert complaints.replace(f"edge-ser: {folder / '0.wav'}: no speech was found\n".encode(), b"").strip() == b""
    deadline = time.monotonic() + 120  # a process that cleans up after the others is the last to go
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("processes are left")
