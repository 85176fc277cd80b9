from __future__ import annotations

import json
import sys
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_ser.cli import cli
from edge_ser.diagnose import doctor
from edge_ser.diagnose.doctor import Diagnosis, EngineCheck, Jetson, faster_engines, known_problems, missing_extras, read_jetson
from edge_ser.diagnose.machine import Machine, read_condition, read_machine
from tests.commanding import run


def test_the_screen_is_one_screen() -> None:
    done = run("doctor")
    lines = done.stdout.decode().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert done.returncode == 0, done.stdout
    (answered,) = [line for line in lines if line.startswith("onnx, cpu")]
    assert "works: onnxruntime" in answered
    assert "ms for 3 s; same label" in answered
    for provider in ("cuda", "tensorrt"):
        assert any(line.startswith(f"onnx, {provider}") for line in lines)


def test_json_holds_what_the_screen_shows() -> None:
    table = json.loads(run("doctor", "--json").stdout)
    assert (table["format"], table["format_version"]) == ("edge-ser-doctor", 1)
    assert list(table)[2:] == list(Diagnosis.__dataclass_fields__)
    cpu = table["engines"][0]
    assert (cpu["backend"], cpu["provider"], cpu["works"], cpu["same_label"]) == ("onnx", "cpu", True, True)
    assert cpu["median_ms"] > 0
    # The whole graph ran, and nowhere else.
    assert list(cpu["nodes"]) == ["CPU"]
    assert cpu["nodes"]["CPU"] > 5
    (tflite,) = [check for check in table["engines"] if check["backend"] == "tflite"]
    if tflite["works"]:
        assert (tflite["same_label"], tflite["xnnpack"], tflite["nodes"]) == (True, True, None)


def test_an_engine_that_kills_its_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ANSWER", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    checks = list(doctor.check_engines())
    assert not any(check.works for check in checks)
    assert checks[0].reason == "the process died of SIGILL"
    found = Diagnosis("0", read_machine(), read_condition(), None, tuple(checks), "onnx", "none", {}, ())
    assert not found.healthy
    assert "BROKEN: the process died of SIGILL" in doctor.format_diagnosis(found)


def test_an_engine_that_answers_otherwise_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (
        "import json, sys; tflite = sys.argv[1] == 'tflite'\n"
        "print(json.dumps({'label': 'sad' if tflite else 'happy', 'logits': [0, 9 * tflite, 1], 'median_ms': 1, 'nodes': None,"
        " 'kernel': ''}))"
    )
    monkeypatch.setattr(doctor, "_ANSWER", answer)
    checks = tuple(doctor.check_engines())
    assert {check.backend: check.same_label for check in checks if check.backend in ("onnx", "tflite")} == {
        "onnx": True,
        "tflite": False,
    }
    found = Diagnosis("0", read_machine(), read_condition(), None, checks, "onnx", "none", {}, ())
    assert not found.healthy
    assert "ANOTHER LABEL" in doctor.format_diagnosis(found)


@pytest.mark.parametrize("auto", ["native", "onnx"])
@pytest.mark.parametrize("package", ["x 1", None])
def test_an_engine_that_auto_takes_and_that_fails_is_a_problem(
    auto: str, package: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "onnx" if auto == "native" else "native"
    broken = EngineCheck(auto, "cpu", package, False, "EDGE_SER_KERNEL is 'amx'")
    works = EngineCheck(other, "cpu", "x 1", True, "", "sad", same_label=True, logit_error=0.0, median_ms=1.0)
    monkeypatch.setattr(doctor, "shipped_backend", lambda: auto)
    for checks, mend in (((broken, works), f"; until that is mended, use --backend {other}"), ((broken,), "")):
        monkeypatch.setattr(doctor, "check_engines", lambda checks=checks: iter(checks))
        done = CliRunner().invoke(cli, ["doctor", "--json"])
        assert done.exit_code == 1
        told = json.loads(done.stdout)["problems"][0]
        assert told == f"{auto}, which auto takes, does not answer: EDGE_SER_KERNEL is 'amx'{mend}"
    monkeypatch.setattr(doctor, "check_engines", lambda: iter([replace(broken, backend=other), replace(works, backend=auto)]))
    assert "which auto takes, does not answer" not in CliRunner().invoke(cli, ["doctor", "--json"]).output


def test_a_faster_engine_than_autos_is_a_problem() -> None:
    def answered(backend: str, median_ms: float, provider: str = "cpu", same_label: bool = True) -> EngineCheck:
        return EngineCheck(backend, provider, "x 1", True, "", same_label=same_label, median_ms=median_ms)

    native = answered("native", 2.0)
    (found,) = faster_engines((answered("onnx", 1.0), native, answered("tflite", 1.9)), "native")
    assert found.startswith("onnx answered in 1.0 ms, native, which auto takes, in 2.0 ms: use --backend onnx")
    assert not list(faster_engines((answered("onnx", 1.0, "cuda"), native, answered("tflite", 1.0, same_label=False)), "native"))
    assert not list(faster_engines((answered("onnx", 1.0),), "native")), "what auto takes does not answer: another problem"


@pytest.fixture
def pi() -> Machine:
    packages = {"numpy": "1.26.4", "onnxruntime": "1.20.1", "onnxruntime-gpu": None, "tflite-runtime": None}
    return replace(read_machine(), architecture="aarch64", cores=4, packages=packages)


@pytest.mark.parametrize(
    ("packages", "problem"),
    [
        ({"onnxruntime": "1.21.0"}, "illegal instruction on a Raspberry Pi 4"),
        ({"tflite-runtime": "2.14.0", "numpy": "2.0.1"}, "breaks with numpy 2"),
        ({"onnxruntime-gpu": "1.23.0"}, "overwrite each other"),
        ({}, None),
        ({"tflite-runtime": "2.14.0"}, None),
    ],
)
def test_known_bad_versions(pi: Machine, packages: dict[str, str | None], problem: str | None) -> None:
    calm = replace(read_condition(Path("/nowhere")), throttling=())
    found = list(known_problems(replace(pi, packages={**pi.packages, **packages}), calm, None))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_a_slow_machine_is_a_problem(pi: Machine) -> None:
    calm = read_condition(Path("/nowhere"))
    hot = replace(calm, throttling=("under-voltage", "throttled since boot"), governor="powersave", load=9.0)
    text = "\n".join(known_problems(pi, replace(hot, frequency_mhz=600, max_frequency_mhz=1500), None))
    assert "power supply" in text
    assert "cool it" in text
    assert "powersave" in text
    assert "9 processes want its 4 cores" in text
    assert "32-bit" in next(known_problems(replace(pi, architecture="armv7l"), calm, None))


@pytest.mark.parametrize(
    ("release", "l4t", "jetpack", "advice"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", 6, "cp310-cp310-linux_aarch64.whl"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "38.2.0", 7, "cp312"),
        ("# R35 (release), REVISION: 5.0, GCID: 1", "35.5.0", 5, "use the CPU"),
        ("# R99 (release), REVISION: 1.0, GCID: 1", "99.1.0", None, "NVIDIA's list"),
        ("something else", "not told", None, "NVIDIA's list"),
    ],
)
def test_a_jetson_is_told_its_wheel(
    tmp_path: Path, pi: Machine, release: str, l4t: str, jetpack: int | None, advice: str
) -> None:
    assert read_jetson(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release + "\n")
    jetson = read_jetson(tmp_path)
    assert isinstance(jetson, Jetson)
    assert (jetson.l4t, jetson.jetpack) == (l4t, jetpack)
    assert advice in jetson.advice
    calm = read_condition(Path("/nowhere"))
    assert any("GPU" in problem for problem in known_problems(pi, calm, jetson)) == (jetpack is not None)


def test_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Message()
    for extra in ("mic", "plot", "all"):
        told["Provides-Extra"] = extra
    for line in (
        "numpy>=1.26",
        'no-such-package>=1; extra == "mic"',
        'numpy[fast]>=1 ; extra == "plot"',
        "edge-ser[mic,plot]; extra == 'all'",
        'no-such-relic; python_version < "3.1" and extra == "plot"',
    ):
        told["Requires-Dist"] = line
    monkeypatch.setattr(doctor, "metadata", lambda package: told)
    assert missing_extras({}) == {"mic": ["no-such-package"], "plot": [], "all": ["no-such-package"]}
    useless = {"numpy": "BLAS (apt install it)"}
    found = missing_extras(useless)
    assert (found["plot"], found["all"]) == (["BLAS (apt install it)"], ["no-such-package", "BLAS (apt install it)"])


@pytest.mark.skipif(sys.platform != "linux", reason="it has another command that mends it")
def test_a_sounddevice_without_portaudio_leaves_the_extra_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "installed_version", lambda name: "1.0")
    line, useless = doctor._microphone()
    assert line.startswith(
        "none: the microphone needs PortAudio (PortAudio library not found); install it with: sudo apt install"
    )
    assert useless == {"sounddevice": "PortAudio (sudo apt install libportaudio2)"}
