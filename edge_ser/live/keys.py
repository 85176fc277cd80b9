"""Keys of a terminal, one by one and without waiting."""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = tty = None  # type: ignore[assignment]


class Keys:
    """Gives the keys that were pressed while the block runs; none where standard input is no terminal, or on Windows."""

    def __enter__(self) -> Keys:
        self.are_there = termios is not None and sys.stdin is not None and sys.stdin.isatty()
        if self.are_there:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.are_there:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """Return the next key, or an empty string."""
        if not self.are_there or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "ignore")  # read() would take several and hide them from select
