"""What is built for the browser, and what runs it here: node, npm, Chromium."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser.arrays import Float32Array
from tests.conftest import ROOT
from tests.needs import need_module


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with npm/ and page/."""
    need_module("ziglang")
    folder = tmp_path_factory.mktemp("web")
    build(folder)
    return folder


def build(folder: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "web" / "build.py", "-o", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def samples(speech: Path) -> Float32Array:
    """The golden recording."""
    found: Float32Array = soundfile.read(speech, dtype="float32")[0]
    return found


@pytest.fixture(scope="session")
def spoken(samples: Float32Array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden recording between pauses, as a microphone would give it."""
    path = tmp_path_factory.mktemp("audio") / "spoken.wav"
    pause = np.zeros(16000, dtype=np.float32)
    soundfile.write(path, np.concatenate([pause, samples, pause]), 16000, subtype="PCM_16")
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it."""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
