"""The wheels for other platforms, installed and run in emulators: the same bits as here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.engines import clib
from edge_ser.model.c_source import source_of
from tests.conftest import ROOT
from tests.firmware import emulated
from tests.firmware.exactness import hashes
from tests.firmware.targets import LINUXES, Linux
from tests.needs import need, refuse

pytestmark = pytest.mark.slow
WINE = shutil.which("wine64", path=f"{os.environ.get('PATH', '')}:/usr/lib/wine")


@pytest.fixture(scope="module", params=emulated.BOARDS)
def board(request: pytest.FixtureRequest) -> str:
    need(*emulated.TOOLS)
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def installed(dist: Path, board: str, tmp_path_factory: pytest.TempPathFactory, native_library: Path) -> emulated.Installed:
    """The package as pip installs it on the board."""
    (wheel,) = dist.glob(f"*_{board.partition(',')[0]}.whl")
    return emulated.BOARDS[board][1](wheel, tmp_path_factory.mktemp("board"))


def test_a_board_answers_as_this_machine(board: str, installed: emulated.Installed, speech: Path) -> None:
    said: list[str] = []
    wrong = list(emulated.differences(board, installed, [speech], said.append))
    assert not wrong, "\n".join(wrong)
    assert len(said) == len(emulated.BOARDS[board][2])


def test_a_board_answers_about_real_speech_as_this_machine(
    board: str, installed: emulated.Installed, real_clips: list[Path]
) -> None:
    wrong = list(emulated.differences(board, installed, real_clips[::20], lambda line: None))
    assert not wrong, "\n".join(wrong)


def test_the_command_on_a_board(board: str, installed: emulated.Installed, speech: Path, tmp_path: Path) -> None:
    processor = emulated.BOARDS[board][0]
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    with pytest.raises(RuntimeError, match=r"(?s)status 1\n.*broken.wav") as caught:
        installed.command(processor, "predict", "--json", "--embedding", "--backend", "native", speech, tmp_path / "broken.wav")
    there = json.loads(str(caught.value).splitlines()[1])
    answer = EmotionRecognizer(backend="native").predict(speech)
    assert there["label"] == answer.label
    assert there["embedding"] == pytest.approx(answer.embedding, abs=1e-6)
    assert "Traceback" not in str(caught.value)


def test_the_c_library_on_musl_has_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    source_of().write(tmp_path)
    folders = [tmp_path / name for name in ("musl", "glibc")]
    for folder in folders:
        folder.mkdir()
    zig = f"{sys.executable} -m ziglang cc -target x86_64-linux-musl"
    musl, glibc = (hashes(t, tmp_path, f) for t, f in zip((Linux("musl", zig, "-O3"), LINUXES[0]), folders, strict=True))
    assert musl == glibc, "kernels, features, network, answers"
    assert b"ld-linux" not in (folders[0] / "linux_c").read_bytes(), "not glibc's"


def test_the_windows_library_answers_as_this_machine_does(dist: Path, speech: Path, tmp_path: Path) -> None:
    if WINE is None:
        refuse("wine64 not installed (apt install --no-install-recommends wine64)")
    (wheel,) = dist.glob("*win_amd64.whl")
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract("edge_ser/libeser.dll", tmp_path)
    source_of().write(tmp_path)
    samples, _ = soundfile.read(speech, dtype="int16")
    samples.astype("<i2").tofile(tmp_path / "samples")
    # Compiled as the library was, for then zig has its C runtime already.
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-std=c99", "-O3", "-s"]
    sources = [ROOT / "tests/release/answer.c", tmp_path / "eser_model.c"]
    build = [*zig, f"-I{clib.SOURCES}", f"-I{tmp_path}", *map(str, sources), "-o", str(tmp_path / "answer.exe")]
    subprocess.run(build, check=True, capture_output=True)
    wine = {"WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml,winemenubuilder.exe="}
    command = ["timeout", "240", str(WINE), str(tmp_path / "answer.exe"), library, str(tmp_path / "samples")]
    done = subprocess.run(command, env=os.environ | wine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels, integers = done.stdout.splitlines()
    assert kernels.split() == clib.kernels()
    expected = EmotionRecognizer(backend="native").predict((samples, 16000))
    assert [int(x) for x in integers.split()] == np.rint(65536 * np.concatenate([expected.logits, expected.embedding])).tolist()
