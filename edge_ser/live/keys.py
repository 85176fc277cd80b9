"""Keys of a terminal, one by one and without waiting."""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType

if sys.platform == "win32":
    import msvcrt
else:
    import termios
    import tty


class Keys:
    """Gives the keys that were pressed while the block runs; none where standard input is no terminal."""

    def __enter__(self) -> Keys:
        self.are_there = sys.stdin is not None and sys.stdin.isatty()
        if self.are_there and sys.platform != "win32":
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.are_there and sys.platform != "win32":
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """Return the next key, or an empty string."""
        if not self.are_there:
            return ""
        if sys.platform == "win32":
            return msvcrt.getwch() if msvcrt.kbhit() else ""
        if not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        return os.read(sys.stdin.fileno(), 1).decode("ascii", "ignore")  # read() would take several and hide them from select
