"""The package inside a zip archive, and inside a program that PyInstaller made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipapp
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from edge_ser.errors import MissingExtraError, require_extra
from tests.conftest import ROOT

PROGRAM = """
import sys
from edge_ser import EmotionRecognizer
for backend in ("native", "onnx"):
    answer = EmotionRecognizer(backend=backend).predict(sys.argv[1])
    print(answer.label, len(answer.embedding))
"""


@pytest.fixture
def package(tmp_path: Path, native_library: Path) -> Path:
    """A folder with the package as an installation has it, the compiled library beside it."""
    folder = tmp_path / "program"
    shutil.copytree(ROOT / "edge_ser", folder / "edge_ser", ignore=shutil.ignore_patterns("__pycache__", "csrc"))
    shutil.copy(native_library, folder / "edge_ser")
    return folder


def answers(command: list[str], cwd: Path) -> str:
    here = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT and "edge_ser" not in entry]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(here), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_zip_archive_holds_models_and_library(package: Path, speech: Path, tmp_path: Path) -> None:
    (package / "__main__.py").write_text(PROGRAM)
    zipapp.create_archive(package, tmp_path / "program.pyz")
    shutil.rmtree(package)
    assert answers([sys.executable, "-S", "program.pyz", str(speech)], tmp_path) == "neutral 64\n" * 2


def test_the_command_in_a_zip_archive(package: Path, speech: Path, tmp_path: Path) -> None:
    zipapp.create_archive(package, tmp_path / "edge-ser.pyz", main="edge_ser.cli:main")
    shutil.rmtree(package)
    command = [sys.executable, "-S", "edge-ser.pyz"]
    assert json.loads(answers([*command, "predict", "--json", str(speech)], tmp_path))["label"] == "neutral"
    assert answers([*command, "info"], tmp_path).startswith("model ")
    assert "predict" in answers([*command, "--help"], tmp_path)
    assert "0." in answers([*command, "--version"], tmp_path)


def test_what_was_left_out_of_a_packed_program_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    expected = r"^this program was packed without none_such; install edge-ser itself: pip install 'edge-ser\[label\]'$"
    with pytest.raises(MissingExtraError, match=expected):
        require_extra("label", "pathlib", "none_such")
    require_extra("label", "pathlib")


@pytest.mark.slow
def test_a_program_of_pyinstaller_holds_models_and_library(speech: Path, native_library: Path, tmp_path: Path) -> None:
    try:
        version("pyinstaller")
    except PackageNotFoundError:
        pytest.skip("no PyInstaller (pip install pyinstaller)")
    (tmp_path / "program.py").write_text(PROGRAM)
    hooks = ROOT / "edge_ser" / "__pyinstaller"
    build = [sys.executable, "-m", "PyInstaller", "--log-level=INFO", f"--additional-hooks-dir={hooks}", "program.py"]
    built = subprocess.run(build, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "edge-ser: pyarrow and ray are left out, and with them the verb label" in built.stderr
    program = tmp_path / "dist" / "program" / "program"
    done = subprocess.run([program, speech], env={}, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "neutral 64\n" * 2), done.stderr
