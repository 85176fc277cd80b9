"""Keys of a real terminal (a pty): each is given once, also where several came together."""

import os
import sys
from typing import TextIO

import pytest

pty = pytest.importorskip("pty")


def test_keys_pressed_together_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_ser.live.keys import Keys

    typist, terminal = pty.openpty()
    stdin: TextIO
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with Keys() as keys:
            assert keys.pressed() == ""
            os.write(typist, b"132")
            assert [keys.pressed() for _ in range(4)] == ["1", "3", "2", ""]
    os.close(typist)
