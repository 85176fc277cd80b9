"""What Windows and macOS lack or name otherwise, simulated: nothing here ran on them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_ser.errors import AudioError, ConfigError, EdgeSerError
from edge_ser.frontend.audio import AudioReader, AudioStream

WINDOWS = """
import errno, sys, types
import fcntl as posix
import asyncio, contextlib, os, pathlib, signal, socket, subprocess, tempfile, uuid  # before the system changes
import multiprocessing.connection, multiprocessing.pool
msvcrt = types.ModuleType("msvcrt")
msvcrt.LK_NBLCK = 2
def locking(fd, mode, n):
    try:
        posix.flock(fd, posix.LOCK_EX | posix.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None
msvcrt.locking = locking
typed = []
msvcrt.kbhit, msvcrt.getwch = lambda: bool(typed), lambda: typed.pop(0)
import click, ctypes, numpy, soundfile, soxr
sys.modules["msvcrt"] = msvcrt
for name in ("fcntl", "termios", "tty", "pty", "pwd", "grp", "resource", "syslog", "readline", "curses"):
    sys.modules[name] = None
for name in ("fchmod", "fchown", "pwrite", "memfd_create", "sched_getaffinity", "getuid", "geteuid", "fork", "mkfifo", "uname",
             "getloadavg", "killpg", "setsid", "nice"):
    delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGPIPE", "SIGQUIT", "setitimer", "pthread_kill"):
    delattr(signal, name)
multiprocessing.connection.PipeConnection = multiprocessing.connection.Connection
del socket.AF_UNIX, multiprocessing.connection.Connection
sys.platform = "win32"
"""
"""Makes a process that has imported the standard library look like one on Windows."""


def on_windows(code: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS + code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_is_imported_without_fcntl() -> None:
    assert on_windows("import edge_ser.files, edge_ser.engines.clib; print(edge_ser.engines.clib.LIBRARY)") == "libeser.dll\n"


def test_every_module_of_the_runtime_is_imported() -> None:
    code = """
import pkgutil, edge_ser
names = [m.name for m in pkgutil.walk_packages(edge_ser.__path__, "edge_ser.") if "__" not in m.name and "lib" not in m.name]
for name in names:
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name not in ("wyoming", "paho", "pyarrow", "ray"):  # of an extra
            raise
print(len(names))
"""
    assert int(on_windows(code)) > 60


def test_listen_starts_and_takes_keys(speech: Path, tmp_path: Path) -> None:
    code = """
from edge_ser.cli import main
from edge_ser.live.keys import Keys
sys.stdin = types.SimpleNamespace(isatty=lambda: True)
typed += "12"
with Keys() as keys:
    print([keys.pressed() for _ in range(3)])
sys.argv = ["edge-ser", "listen", "--realtime", sys.argv[1], "--speed", "100", "--jsonl"]
main()
"""
    keys, *events = on_windows(code, speech).splitlines()
    assert keys == "['1', '2', '']"
    assert any('"utterance"' in event for event in events), events


def test_files_are_written_whole_and_locked(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from edge_ser.files import holding, sharing, writing
folder = Path(sys.argv[1])
for content in (b"one", b"two"):
    with writing(folder / "x.csv") as file:
        file.write(content)
with contextlib.suppress(ZeroDivisionError), writing(folder / "x.csv") as file:
    file.write(b"half")
    1 / 0
print((folder / "x.csv").read_text(), sorted(p.name for p in folder.iterdir()))
with holding(folder / "lock") as first, holding(folder / "lock") as second:
    print(first, second)
with sharing(folder / "shared"):
    pass
with sharing(folder / "shared", alone=True):
    print("alone")
"""
    assert on_windows(code, tmp_path).splitlines() == ["two ['x.csv']", "True False", "alone"]


def test_a_recording_is_decoded_without_a_descriptor(speech: Path) -> None:
    code = """
from edge_ser.frontend.audio import AudioReader
for given in (sys.argv[1], open(sys.argv[1], "rb").read()):
    with AudioReader(given) as reader:
        print(float(abs(reader.samples()).sum()))
"""
    with AudioReader(speech) as reader:
        expected = float(np.abs(reader.samples()).sum())
    assert [float(line) for line in on_windows(code, speech).split()] == [expected] * 2


def test_what_is_redirected_is_utf_8() -> None:
    code = """
import edge_ser.cli
sys.stdout.reconfigure(encoding="cp850")
sys.argv = ["edge-ser", "--version"]
with contextlib.suppress(SystemExit):
    edge_ser.cli.main()
print(sys.stdout.encoding)
"""
    assert on_windows(code).splitlines()[-1] == "utf-8"


def test_a_server_ends_by_a_signal_where_the_loop_takes_none(tmp_path: Path) -> None:
    pytest.importorskip("wyoming")
    code = """
import asyncio, os, signal, threading
from edge_ser import EmotionRecognizer
from functools import partial
from edge_ser.services.connection import Limits
from edge_ser.services.conversation import Conversation
from edge_ser.services.wyoming import serve
def refuse(*_):
    raise NotImplementedError
asyncio.SelectorEventLoop.add_signal_handler = refuse
def ready(uri):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
made = partial(Conversation, EmotionRecognizer(), None, print)
print(asyncio.run(serve(made, ("127.0.0.1", 0), Limits(1, 1.0, 1.0), ready)).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout == "SIGTERM\n", done.stderr


def test_unix_sockets_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wyoming")
    from edge_ser.services.wyoming import parse_uri

    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ConfigError, match="no Unix sockets; expected tcp://HOST:PORT"):
        parse_uri("unix:///run/edge-ser.sock")


def test_the_screen_says_where_edge_ser_never_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_ser.diagnose.doctor import known_problems
    from edge_ser.diagnose.machine import read_condition, read_machine

    machine, condition = read_machine(), read_condition()
    for platform, name in (("win32", "Windows"), ("darwin", "macOS")):
        monkeypatch.setattr(sys, "platform", platform)
        assert any(f"built for {name} and was never run there" in line for line in known_problems(machine, condition, None))
    monkeypatch.setattr(sys, "platform", "linux")
    assert not any("never run" in line for line in known_problems(machine, condition, None))


@pytest.mark.parametrize(("code", "expected"), [(-int(signal.SIGILL), "SIGILL"), (0xC0000005, "an access violation"), (3, None)])
def test_crashes_have_a_name(code: int, expected: str | None) -> None:
    from edge_ser.processes import death

    found = death(code)
    assert found == expected or (expected is not None and found is not None and found.startswith(expected))


def test_without_soxr_other_rates_are_one_line_and_16_khz_answers(monkeypatch: pytest.MonkeyPatch, speech: Path) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with AudioReader(speech) as reader:
        assert len(reader.samples()) == reader.n_samples
    with pytest.raises(AudioError, match=r"audio of 48000 Hz needs soxr.*give audio of 16000 Hz"):
        AudioStream(48000)
    with AudioReader((np.zeros(48000, dtype=np.int16), 48000)) as reader, pytest.raises(AudioError, match="needs soxr"):
        reader.samples()


def test_without_libsndfile_a_file_is_one_line(monkeypatch: pytest.MonkeyPatch, speech: Path) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(AudioError, match="decoding files needs libsndfile"):
        AudioReader(speech)


def test_without_onnx_runtime_the_c_library_answers(monkeypatch: pytest.MonkeyPatch, native_library: Path) -> None:
    from edge_ser import EmotionRecognizer
    from edge_ser.engines import clib, shipped_backend

    monkeypatch.setattr("edge_ser.engines.find_spec", lambda name: None)
    monkeypatch.setattr(clib, "is_fast", lambda: False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert [shipped_backend(), shipped_backend(threads=4)] == ["native", "native"]
    answer = EmotionRecognizer().predict((np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), 16000))
    assert answer.label
    with pytest.raises(EdgeSerError, match="--backend native"):
        EmotionRecognizer(backend="onnx")
