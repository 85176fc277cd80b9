"""``edge-ser`` in a process of its own, as a user has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

COMMAND = [sys.executable, "-c", "from edge_ser.cli import main; main()"]


def without(module: str) -> list[str]:
    """Return the command where ``module`` cannot be imported, as after an installation that leaves it out."""
    return [sys.executable, "-c", f"import sys; sys.modules['{module}'] = None; {COMMAND[2]}"]


def run(*arguments: object, stdin: bytes | None = None, command: Sequence[str] = COMMAND) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *map(str, arguments)], input=stdin, capture_output=True, check=False)


def complaint(done: subprocess.CompletedProcess[bytes], status: int = 1) -> str:
    """Return the one line of complaint a failed command gave."""
    assert done.returncode == status
    text = done.stderr.decode()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("edge-ser: error: ")]
    assert len(lines) == 1, text
    return lines[0]
