"""The installed package on an emulated 64-bit Arm board, against this machine: python -m tests.firmware.aarch64 RECORDING...

A lean arm64 root is unpacked from Debian's packages, no chroot and no kernel; the wheels are those pip would install on such a
board. Both lie in EDGE_SER_ARM64 (default ~/.cache/edge-ser-arm64) and are fetched once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.firmware.targets import A53, A76, ROOT, execute

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CACHE = Path(os.environ.get("EDGE_SER_ARM64") or Path.home() / ".cache" / "edge-ser-arm64")
PROCESSORS = {"Cortex-A53": A53, "Cortex-A76": A76}
BACKENDS = ("onnx", "tflite", "native")
TOOLS = ("qemu-aarch64-static", "aarch64-linux-gnu-gcc", "apt-get", "dpkg-deb")
EXACT = 1e-9
"""Largest difference of a probability in the native backend, whose logits have the same bits."""

_PYTHON = "3.11"  # of Debian 12
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
_SYSTEM = (f"python{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libstdc++6", "libgcc-s1", "zlib1g")
_HEADERS = ("libonnxruntime-dev",)  # of Debian 13, for the C++ example
_SOURCES = "".join(
    f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {suite} main\n"
    for suite in ("bookworm", "trixie")
)
# A Raspberry Pi 4's; without it, libraries under the emulator read this machine's and take it for what they run on.
_CPUINFO = "".join(
    f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for i in range(2)
)

_PROBE = """
import json, sys, edge_ser
from edge_ser import EmotionRecognizer
print(edge_ser.__file__)
for backend in sys.argv[1].split(","):
    recognizer = EmotionRecognizer(backend=backend)
    for recording in sys.argv[2:]:
        answer = recognizer.predict(recording)
        print(json.dumps([backend, recording, answer.label, [float(p) for p in answer.probabilities.values()]]), flush=True)
"""


def _once(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` of the cache, filled if it is not there; never half filled."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            fill(fresh)
            if not folder.is_dir():  # nobody else was faster
                fresh.rename(folder)
    return folder


def _call(*command: str | Path, **environment: str) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=os.environ | environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout.decode()[-3000:]}")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def board_root() -> Path:
    """Return the root folder of an arm64 system with Python, and with ONNX Runtime's C header."""

    def fill(folder: Path) -> None:
        apt = folder / "apt"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (apt / name).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(_SOURCES)
        options = [
            f"Dir::State={apt / 'state'}",
            f"Dir::State::status={apt / 'status'}",
            f"Dir::Cache={apt / 'cache'}",
            f"Dir::Etc::sourcelist={apt / 'sources.list'}",
            "Dir::Etc::sourceparts=-",
            "APT::Architecture=arm64",
            "APT::Architectures::=arm64",
            "APT::Default-Release=bookworm",
            "APT::Sandbox::User=root",
            "APT::Install-Recommends=false",
        ]
        apt_get = ["apt-get", "--quiet", "--yes", *(word for option in options for word in ("-o", option))]
        _call(*apt_get, "update")
        _call(*apt_get, "install", "--download-only", *_SYSTEM)
        # The header's package alone, not the libraries it would pull in.
        _call("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", apt / "cache" / "archives", *apt_get, "download", *_HEADERS)
        for package in sorted((apt / "cache" / "archives").glob("*.deb")):
            _call("dpkg-deb", "--extract", package, folder)
        shutil.rmtree(apt)
        (folder / "proc").mkdir(exist_ok=True)
        (folder / "proc" / "cpuinfo").write_text(_CPUINFO)

    return _once(f"root-{_digest(*_SYSTEM, *_HEADERS, _SOURCES, _CPUINFO)}", fill)


def _pip(target: Path, *arguments: str | Path, **environment: str) -> None:
    _call(sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", target, *arguments, **environment)


def dependencies() -> Path:
    """Return a folder with the wheels that the package and its extra ``tflite`` need on arm64, resolved by pip."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["tflite"]]
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    wheels = ["--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp", *platforms]
    return _once(f"wheels-{_digest(*required, *_PLATFORMS)}", lambda folder: _pip(folder, *wheels, *required))


def install(folder: Path) -> None:
    """Install the package itself into ``folder``, as a wheel made from this source tree, its C library for the board."""
    _pip(folder, "--no-deps", ROOT, CC="aarch64-linux-gnu-gcc")


def answers(processor: Sequence[str], package: Path, backends: Sequence[str], recordings: Sequence[Path]) -> list[Any]:
    """Return [backend, recording, label, probabilities] of each, from the package in ``package`` on an emulated processor."""
    root = board_root()
    environment = {"PYTHONPATH": f"{package}:{dependencies()}", "QEMU_LD_PREFIX": str(root), "OMP_NUM_THREADS": "1"}
    words: list[str | Path] = ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *processor]
    # -P: this source tree, where the command runs, is not what was installed.
    words += [root / "usr" / "bin" / f"python{_PYTHON}", "-P", "-c", _PROBE, ",".join(backends), *recordings]
    where, *lines = execute(words).splitlines()
    if not where.startswith(f"{package}/"):
        raise RuntimeError(f"the board imported {where}; expected the package in {package}")
    return [json.loads(line) for line in lines]


def differences(package: Path, recordings: Sequence[Path], say: Callable[[str], None]) -> list[str]:
    """Answer on every processor and engine; return what is not as on this machine: a label, or any number in the C library."""
    from edge_ser import EmotionRecognizer

    here = {b: EmotionRecognizer(backend=b) for b in BACKENDS}
    expected = {(b, str(r)): here[b].predict(r) for b in BACKENDS for r in recordings}
    wrong = []
    for name, processor in PROCESSORS.items():
        found = answers(processor, package, BACKENDS, recordings)
        if [(backend, recording) for backend, recording, *_ in found] != list(expected):
            raise RuntimeError(f"{name}: {len(found)} answers, or others than asked for; expected {len(expected)}")
        for backend, recording, label, probabilities in found:
            other = expected[backend, recording]
            apart = max(abs(p - q) for p, q in zip(probabilities, other.probabilities.values(), strict=True))
            line = f"{name:12}{backend:8}{Path(recording).name:32}{label:10}{other.label:10}{apart:.1e}"
            say(line)
            if label != other.label or (backend == "native" and apart > EXACT):
                wrong.append(line)
    return wrong


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(f"{'processor':12}{'engine':8}{'recording':32}{'there':10}{'here':10}apart")
    with tempfile.TemporaryDirectory() as scratch:
        install(Path(scratch))
        differing = differences(Path(scratch), [Path(x).resolve() for x in sys.argv[1:]], lambda line: print(line, flush=True))
    print(f"{len(differing)} answers differ")
    sys.exit(bool(differing))
