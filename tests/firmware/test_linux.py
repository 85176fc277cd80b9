"""The Linux examples, on this machine and on emulated boards, and the Python package on one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge_ser import EmotionRecognizer
from edge_ser.arrays import Int16Array
from edge_ser.engines.clib import library_path
from edge_ser.model.manifest import shipped_model_path
from edge_ser_export.c_library import CModel
from tests.firmware import emulated
from tests.firmware.targets import A53, A76, EXAMPLES, LINUXES, Linux, execute, make
from tests.needs import need, refuse

SAID = re.compile(
    r"said (\d+\.\d\d)-(\d+\.\d\d) s: (\w+) (\d+) % \(neutral (\d+), angry (\d+), happy (\d+), sad (\d+)\)( no speech)?"
)


@pytest.fixture(scope="module")
def samples(speech: Path) -> Int16Array:
    found: Int16Array = soundfile.read(speech, dtype="int16")[0]
    return found


@pytest.fixture(scope="module")
def conversation(samples: Int16Array) -> bytes:
    """Half a second of silence, 4.34 s of speech, a second of silence, the first 1.5 s once more, and an odd byte."""
    silence = np.zeros(8000, np.int16)
    return np.concatenate([silence, samples, silence, silence, samples[:24000]]).astype("<i2").tobytes() + b"x"


@pytest.fixture(scope="module")
def native(c_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(*LINUXES[0].tools)
    return LINUXES[0].build(c_model, tmp_path_factory.mktemp("native"))


def test_pcm_in_utterances_out(native: Path, conversation: bytes) -> None:
    lines = execute([native], stdin=conversation).splitlines()
    found = [match for match in map(SAID.fullmatch, lines) if match]
    assert len(found) == len(lines) == 2
    (start, stop), (start_2, stop_2) = ((float(match[1]), float(match[2])) for match in found)
    assert start == pytest.approx(0.5, abs=0.05)
    assert start_2 == pytest.approx(5.84, abs=0.05)
    assert 4.8 < stop < 5.6
    assert stop_2 == pytest.approx(7.34, abs=0.005)
    for match in found:
        shares = dict(zip(("neutral", "angry", "happy", "sad"), map(int, match.groups()[4:8]), strict=True))
        assert abs(sum(shares.values()) - 100) <= 2
        assert shares[match[3]] == int(match[4]) == max(shares.values())


def test_c_source_and_model_file_are_the_same_numbers(c_model: Path, samples: Int16Array) -> None:
    need("cc")
    if library_path() is None:
        refuse("the C library is not installed here")
    stream = CModel.of_sources(c_model).stream()
    stream.feed(samples)
    integers = stream.finish().integers()
    expected = EmotionRecognizer(backend="native").predict((samples, 16000))
    assert integers == tuple(np.rint(65536 * np.concatenate([expected.logits, expected.embedding])).astype(int).tolist())


def test_what_is_no_eser_file_is_not_turned_into_c(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"model.py: .*edge-ser.onnx is no \.eser file; expected one that edge-ser export"):
        execute([sys.executable, EXAMPLES / "model.py", shipped_model_path(".onnx")])
    (tmp_path / "x.eser").write_bytes(shipped_model_path(".eser").read_bytes()[:-1])
    with pytest.raises(RuntimeError, match=r"model.py: .*x\.eser"):
        execute([sys.executable, EXAMPLES / "model.py", tmp_path / "x.eser"])


def test_live_estimates_on_the_way(native: Path, conversation: bytes) -> None:
    lines = execute([native, "--live"], stdin=conversation).splitlines()
    assert [line for line in lines if line.startswith("said")] == execute([native], stdin=conversation).splitlines()
    assert sum(line.startswith("live") for line in lines) >= 8


def test_silence_says_nothing_and_a_mistake_is_explained(native: Path) -> None:
    assert execute([native], stdin=bytes(64000)) == execute([native]) == ""
    with pytest.raises(RuntimeError, match=r"status 2\n\nusage: .* \[--live\] < samples, raw 16 kHz mono"):
        execute([native, "x.wav"])


@pytest.mark.parametrize("target", LINUXES[1:], ids=lambda target: target.name)
def test_a_board_says_what_this_machine_says(
    target: Linux, native: Path, conversation: bytes, c_model: Path, tmp_path: Path
) -> None:
    need(*target.tools)
    program = target.build(c_model, tmp_path)
    assert execute([*target.emulator, program], stdin=conversation) == execute([native], stdin=conversation)


def build_cpp(libraries: Path, folder: Path, prefix: str = "") -> Path:
    """Build the C++ example against the ONNX Runtime in ``libraries``, which is that of a wheel."""
    include = emulated.ARM64.root() / "usr" / "include" / "onnxruntime"
    compilers = [f"CC={prefix}gcc", f"CXX={prefix}g++"]
    make("linux_onnx_cpp", *compilers, f"ORT_INCLUDE={include}", f"ORT_LIB={libraries}", f"BUILD={folder}")
    return folder / "linux_onnx_cpp"


def need_cpp(*tools: str) -> None:
    need("make", "g++", "apt-get", "dpkg-deb", *tools)
    if not Path("/usr/include/nlohmann/json.hpp").exists():
        need("nlohmann-json3-dev")


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import onnxruntime

    need_cpp()
    return build_cpp(Path(onnxruntime.__file__).parent / "capi", tmp_path_factory.mktemp("cpp"))


def shares(output: str) -> tuple[str, dict[str, float]]:
    label, *rows = output.splitlines()
    return label, {name: float(share) / 100 for name, share in (row.removesuffix(" %").split() for row in rows)}


def test_cpp_answers_as_python_does(cpp: Path, samples: Int16Array) -> None:
    recognizer, rng = EmotionRecognizer(backend="onnx"), np.random.default_rng(0)
    long = np.concatenate([samples, *(np.roll(samples, n) // 2 for n in (9000, 20000, 31000))])
    noise = (3000 * rng.standard_normal(40000)).astype(np.int16)
    for recording in (samples, samples[:24000], samples[:3000], long, noise):
        expected = recognizer.predict((recording, 16000)).probabilities
        label, found = shares(execute([cpp, recognizer.path], stdin=recording.astype("<i2").tobytes()))
        assert label == max(found, key=found.__getitem__)
        for name, p in expected.items():
            assert found[name] == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize(
    ("model", "pcm", "complaint"),
    [
        (shipped_model_path(".onnx"), b"", "no samples on standard input"),
        (shipped_model_path(".onnx"), bytes(32000), "the recording is digital silence; expected some speech"),
        ("nowhere.onnx", b"", "nowhere.onnx"),
    ],
)
def test_cpp_says_what_is_wrong(cpp: Path, model: Path | str, pcm: bytes, complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        execute([cpp, model], stdin=pcm)


def test_cpp_writes_nothing_into_the_home(cpp: Path, samples: Int16Array, tmp_path: Path) -> None:
    pcm = samples.astype("<i2").tobytes()
    subprocess.run([cpp, shipped_model_path(".onnx")], input=pcm, env={"HOME": str(tmp_path)}, stdout=subprocess.PIPE, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def cpp_for_boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_cpp("aarch64-linux-gnu-g++", A53[0])
    libraries = emulated.dependencies() / "onnxruntime" / "capi"
    return build_cpp(libraries, tmp_path_factory.mktemp("cpp_aarch64"), "aarch64-linux-gnu-")


@pytest.mark.slow
@pytest.mark.parametrize("processor", [A53, A76], ids=lambda processor: processor[-1])
def test_cpp_on_a_board(processor: tuple[str, ...], cpp: Path, cpp_for_boards: Path, samples: Int16Array) -> None:
    emulator: list[str | Path] = [*processor, "-L", emulated.ARM64.root()]
    pcm, model = samples[:32000].astype("<i2").tobytes(), shipped_model_path(".onnx")
    label, found = shares(execute([*emulator, cpp_for_boards, model], stdin=pcm))
    here, expected = shares(execute([cpp, model], stdin=pcm))
    assert label == here
    assert found == pytest.approx(expected, abs=0.03)
