"""``edge-ser`` as a user has it: its streams as bytes, its status, its complaints."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import AnyStr

import pytest

COMMAND = [sys.executable, "-c", "from edge_ser.cli import main; main()"]


def without(module: str) -> list[str]:
    """Return the command where ``module`` cannot be imported, as after an installation that leaves it out."""
    return [sys.executable, "-c", f"import sys; sys.modules['{module}'] = None; {COMMAND[2]}"]


def run(*arguments: object, stdin: bytes = b"", command: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run the command line: in this process, where a start costs nothing, or ``command`` in one of its own."""
    words = [*map(str, arguments)]
    if command:
        return subprocess.run([*command, *words], input=stdin, capture_output=True, check=False)
    from edge_ser.cli import main

    streams = {name: io.TextIOWrapper(io.BytesIO(stdin if name == "stdin" else b"")) for name in ("stdin", "stdout", "stderr")}
    status: object = 0
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["edge-ser", *words])
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        # As outside of pytest, which collects warnings.
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)
        patch.setattr(warnings, "showwarning", lambda *of, **_: sys.stderr.write(warnings.formatwarning(*of[:4])))
        warnings.simplefilter("default")
        for of_python in (DeprecationWarning, ImportWarning, PendingDeprecationWarning, ResourceWarning):
            warnings.simplefilter("ignore", of_python)
        try:
            main()
        except SystemExit as ended:
            status = ended.code or 0
    assert isinstance(status, int)
    out, err = (streams[name] for name in ("stdout", "stderr"))
    for stream in (out, err):
        stream.flush()
    return subprocess.CompletedProcess(["edge-ser", *words], status, out.buffer.getvalue(), err.buffer.getvalue())


@contextmanager
def ending(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Give a process, and kill it where the block fails: ``with subprocess.Popen(...)`` would wait for one that hangs."""
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def on_terminal(*arguments: object, **environment: str) -> str:
    """Return what the command line shows on a terminal (a pty), where it must end well."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    command = [*COMMAND, *map(str, arguments)]
    with ending(subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | environment)) as child:
        os.close(slave)
        shown = b""
        with suppress(OSError):  # the other end is closed
            while piece := os.read(master, 65536):
                shown += piece
        assert child.wait(120) == 0
    os.close(master)
    return shown.decode()


def complaint(done: subprocess.CompletedProcess[bytes], status: int = 1) -> str:
    """Return the one line of complaint a failed command gave."""
    assert done.returncode == status
    text = done.stderr.decode()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("edge-ser: error: ")]
    assert len(lines) == 1, text
    return lines[0]


def python(code: str, *arguments: object) -> str:
    """Return what a program prints in a process of its own, where nothing is imported yet."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
